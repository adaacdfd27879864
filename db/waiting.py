"""What is not finished, counted by what becomes of it.

Part by part, a part being a partial index: so what is sent is never read. Of a part that has more
rows than are counted for a look, the last count of a duty stands (mail_history_progress.waiting).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from db.states import (
    IS_HELD,
    IS_SCHEDULED,
    IS_SENDING,
    IS_TRIED,
    IS_UNSCHEDULED,
)
from db.times import elapsed_s

# Each may be a page of its own, which is read from a disk when it is not in memory.
COUNTED_NOW = 2000

_COLUMNS = 'attempts, max_attempts, email_type::text AS email_type'
# Name, the time by which it is due, its condition and order. As pairs: see db.claims.CLAIM_DUE_SQL.
# The due index begins with the priority, and has the oldest of each first.
_PRIORITIES = (0, 1, 2)


def _between(priority: int) -> str:
    first, last = (
        f"({priority}::smallint, '{end}'::timestamptz)" for end in ('-infinity', 'infinity')
    )
    return f'{first} AND {last}'


_PARTS = {
    **{
        f'priority {priority}': (
            'next_retry_at, expires_at, NULL::timestamptz',
            f'{IS_SCHEDULED} AND (priority, next_retry_at) BETWEEN {_between(priority)}',
            'ORDER BY priority, next_retry_at',
        )
        for priority in _PRIORITIES
    },
    'unscheduled': ('created_at, expires_at, NULL', IS_UNSCHEDULED, 'ORDER BY id'),
    'sending': ('NULL, NULL, lease_expires_at', IS_SENDING, 'ORDER BY lease_expires_at'),
    # In the order of its index: that of all failed e-mails would be read past what is tried again.
    'final': (
        'NULL, NULL, NULL',
        f'{IS_TRIED} AND next_retry_at IS NULL',
        'ORDER BY dead_reason, updated_at',
    ),
    'held': ('NULL, NULL, NULL', IS_HELD, 'ORDER BY created_at'),
}


def _open(limit: str) -> str:
    """Return SQL for the rows of all parts: part, status, due_at, expires_at, lease_expires_at."""
    return '\nUNION ALL\n'.join(
        f"(SELECT '{part}' AS part, status, {columns}, {_COLUMNS} FROM mail_outbox "
        f'WHERE {condition} {order} {limit})'
        for part, (columns, condition, order) in _PARTS.items()
    )


# The states are disjoint. A time before 2000 is nobody's: such a row counts as one of that year.
def _counted(limit: str = '') -> str:
    """Return the CTEs that count the rows: part, state, is_paused, emails, oldest_due_at_s."""
    return f"""paused AS (
    SELECT name FROM mail_switches WHERE kind = 'email_type'
), open (part, status, due_at, expires_at, lease_expires_at, attempts, max_attempts, email_type)
AS ({_open(limit)}
), judged AS (
    SELECT part, due_at, email_type, CASE
        WHEN status = 'sending' AND lease_expires_at < now() - interval '30 seconds' THEN 'stuck'
        WHEN status = 'sending' THEN 'sending'
        WHEN status <> 'pending' AND (due_at IS NULL OR attempts >= max_attempts)
            -- Also what has the status `held`
            THEN CASE status WHEN 'failed' THEN 'dead' ELSE 'held' END
        WHEN expires_at <= now() THEN 'past_expiry'
        WHEN due_at <= now() THEN 'due'
        WHEN status = 'pending' THEN 'scheduled'
        WHEN status = 'failed' THEN 'retrying'
        ELSE 'uncertain' END AS state
    FROM open
), counted AS (
    SELECT part, state, COALESCE(email_type IN (SELECT name FROM paused), false) AS is_paused,
        count(*) AS emails,
        EXTRACT(EPOCH FROM min(GREATEST(due_at::timestamptz, '2000-01-01'::timestamptz))
            FILTER (WHERE state = 'due'))::float8 AS oldest_due_at_s
    FROM judged GROUP BY 1, 2, 3
)"""


COUNT_NOW_SQL = f"""
WITH {_counted('LIMIT $1')}
SELECT part, state, is_paused, emails, oldest_due_at_s,
    EXTRACT(EPOCH FROM now())::float8 AS now_s FROM counted
