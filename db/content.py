"""Content kept outside the outbox: templates in PostgreSQL, attachments in MongoDB.

One document per attachment in the collection `email_attachments`: {content_id, position, filename, content_type, cid,
data, created_at}. An outbox row names them all by its content_id. Attachments are written before the row that names
them, so a committed e-mail always has its attachments; what no row names is swept up by the cleanup.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
from bson.binary import Binary
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.errors import DocumentTooLarge, PyMongoError

from mail.envelope import Attachment, Content, Email, InvalidEmailError, Template

COLLECTION = 'email_attachments'

Mongo = AsyncIOMotorDatabase[dict[str, Any]]


class ContentUnavailableError(Exception):
    """MongoDB does not answer: nothing is wrong with the e-mail."""


async def store_attachments(mongo: Mongo, attachments: Sequence[Attachment]) -> str:
    """Store the attachments of one e-mail before its row is inserted.

    Returns:
        The content_id to give to queue_email.
    Raises:
        InvalidEmailError: one attachment is larger than MongoDB takes (16 MiB).
        ContentUnavailableError: MongoDB does not answer.
    """
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


TEMPLATE_SQL = """
SELECT subject, body_text, body_html FROM email_templates WHERE id::text = $1
"""


async def fetch_content(pool: asyncpg.Pool, mongo: Mongo, email: Email) -> Content:
    """Fetch what the e-mail's row only refers to.

    Raises:
        InvalidEmailError: the template or the attachments do not exist.
        ContentUnavailableError: MongoDB does not answer.
        asyncpg.PostgresError, OSError: PostgreSQL does not answer.
    """
    template = None
    if email.template_id is not None:
        row = await pool.fetchrow(TEMPLATE_SQL, email.template_id)
        if row is None:
            raise InvalidEmailError(f'template {email.template_id} does not exist in email_templates')
        template = Template(**row)
    attachments: list[Attachment] = []
    if email.content_id is not None:
        attachments = await _fetch_attachments(mongo, email.content_id)
    return Content(template, attachments)


async def _fetch_attachments(mongo: Mongo, content_id: str) -> list[Attachment]:
    try:
        documents = await mongo[COLLECTION].find({'content_id': content_id}).sort('position', 1).to_list(None)
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    if not documents:
        raise InvalidEmailError(f'content {content_id} has no attachments in MongoDB')
    try:
        return [Attachment(d['filename'], d['content_type'], bytes(d['data']), d.get('cid')) for d in documents]
    except (KeyError, TypeError) as error:
        raise InvalidEmailError(f'content {content_id} in MongoDB is malformed: {error!r}') from error


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
