"""E-mails as the application that queued them sees them, and what it may still change."""

from datetime import datetime
from typing import NamedTuple

import asyncpg

from db.times import Row, rows_of
from mail_outbox.wake import notify

# NULL stands for all. As text: an adopted table's ids may be of any type.
_OWN = (
    'AND ($2::text IS NULL OR organization_id::text = $2) AND ($3::text IS NULL OR queued_by = $3)'
)

# Who may write to the table may write anything, and a client may read slowly: of each field, as
# much as can be used of it.
MOST_CHARS, MOST_CHARS_LISTED, MOST_BODY_CHARS = 32_000, 4000, 1_000_000
MOST_TAG_BYTES = 100_000


class Whose(NamedTuple):
    """Whose e-mails are looked for: those that fit both; None fits all."""

    organization_id: str | None = None
    queued_by: str | None = None  # see actions.tokens.token_named


def _shown(most_chars: int) -> str:
    texts = ', '.join(
        f'left({column}, {most_chars}) AS {column}'
        for column in ('recipient', 'subject', 'from_address', 'cc', 'bcc', 'reply_to')
    )
    return f"""
    id, {texts}, email_type::text AS email_type, status, priority, dead_reason,
    next_retry_at, expires_at, sent_at, created_at, message_id,
    CASE WHEN octet_length(tags::text) <= {MOST_TAG_BYTES} THEN tags END AS tags,
    organization_id::text AS organization_id,
    status = 'pending' AND COALESCE(attempts, 0) = 0 AND next_retry_at > now() AS is_scheduled
"""


READ_QUEUED_SQL = f"""
SELECT {_shown(MOST_CHARS)}, left(body_text, {MOST_BODY_CHARS}) AS body_text,
    left(body_html, {MOST_BODY_CHARS}) AS body_html
FROM mail_outbox WHERE id = $1 {_OWN}
"""


async def read_queued(pool: asyncpg.Pool, email_id: int, whose: Whose) -> Row | None:
    """Return one e-mail; None when there is none, or it is somebody else's.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    rows = rows_of(await pool.fetch(READ_QUEUED_SQL, email_id, *whose))
    return rows[0] if rows else None


OWN_STATUS_SQL = f"""
SELECT COALESCE(status, '') FROM mail_outbox WHERE id = $1 {_OWN}
"""


async def own_status(pool: asyncpg.Pool, email_id: int, whose: Whose) -> str | None:
    """Return the state of an e-mail; None when there is none, or it is somebody else's."""
    status: str | None = await pool.fetchval(OWN_STATUS_SQL, email_id, *whose)
    return status


_LISTED = _shown(MOST_CHARS_LISTED)
LIST_OLDER_SQL = f"""
SELECT {_LISTED} FROM mail_outbox WHERE ($1::bigint IS NULL OR id < $1) {_OWN}
ORDER BY id DESC LIMIT $4
"""
LIST_NEWER_SQL = f"""
SELECT {_LISTED} FROM mail_outbox WHERE id > $1 {_OWN} ORDER BY id LIMIT $4
"""


async def list_queued(
    pool: asyncpg.Pool,
    whose: Whose,
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
        found = rows_of(await pool.fetch(LIST_NEWER_SQL, newer_than, *whose, limit + 1))
        return found[:limit][::-1], len(found) > limit
    found = rows_of(await pool.fetch(LIST_OLDER_SQL, older_than, *whose, limit + 1))
    return found[:limit], len(found) > limit


# Its life keeps its length: what is moved into the past is due now, and not over. A worker that
# claims the row meanwhile comes first: then it is no longer pending.
_MOVED_TO = 'GREATEST($4::timestamptz, now())'
RESCHEDULE_SQL = f"""
UPDATE mail_outbox SET next_retry_at = {_MOVED_TO}, updated_at = now(),
    expires_at = CASE WHEN isfinite(expires_at) AND isfinite(COALESCE(next_retry_at, now()))
        THEN expires_at + ({_MOVED_TO} - COALESCE(next_retry_at, now())) ELSE expires_at END
WHERE id = $1 {_OWN} AND status = 'pending' AND COALESCE(attempts, 0) = 0
RETURNING next_retry_at <= now() AS is_due
"""


async def reschedule(pool: asyncpg.Pool, email_id: int, whose: Whose, moment: datetime) -> bool:
    """Have an e-mail that was not tried yet sent at another time. Returns whether it could be.

    Workers are woken for what is due.
    """
    moved = await pool.fetch(RESCHEDULE_SQL, email_id, *whose, moment)
    if moved and moved[0]['is_due']:
        await notify(pool)
    return bool(moved)
