"""Attachments in MongoDB: how they are fetched, and deleted when no row names them.

How they are stored is in mail_outbox/attachments.py. The driver is slow to import:
who may do without a MongoDB imports this when it is needed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo.errors import OperationFailure, PyMongoError

from mail_outbox.attachments import COLLECTION, STORED_BY
from mail_outbox.envelope import Attachment, ContentUnavailableError

Mongo = AsyncIOMotorDatabase[dict[str, Any]]


def open_mongo(url: str, database: str, timeout_s: float) -> Mongo:
    """Return a database handle; nothing connects until it is used.

    No call waits longer than timeout_s.
    """
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        url,
        serverSelectionTimeoutMS=int(timeout_s * 1000),
        timeoutMS=int(timeout_s * 1000),
        tz_aware=True,
        # A thread less that wakes twice a second: most workers hardly ever read an attachment.
        serverMonitoringMode='poll',
    )
    return client[database]


NO_MONGO = 'MongoDB: MONGODB_URL is not set, and the attachments are there (content_id)'
UNKNOWN_BYTES = 16 * 1024 * 1024  # what one document may have, where the server cannot tell


async def attachment_sizes(mongo: Mongo | None, content_ids: Sequence[str]) -> list[int]:
    """Return how many bytes the attachments of several e-mails take, without reading them.

    It is 0 where there is no content.

    Raises:
        ContentUnavailableError: MongoDB does not answer, or there is none.
    """
    if mongo is None:
        raise ContentUnavailableError(NO_MONGO)
    named = {'$match': {'content_id': {'$in': list(set(content_ids))}}}
    summed = {'$group': {'_id': '$content_id', 'size_bytes': {'$sum': {'$bsonSize': '$$ROOT'}}}}
    try:
        sizes = {
            found['_id']: found['size_bytes']
            async for found in mongo[COLLECTION].aggregate([named, summed])
        }
    except OperationFailure as error:
        if error.timeout:
            raise ContentUnavailableError(f'MongoDB: {error}') from error
        return [UNKNOWN_BYTES] * len(content_ids)  # a server of another make, without $bsonSize
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return [sizes.get(content_id, 0) for content_id in content_ids]


async def fetch_attachments(
    mongo: Mongo | None, content_ids: Sequence[str]
) -> list[list[Attachment]]:
    """Fetch the attachments of several e-mails, in their order.

    The list is empty for content that does not exist.

    Raises:
        ContentUnavailableError: MongoDB does not answer, or there is none.
    """
    if mongo is None:
        raise ContentUnavailableError(NO_MONGO)
    found: dict[str, list[Attachment]] = {content_id: [] for content_id in content_ids}
    try:
        cursor = mongo[COLLECTION].find({'content_id': {'$in': list(found)}}).sort('position', 1)
        async for document in cursor:
            found[document['content_id']].append(_attachment_from(document))
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return [found[content_id] for content_id in content_ids]


def _attachment_from(document: Mapping[str, Any]) -> Attachment:
    """Read a document.

    It may be one that store_attachments did not write: render refuses what it cannot send.
    """
    data = document.get('data')
    return Attachment(
        filename=document.get('filename'),
        content_type=document.get('content_type') if isinstance(data, bytes) else 'malformed',
        data=data if isinstance(data, bytes) else b'',
        cid=document.get('cid'),
    )


def _ours(*, is_adopted: bool) -> dict[str, Any]:
    """Return the filter that finds documents of store_attachments among others.

    Versions before did not sign theirs. Where the outbox was there before this program, none of
    those has run.
    """
    signed: dict[str, Any] = {'stored_by': STORED_BY}
    unsigned = {
        'stored_by': {'$exists': False},
        'position': {'$type': 'int'},
        'data': {'$type': 'binData'},
        'filename': {'$type': 'string'},
        'content_type': {'$type': 'string'},
    }
    return signed if is_adopted else {'$or': [signed, unsigned]}


NAMED_CONTENT_SQL = """
SELECT content_id FROM mail_outbox WHERE content_id = ANY($1::text[])
"""
CONTENT_BATCH = 1000


async def delete_content(
    pool: asyncpg.Pool, mongo: Mongo, content_ids: Sequence[str], *, is_adopted: bool
) -> int:
    """Delete attachments that this program stored and no row names: several e-mails may share them.

    Args:
        is_adopted: see db.origins.
    Returns:
        How many documents were deleted.
    Raises:
        ContentUnavailableError: MongoDB does not answer; what is left is swept up by delete_orphans
            later.
    """
    deleted = 0
    for start in range(0, len(content_ids), CONTENT_BATCH):
        some = content_ids[start : start + CONTENT_BATCH]
        named = {row['content_id'] for row in await pool.fetch(NAMED_CONTENT_SQL, some)}
        unnamed = {'content_id': {'$in': [c for c in some if c not in named]}}
        try:
            result = await mongo[COLLECTION].delete_many(unnamed | _ours(is_adopted=is_adopted))
        except PyMongoError as error:
            raise ContentUnavailableError(f'MongoDB: {error}') from error
        deleted += result.deleted_count
    return deleted


async def delete_orphans(
    pool: asyncpg.Pool, mongo: Mongo, older_than: timedelta, *, is_adopted: bool
) -> int:
    """Delete attachments that no row names.

    They were stored long enough ago that their row is not still on its way.

    Args:
        is_adopted: see db.origins.
    Returns:
        How many documents were deleted.
    Raises:
        ContentUnavailableError: MongoDB does not answer.
    """
    old = {'created_at': {'$lt': datetime.now(UTC) - older_than}, 'content_id': {'$type': 'string'}}
    try:
        content_ids = await mongo[COLLECTION].distinct(
            'content_id', old | _ours(is_adopted=is_adopted)
        )
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    # Of a field that holds a list, MongoDB tells the items, whatever they are.
    texts = [content_id for content_id in content_ids if isinstance(content_id, str)]
    return await delete_content(pool, mongo, texts, is_adopted=is_adopted)


async def close_mongo(mongo: Mongo) -> None:
    """Close the client; its close() blocks until its threads end."""
    await asyncio.to_thread(mongo.client.close)
