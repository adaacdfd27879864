"""E-mails as the application that queued them sees them, and what it may still change."""

from datetime import datetime

import asyncpg

from db.times import Row, rows_of

# An organisation's own; NULL stands for all. As text: an adopted table's ids may be of any type.
_OWN = 'AND ($2::text IS NULL OR organization_id::text = $2)'

_SHOWN = """
    id, recipient, subject, email_type::text AS email_type, status, priority, dead_reason,
    next_retry_at, expires_at, sent_at, created_at, message_id,
    from_address, cc, bcc, reply_to, tags,
    organization_id::text AS organization_id,
    status = 'pending' AND COALESCE(attempts, 0) = 0 AND next_retry_at > now() AS is_scheduled
"""

READ_QUEUED_SQL = f"""
SELECT {_SHOWN}, body_text, body_html FROM mail_outbox WHERE id = $1 {_OWN}
"""


async def read_queued(pool: asyncpg.Pool, email_id: int, organization_id: str | None) -> Row | None:
    """Return one e-mail; None when there is none, or it is another organisation's.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    rows = rows_of(await pool.fetch(READ_QUEUED_SQL, email_id, organization_id))
    return rows[0] if rows else None


LIST_OLDER_SQL = f"""
SELECT {_SHOWN} FROM mail_outbox WHERE ($1::bigint IS NULL OR id < $1) {_OWN}
ORDER BY id DESC LIMIT $3
"""
LIST_NEWER_SQL = f"""
SELECT {_SHOWN} FROM mail_outbox WHERE id > $1 {_OWN} ORDER BY id LIMIT $3
"""


async def list_queued(
    pool: asyncpg.Pool,
    organization_id: str | None,
    *,
    limit: int,
    older_than: int | None = None,
    newer_than: int | None = None,
) -> tuple[list[Row], bool]:
    """Return e-mails without their bodies, the newest first, and whether there are more.

    Args:
        older_than: An id; the e-mails that were queued before it.
        newer_than: An id; those queued right after it. One of both.
    """
    if newer_than is not None:
        found = rows_of(await pool.fetch(LIST_NEWER_SQL, newer_than, organization_id, limit + 1))
        return found[:limit][::-1], len(found) > limit
    found = rows_of(await pool.fetch(LIST_OLDER_SQL, older_than, organization_id, limit + 1))
    return found[:limit], len(found) > limit


# Its life keeps its length. A worker that claims the row meanwhile comes first: then it is no
# longer pending.
RESCHEDULE_SQL = f"""
UPDATE mail_outbox SET next_retry_at = $3::timestamptz, updated_at = now(),
    expires_at = expires_at + ($3::timestamptz - COALESCE(next_retry_at, now()))
WHERE id = $1 {_OWN} AND status = 'pending' AND COALESCE(attempts, 0) = 0
RETURNING id
"""


async def reschedule(
    pool: asyncpg.Pool, email_id: int, organization_id: str | None, moment: datetime
) -> bool:
    """Have an e-mail that was not tried yet sent at another time. Returns whether it could be."""
    return bool(await pool.fetch(RESCHEDULE_SQL, email_id, organization_id, moment))
