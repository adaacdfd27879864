"""Take e-mails back that wait: the operators' purge of the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

CANCEL_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cancellable:
    """What a cancellation would change, at the moment it was counted."""

    emails: int
    dead: int  # failed ones without a further attempt, counted whether they would be cancelled or not
    created_until: datetime


COUNT_CANCELLABLE_SQL = """
SELECT count(*) FILTER (WHERE NOT dead OR $3) AS emails, count(*) FILTER (WHERE dead) AS dead,
    now() - $2 * interval '1 second' AS created_until
FROM (
    SELECT status = 'failed' AND (next_retry_at IS NULL OR attempts >= max_attempts) AS dead FROM outbound_emails
    WHERE status = $1 AND status IN ('pending', 'failed') AND created_at <= now() - $2 * interval '1 second'
) AS waiting
"""


async def count_cancellable(pool: asyncpg.Pool, status: str, *, older_than_s: float, with_dead: bool) -> Cancellable:
    """Count what cancel would change.

    Args:
        status: 'pending' or 'failed'.
        older_than_s: Only e-mails created at least this long ago.
        with_dead: Also failed e-mails that have no further attempt.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    (row,) = await pool.fetch(COUNT_CANCELLABLE_SQL, status, older_than_s, with_dead)
    return Cancellable(row['emails'], row['dead'], row['created_until'])


# Never what is being sent, and a dead e-mail only when it is asked for: nothing would send it.
CANCEL_SQL = """
UPDATE outbound_emails SET status = 'cancelled', next_retry_at = NULL, updated_at = now()
WHERE id IN (
    SELECT id FROM outbound_emails
    WHERE status = $1 AND status IN ('pending', 'failed') AND created_at <= $2
      AND ($3 OR status = 'pending' OR (next_retry_at IS NOT NULL AND attempts < max_attempts))
    LIMIT $4 FOR UPDATE SKIP LOCKED
)
RETURNING id
"""


async def cancel(pool: asyncpg.Pool, status: str, *, created_until: datetime, with_dead: bool) -> int:
    """Cancel e-mails in batches, each committed by itself. Returns how many were cancelled.

    A row that somebody is claiming or recording at this moment is skipped. created_until, from count_cancellable, keeps
    this from running after an application that goes on queueing.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; earlier batches stay cancelled.
    """
    cancelled = 0
    while True:
        ids: Sequence[asyncpg.Record] = await pool.fetch(CANCEL_SQL, status, created_until, with_dead, CANCEL_BATCH)
        cancelled += len(ids)
        if not ids:
            return cancelled
