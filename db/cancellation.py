"""Take e-mails back that wait: the operators' purge of the outbox."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db.narrowing import fetch_narrowly
from db.selection import OWN_1, OWN_2, OWN_3, SELECTED, Selection
from db.states import CANCELLABLE, IS_FINAL, sql_list

CANCEL_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cancellable:
    """What a cancellation would change, at the moment it was counted."""

    emails: int
    final: int  # without a further attempt, counted whether they would be cancelled or not
    created_until: datetime


# Never what is being sent, and what has ended only when it is asked for: nothing would send it.
_WAITING = f'status IN ({sql_list(CANCELLABLE)}) AND {SELECTED}'

COUNT_CANCELLABLE_SQL = f"""
SELECT count(*) FILTER (WHERE NOT is_final OR {OWN_2}) AS emails,
    count(*) FILTER (WHERE is_final) AS final,
    now() - {OWN_1} * interval '1 second' AS created_until
FROM (
    SELECT {IS_FINAL} AS is_final FROM mail_outbox
    WHERE {_WAITING} AND created_at <= now() - {OWN_1} * interval '1 second'
) AS waiting
"""


async def count_cancellable(
    pool: asyncpg.Pool, selection: Selection, *, older_than_s: float, with_final: bool
) -> Cancellable:
    """Count what cancel would change.

    Args:
        selection: Its statuses are of CANCELLABLE.
        older_than_s: Only e-mails created at least this long ago.
        with_final: Also failed and uncertain e-mails that have no further attempt.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    (row,) = await pool.fetch(
        COUNT_CANCELLABLE_SQL, *selection.parameters, older_than_s, with_final
    )
    return Cancellable(row['emails'], row['final'], row['created_until'])


CANCEL_IDS_SQL = f"""
UPDATE mail_outbox SET status = 'cancelled', next_retry_at = NULL, updated_at = now()
WHERE id = ANY($1::bigint[]) AND status IN ({sql_list(CANCELLABLE)})
RETURNING id
"""


async def cancel_these(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Cancel those of these e-mails that wait, or have failed. Returns the changed ids.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    return await fetch_narrowly(pool, CANCEL_IDS_SQL, email_ids)


CANCEL_SQL = f"""
UPDATE mail_outbox SET status = 'cancelled', next_retry_at = NULL, updated_at = now()
WHERE id IN (
    SELECT id FROM mail_outbox WHERE {_WAITING} AND created_at <= {OWN_1}
      AND ({OWN_2} OR NOT {IS_FINAL})
    LIMIT {OWN_3} FOR UPDATE SKIP LOCKED
)
RETURNING id
"""


async def cancel(
    pool: asyncpg.Pool,
    selection: Selection,
    *,
    created_until: datetime,
    with_final: bool,
    go_on: Callable[[int], bool],
) -> tuple[list[int], bool]:
    """Cancel e-mails in batches, each committed by itself.

    A row that somebody is claiming or recording at this moment is skipped. created_until, from
    count_cancellable, keeps this from running after an application that goes on queueing.

    Args:
        go_on: Told how many are cancelled, before each batch; False ends it.
    Returns:
        The ids that were cancelled, and whether that is everything.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; earlier batches stay
        cancelled.
    """
    cancelled: list[int] = []
    while go_on(len(cancelled)):
        ids: Sequence[asyncpg.Record] = await pool.fetch(
            CANCEL_SQL, *selection.parameters, created_until, with_final, CANCEL_BATCH
        )
        cancelled += [row['id'] for row in ids]
        if not ids:
            return cancelled, True
    return cancelled, False
