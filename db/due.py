"""What is due, without claiming it: rows without a time get one, and workers learn when to look."""

from collections.abc import Sequence

import asyncpg

from db.errors import DATABASE_DOWN
from db.narrowing import SetAside, give_up_rows, narrow
from db.states import IS_SCHEDULED, IS_UNSCHEDULED
from mail.priority import NORMAL, known_priority

# Only its own index has the order of id, not one that an application has on next_retry_at.
UNSCHEDULED_SQL = f"""
SELECT id FROM mail_outbox WHERE {IS_UNSCHEDULED} AND id <> ALL($2::bigint[])
ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
GIVE_DUE_TIME_SQL = f"""
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY(ARRAY({UNSCHEDULED_SQL}))
"""
GIVE_THESE_DUE_TIME_SQL = f"""
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY($1::bigint[]) AND {IS_UNSCHEDULED}
RETURNING id
"""
# A tenth of a second: a million in one statement would run into its time limit, every time.
DUE_TIME_BATCH = 10_000


async def give_due_time(pool: asyncpg.Pool, set_aside: SetAside | None = None) -> bool:
    """Make pending rows that were inserted without a time due now, so that the due index has them.

    Returns:
        Whether there were any.
    """
    aside = set_aside or SetAside()
    given = await _give_due_time(pool, aside)
    any_given = given > 0
    while given == DUE_TIME_BATCH:
        given = await _give_due_time(pool, aside)
    return any_given


async def _give_due_time(pool: asyncpg.Pool, set_aside: SetAside) -> int:
    aside = set_aside.ids()
    try:
        return int((await pool.execute(GIVE_DUE_TIME_SQL, DUE_TIME_BATCH, aside)).split()[-1])
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError:
        rows = await pool.fetch(UNSCHEDULED_SQL, DUE_TIME_BATCH, aside)
        ids = [row['id'] for row in rows]
        found = await narrow(lambda part: pool.fetch(GIVE_THESE_DUE_TIME_SQL, part), ids)
        await give_up_rows(pool, found, set_aside)
        return len(found.done)


NEXT_DUE_SQL = f"""
SELECT EXTRACT(EPOCH FROM min(next_retry_at) - now())::float8
FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
CROSS JOIN LATERAL (
    SELECT next_retry_at FROM mail_outbox
    WHERE {IS_SCHEDULED} AND (priority, next_retry_at)
          BETWEEN (p.priority, now()) AND (p.priority, now() + $1 * interval '1 second')
    ORDER BY priority, next_retry_at LIMIT 1 -- as pairs: see CLAIM_DUE_SQL
) AS d
"""


async def next_due_in_s(pool: asyncpg.Pool, within_s: float) -> float | None:
    """Return in how many seconds the next e-mail comes due, None when none does within the time."""
    due_in_s: float | None = await pool.fetchval(NEXT_DUE_SQL, within_s)
    return due_in_s


PRIORITIES_SQL = 'SELECT id, priority FROM mail_outbox WHERE id = ANY($1::bigint[])'


async def priorities(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Return the priority of each of these e-mails; of one that is not there, the ordinary one.

    It is asked before they are claimed: what waits for a place cannot hold a lease meanwhile.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    known = {
        row['id']: known_priority(row['priority'])
        for row in await pool.fetch(PRIORITIES_SQL, list(email_ids))
    }
    return [known.get(email_id, NORMAL) for email_id in email_ids]