"""
LAST_COUNT_SQL = f"""
SELECT waiting, {elapsed_s('waiting_counted_at')} AS counted_s FROM mail_history_progress
WHERE waiting IS NOT NULL
"""
COUNT_ALL_SQL = f"""
WITH {_counted()}
UPDATE mail_history_progress
SET waiting = (SELECT COALESCE(jsonb_agg(to_jsonb(counted)), '[]') FROM counted),
    waiting_counted_at = now(), waiting_tried_at = now(),
    waiting_took_s = EXTRACT(EPOCH FROM clock_timestamp() - now())
"""
NOTE_TRY_SQL = 'UPDATE mail_history_progress SET waiting_tried_at = now(), waiting_took_s = $1'
LIMIT_SQL = "SELECT set_config('statement_timeout', $1, true)"
FORGET_COUNT_SQL = 'UPDATE mail_history_progress SET waiting = NULL WHERE waiting IS NOT NULL'


class Group(NamedTuple):
    """So many e-mails of a part have this state; of the due ones, when the first was due."""

    part: str
    state: str
    is_paused: bool  # an operator has paused their type
    emails: int
    oldest_due_at_s: float | None  # since 1970


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is not finished.

    Attributes:
        now_s: The database's time, since 1970.
        counted_s: How long ago the oldest of the numbers was counted; 0 when all were just now.
        is_at_least: There are more: a part is large, and no duty has counted it yet.
    """

    groups: Sequence[Group]
    now_s: float
    counted_s: float = 0.0
    is_at_least: bool = False


async def read_waiting(pool: asyncpg.Pool, most: int = COUNTED_NOW) -> Waiting:
    """Count what is not finished.

    Args:
        most: Rows of a part that are counted now.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    rows = await pool.fetch(COUNT_NOW_SQL, most)
    now_s = rows[0]['now_s'] if rows else 0.0
    groups = [Group(*row[:5]) for row in rows]
    full = full_parts(groups, most)
    if not full:
        return Waiting(groups, now_s)
    last = await pool.fetchrow(LAST_COUNT_SQL)
    if last is None:
        return Waiting(groups, now_s, is_at_least=True)
    known = [Group(**group) for group in last['waiting']]
    return Waiting(completed(groups, known, full), now_s, max(last['counted_s'], 0.0))


def full_parts(groups: Iterable[Group], most: int = COUNTED_NOW) -> set[str]:
    """Return the parts of which there may be more than was counted."""
    emails: Counter[str] = Counter()
    for group in groups:
        emails[group.part] += group.emails
    return {part for part, number in emails.items() if number >= most}


def completed(now: Iterable[Group], last: Iterable[Group], full: Collection[str]) -> list[Group]:
    """Return the groups as they are now, but those of full parts no smaller than last counted."""
    groups = {group[:3]: group for group in now}
    for group in last:
        mine = groups.get(group[:3])
        if group.part not in full or (mine and mine.emails >= group.emails):
            continue
        # The index begins with the oldest: what was counted now has it.
        oldest = group.oldest_due_at_s if mine is None else mine.oldest_due_at_s
        groups[group[:3]] = group._replace(oldest_due_at_s=oldest)
    return list(groups.values())


async def count_all_waiting(pool: asyncpg.Pool, within_s: float) -> None:
    """Count everything, however much, for those who look.

    Args:
        within_s: How long that may take; a worker's other statements have less.
    Raises:
        asyncpg.QueryCanceledError, TimeoutError: it took longer; the last count stands.
    """
    async with pool.acquire() as conn:
        await conn.execute(NOTE_TRY_SQL, within_s)
        async with conn.transaction():
            await conn.execute(LIMIT_SQL, str(int(within_s * 1000)))
            await conn.execute(COUNT_ALL_SQL, timeout=within_s + 1)


async def forget_count(pool: asyncpg.Pool) -> None:
    """Forget the last count: all parts are small enough to be counted anew."""
    await pool.execute(FORGET_COUNT_SQL)
