"""What recipients do themselves, by the link in an e-mail: off the mail of a type, and on it again.

Each statement writes the audit with what it changes, and neither where it changes nothing: a click
that comes twice is one entry.
"""

from enum import StrEnum
from typing import Any

import asyncpg

from mail_outbox.suppression import erased_key

ACTOR = 'recipient'  # in the audit, which names no more of who clicked


class Wish(StrEnum):
    """What a type's mail is to somebody, by its table."""

    WANTED = 'wanted'
    UNWANTED = 'unwanted'  # the recipient said so
    STOPPED = 'stopped'  # somebody else did, for reasons of his


WISH_SQL = """
SELECT bool_or(source <> 'unsubscribe') AS by_others FROM email_type_suppressions
WHERE address = ANY($1::text[]) AND email_type = $2 AND (expires_at IS NULL OR expires_at > now())
"""


async def read_wish(pool: asyncpg.Pool, key: str, email_type: str) -> Wish:
    """Return whether an address gets a type's mail, as far as that is about the type.

    Args:
        key: From db.suppressions.suppression_key.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    by_others: bool | None = await pool.fetchval(WISH_SQL, [key, erased_key(key)], email_type)
    if by_others is None:
        return Wish.WANTED
    return Wish.STOPPED if by_others else Wish.UNWANTED


_AUDIT = """
INSERT INTO mail_audit (actor, origin, action, details, email_ids, finished_at)
SELECT $4, $5, '{action}', $6, ARRAY[$7::bigint], now() FROM changed
RETURNING id
"""
# For good, whatever stood there for a time; what others said for good stays.
UNSUBSCRIBE_SQL = f"""
WITH changed AS (
    INSERT INTO email_type_suppressions AS s (address, email_type, reason, source, created_by)
    SELECT $1, $3, $8, 'unsubscribe', $4
    WHERE NOT EXISTS (
        SELECT FROM email_type_suppressions AS e
        WHERE e.address = $2 AND e.email_type = $3 AND e.expires_at IS NULL)
    ON CONFLICT (address, email_type) DO UPDATE
    SET reason = EXCLUDED.reason, source = EXCLUDED.source, created_by = EXCLUDED.created_by,
        created_at = now(), expires_at = NULL
    WHERE s.expires_at IS NOT NULL
    RETURNING address
)
{_AUDIT.format(action='suppression.add')}"""


async def unsubscribe(
    pool: asyncpg.Pool, key: str, email_type: str, email_id: int, way: str
) -> bool:
    """Take an address off a type's mail. Returns whether it got it before.

    Args:
        email_id: The e-mail whose link it was.
        way: How, for the audit.
    """
    reason = f'unsubscribed by the link of e-mail {email_id}'
    return await _change(pool, UNSUBSCRIBE_SQL, key, email_type, email_id, way, reason)


RESUBSCRIBE_SQL = f"""
WITH gone AS (
    DELETE FROM email_type_suppressions
    WHERE address IN ($1, $2) AND email_type = $3 AND source = 'unsubscribe'
    RETURNING address
), changed AS (SELECT FROM gone LIMIT 1)
{_AUDIT.format(action='suppression.remove')}"""


async def resubscribe(
    pool: asyncpg.Pool, key: str, email_type: str, email_id: int, way: str
) -> bool:
    """Take back what unsubscribe did, and nothing that others decided.

    Returns:
        Whether there was something to take back.
    """
    return await _change(pool, RESUBSCRIBE_SQL, key, email_type, email_id, way)


async def _change(
    pool: asyncpg.Pool, sql: str, key: str, email_type: str, email_id: int, way: str, *more: Any
) -> bool:
    details = {'name': key, 'kind': email_type, 'at': 'the link of an e-mail'}
    values = (key, erased_key(key), email_type, ACTOR, way, details, email_id, *more)
    return await pool.fetchval(sql, *values) is not None
