"""Attachments are stored in MongoDB before the row that names them is inserted.

One document per attachment in the collection `email_attachments`: {content_id, position, filename,
content_type, cid, data, created_at, stored_by}. An outbox row names them all by its content_id, so
a committed e-mail always has its attachments; what no row names is deleted by the cleanup.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mail_outbox.envelope import (
    MAX_MESSAGE_BYTES,
    Attachment,
    ContentUnavailableError,
    InvalidEmailError,
)

COLLECTION = 'email_attachments'
STORED_BY = 'arq-mail-worker'


async def store_attachments(
    mongo: Any, attachments: Sequence[Attachment], *, max_bytes: int = MAX_MESSAGE_BYTES
) -> str:
    """Store the attachments of one e-mail before its row is inserted.

    Args:
        mongo: A motor.motor_asyncio.AsyncIOMotorDatabase.
        max_bytes: The most that workers send as one message: their EMAIL_MAX_BYTES, if that was
            changed.
    Returns:
        The content_id to give to queue_email.
    Raises:
        InvalidEmailError: one attachment is larger than MongoDB takes (16 MiB), all together are
            more than a message may have, or a name, content type or Content-ID cannot be sent;
            nothing was stored.
        ContentUnavailableError: MongoDB does not answer.
    """
    # Applications without attachments have no MongoDB, and no driver.
    from pymongo.errors import DocumentTooLarge, PyMongoError  # noqa: PLC0415

    from mail_outbox.attachment_parts import check_attachments  # noqa: PLC0415

    check_attachments(attachments, max_bytes)
    content_id = os.urandom(16).hex()
    try:
        await mongo[COLLECTION].create_index('content_id')
        await mongo[COLLECTION].insert_many(_documents(content_id, attachments))
    except DocumentTooLarge as error:
        raise InvalidEmailError('attachments: one is larger than 16 MiB') from error
    except PyMongoError as error:
        raise ContentUnavailableError(f'MongoDB: {error}') from error
    return content_id


def _documents(content_id: str, attachments: Sequence[Attachment]) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    return [
        {
            'content_id': content_id,
            'position': position,
            'filename': attachment.filename,
            'content_type': attachment.content_type,
            'cid': attachment.cid,
            'data': bytes(attachment.data),
            'created_at': now,
            'stored_by': STORED_BY,
        }
        for position, attachment in enumerate(attachments)
    ]
