"""Rows that another system's messages were about: what they become here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg


@dataclass(frozen=True, slots=True)
class Wish:
    """A message wanted this e-mail sent: not before a time, and for a retry also when it had ended."""

    email_id: int
    retry: bool = False
    not_before: datetime | None = None


def merged(wishes: Collection[Wish]) -> list[Wish]:
    """Return one wish per e-mail: the earliest time, a retry if any was one."""
    by_id: dict[int, Wish] = {}
    for wish in wishes:
        other = by_id.get(wish.email_id, wish)
        times = (wish.not_before, other.not_before)
        earliest = None if None in times else min(time for time in times if time)
        by_id[wish.email_id] = Wish(wish.email_id, wish.retry or other.retry, earliest)
    return list(by_id.values())


# The same condition decides what is changed and what a preview says would be. An uncertain e-mail may have been
# delivered by the worker that had the message, so an operator decides about it.
_WILL_BE_DUE = (
    """(e.status::text IN ('pending', 'failed') OR (a.retry AND e.status::text IN ('expired', 'cancelled')))"""
)

PREVIEW_SQL = f"""
WITH asked AS (SELECT * FROM unnest($1::bigint[], $2::boolean[]) AS a (id, retry))
SELECT a.id, e.status::text AS status, COALESCE({_WILL_BE_DUE}, false) AS due
FROM asked AS a LEFT JOIN outbox AS e ON e.id = a.id
"""  # noqa: S608 - constants of this module


async def preview(conn: asyncpg.Connection | asyncpg.Pool, wishes: Sequence[Wish]) -> dict[int, str]:
    """Say what grant would do, also before the table is adopted.

    Returns:
        For each e-mail: 'due', 'missing', or the state it stays in: sent, cancelled ...
    """
    rows = await conn.fetch(PREVIEW_SQL, [w.email_id for w in wishes], [w.retry for w in wishes])
    return {row['id']: _outcome(row) for row in rows}


GRANT_SQL = f"""
WITH asked AS (
    SELECT * FROM unnest($1::bigint[], $2::boolean[], $3::timestamptz[]) AS a (id, retry, not_before)
), found AS (
    SELECT e.id, e.status, {_WILL_BE_DUE} AS due
    FROM outbox AS e JOIN asked AS a ON a.id = e.id ORDER BY e.id FOR UPDATE OF e
), granted AS (
    UPDATE outbox AS e
    SET status = 'pending', dead_reason = NULL,
        next_retry_at = CASE WHEN f.status = 'pending' THEN LEAST(e.next_retry_at, COALESCE(a.not_before, now()))
                             ELSE COALESCE(a.not_before, now()) END,
        max_attempts = CASE WHEN f.status = 'pending' THEN e.max_attempts
                            ELSE GREATEST(e.max_attempts, e.attempts + 1) END,
        expires_at = CASE WHEN a.retry AND e.expires_at <= now() THEN now() + $4 * interval '1 hour'
                          ELSE e.expires_at END,
        updated_at = now()
    FROM found AS f JOIN asked AS a ON a.id = f.id
    WHERE e.id = f.id AND f.due
)
SELECT a.id, f.status::text AS status, COALESCE(f.due, false) AS due
FROM asked AS a LEFT JOIN found AS f ON f.id = a.id
"""  # noqa: S608 - constants of this module


async def grant(pool: asyncpg.Pool, wishes: Sequence[Wish], *, expiry_hours: float) -> dict[int, str]:
    """Make e-mails due that a message wanted sent, in one statement. Doing it twice does no harm.

    Args:
        wishes: At most one per e-mail, see merged.
        expiry_hours: The new life of what had expired and is to be retried.
    Returns:
        As preview.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was changed.
    """
    columns = [w.email_id for w in wishes], [w.retry for w in wishes], [w.not_before for w in wishes]
    rows = await pool.fetch(GRANT_SQL, *columns, expiry_hours)
    return {row['id']: _outcome(row) for row in rows}


def _outcome(row: asyncpg.Record) -> str:
    if row['due']:
        return 'due'
    status: str | None = row['status']
    return status or 'missing'


STATUSES_SQL = 'SELECT status::text AS status, count(*) AS emails FROM outbox GROUP BY 1 ORDER BY 1'


async def count_statuses(conn: asyncpg.Connection) -> dict[str, int] | None:
    """Count a table's e-mails by status, also before it is adopted; None when there is no such table."""
    if await conn.fetchval("SELECT to_regclass('outbound_emails')") is None:
        return None
    return {str(row['status']): row['emails'] for row in await conn.fetch(STATUSES_SQL)}
