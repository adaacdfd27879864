"""Content kept outside the outbox: templates in PostgreSQL, attachments in MongoDB.

One document per attachment in the collection `email_attachments`: {content_id, position, filename, content_type, cid,
data, created_at}. An outbox row names them all by its content_id. Attachments are written before the row that names
them, so a committed e-mail always has its attachments; what no row names is swept up by the cleanup.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
from bson.binary import Binary
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.errors import DocumentTooLarge, PyMongoError

from mail.envelope import MAX_MESSAGE_BYTES, Attachment, InvalidEmailError, Template
from mail.mime import check_attachment

COLLECTION = 'email_attachments'

Mongo = AsyncIOMotorDatabase[dict[str, Any]]


class ContentUnavailableError(Exception):
    """What holds the content does not answer: nothing is wrong with the e-mail."""


async def store_attachments(
    mongo: Mongo, attachments: Sequence[Attachment], *, max_bytes: int = MAX_MESSAGE_BYTES
) -> str:
    """Store the attachments of one e-mail before its row is inserted.

    Args:
        max_bytes: The most that workers send as one message: their EMAIL_MAX_BYTES, if that was changed.
    Returns:
        The content_id to give to queue_email.
    Raises:
        InvalidEmailError: one attachment is larger than MongoDB takes (16 MiB), all together are more than a message
            may have, or a name, content type or Content-ID cannot be sent; nothing was stored.
        ContentUnavailableError: MongoDB does not answer.
    """
    for attachment in attachments:
        check_attachment(attachment)
    size_bytes = sum(4 * len(attachment.data) // 3 for attachment in attachments)
    if size_bytes > max_bytes:
        raise InvalidEmailError(f'attachments: {size_bytes} bytes in base64, at most {max_bytes} are allowed')
    content_id = uuid4().hex
    now = datetime.now(UTC)
    documents = [
        {
            'content_id': content_id,
            'position': position,
            'filename': attachment.filename,
            'content_type': attachment.content_type,
            'cid': attachment.cid,
            'data': Binary(attachment.data),
            'created_at': now,
        }
        for position, attachment in enumerate(attachments)
    ]
    try:
        await mongo[COLLECTION].create_index('content_id')
        await mongo[COLLECTION].insert_many(documents)
    except DocumentTooLarge as error:
        raise InvalidEmailError('attachments: one is larger than 16 MiB') from error
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return content_id


TEMPLATES_SQL = """
SELECT id::text, subject, body_text, body_html FROM email_templates WHERE id::text = ANY($1::text[])
"""


async def fetch_templates(pool: asyncpg.Pool, template_ids: Sequence[str]) -> list[Template | None]:
    """Fetch templates; None for each that does not exist.

    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    rows = {row['id']: row for row in await pool.fetch(TEMPLATES_SQL, list(set(template_ids)))}
    return [
        Template(row['subject'], row['body_text'], row['body_html']) if (row := rows.get(template_id)) else None
        for template_id in template_ids
    ]


async def fetch_attachments(mongo: Mongo, content_ids: Sequence[str]) -> list[list[Attachment]]:
    """Fetch the attachments of several e-mails, in their order; an empty list for content that does not exist.

    Raises:
        ContentUnavailableError: MongoDB does not answer.
    """
    found: dict[str, list[Attachment]] = {content_id: [] for content_id in content_ids}
    try:
        cursor = mongo[COLLECTION].find({'content_id': {'$in': list(found)}}).sort('position', 1)
        async for document in cursor:
            found[document['content_id']].append(_attachment_from(document))
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return [found[content_id] for content_id in content_ids]


def _attachment_from(document: Mapping[str, Any]) -> Attachment:
    """Read a document; of one that store_attachments did not write, render refuses what it cannot send."""
    data = document.get('data')
    return Attachment(
        filename=document.get('filename'),
        content_type=document.get('content_type') if isinstance(data, bytes) else 'malformed',
        data=data if isinstance(data, bytes) else b'',
        cid=document.get('cid'),
    )


async def delete_content(mongo: Mongo, content_ids: Sequence[str]) -> int:
    """Delete the attachments of e-mails whose rows are gone. Returns how many documents were deleted.

    Raises:
        ContentUnavailableError: MongoDB does not answer; what is left is swept up by delete_orphans later.
    """
    try:
        result = await mongo[COLLECTION].delete_many({'content_id': {'$in': list(content_ids)}})
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return result.deleted_count


NAMED_CONTENT_SQL = """
SELECT content_id FROM outbound_emails WHERE content_id = ANY($1::text[])
"""


async def delete_orphans(pool: asyncpg.Pool, mongo: Mongo, older_than: timedelta) -> int:
    """Delete attachments that no row names, stored long enough ago that their row is not still on its way.

    Returns:
        How many documents were deleted.
    Raises:
        ContentUnavailableError: MongoDB does not answer.
    """
    before = datetime.now(UTC) - older_than
    deleted = 0
    try:
        content_ids = await mongo[COLLECTION].distinct('content_id', {'created_at': {'$lt': before}})
        for start in range(0, len(content_ids), 1000):
            some = content_ids[start : start + 1000]
            named = {row['content_id'] for row in await pool.fetch(NAMED_CONTENT_SQL, some)}
            deleted += await delete_content(mongo, [c for c in some if c not in named])
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return deleted


async def close_mongo(mongo: Mongo) -> None:
    """Close the client; its close() blocks until its threads end."""
    await asyncio.to_thread(mongo.client.close)
