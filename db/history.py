"""What became of attempts, counted once into mail_history: by minute, and by hour.

Attempts are counted by the time at which PostgreSQL learned of them. A minute is counted when
nobody can record anything in it any more, so what commits late is counted as well, and a minute
that was counted is complete. The statement that counts also moves `counted_until`: whoever is
killed between, or comes second, counts nothing twice.

A row's name, by its dimension:

    all            ''
    in part        '': accepted, but not for every recipient
    relay          the relay's
    type           the e-mail's type; '(none)'
    organization   its id as text; e-mails without one have no row
    domain         of the first recipient; '(no address)'
    worker         who made the attempt
    reason         of failures, as JSON: phase, relay, code, enhanced code
    latency        of what was accepted: the bucket of the time since it was queued
    duration       the bucket of the attempt's own time

A bucket b is of times from 2^(b/4) to 2^((b+1)/4) ms, see reporting/history.py. Of names there are
so many a row (MOST_NAMES), and OTHERS for the rest.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from db.late import TAKEN_BACK
from db.times import elapsed_s

MINUTE_SPAN_S, HOUR_SPAN_S = 60, 3600
KEPT_HOURS = {MINUTE_SPAN_S: 48, HOUR_SPAN_S: 90 * 24}
MOST_NAMES = {MINUTE_SPAN_S: 30, HOUR_SPAN_S: 200}
OTHERS = '(others)'
BUCKETS_PER_DOUBLING = 4
LONGEST_MS = 2**40
MOST_LATEST = 20_000  # attempts that are not counted yet, read by a look

FILL_BACK = timedelta(days=7)


def _bucket(milliseconds: str) -> str:
    """Return SQL for the bucket of a time, as text; NULL of NULL."""
    within = f'LEAST(GREATEST({milliseconds}, 1), {LONGEST_MS})'
    return f'floor({BUCKETS_PER_DOUBLING} * ln({within}::float8) / ln(2.0::float8))::int::text'


_LATENCY_MS = f'{elapsed_s("e.created_at", "a.started_at")} * 1000 + COALESCE(a.duration_ms, 0)'
# Dimension -> the name that an attempt counts under; NULL: under none.
_WHOLE = {  # few names, never cut
    'all': "''",
    'in part': "CASE WHEN in_part THEN '' END",
    'latency': 'latency',
    'duration': 'duration',
}
_CUT = {
    'relay': 'relay',
    'type': 'email_type',
    'organization': 'organization',
    'domain': 'domain',
    'worker': 'worker',
    'reason': """CASE WHEN outcome NOT IN ('accepted', 'released')
        THEN jsonb_build_array(phase, relay, smtp_code, enhanced_code)::text END""",
}
DIMENSIONS = (*_WHOLE, *_CUT)


def _named(dimensions: Mapping[str, str]) -> str:
    """Return SQL that counts attempts by each dimension: one pass over them for each."""
    return '\n    UNION ALL\n'.join(
        f"    SELECT at, outcome, '{dimension}' AS dimension, left({name}, 300) AS name, "
        f'count(*) AS attempts FROM ended\n'
        f'    GROUP BY 1, 2, 4 HAVING left({name}, 300) IS NOT NULL'
        for dimension, name in dimensions.items()
    )


def _spanned(named: str) -> str:
    """Return SQL that adds those of a minute up to those of its hour, where they are still kept."""
    return f"""
    SELECT {MINUTE_SPAN_S} AS span_s, dimension, at, name, outcome, attempts FROM {named}
    WHERE at > now() - interval '{KEPT_HOURS[MINUTE_SPAN_S]} hours'
    UNION ALL
    SELECT {HOUR_SPAN_S}, dimension, date_trunc('hour', at, 'UTC'), name, outcome, sum(attempts)
    FROM {named} WHERE at > now() - interval '{KEPT_HOURS[HOUR_SPAN_S]} hours'
    GROUP BY 1, 2, 3, 4, 5
"""


_IS_KNOWN = """COALESCE((SELECT true FROM mail_history AS h WHERE h.span_s = c.span_s
    AND h.dimension = c.dimension AND h.at = c.at AND h.name = c.name LIMIT 1), false)"""
# A LEFT JOIN has one order only: from the attempts to the primary key. Nothing else is joined, and
# no subquery may be hashed: workers' sessions would have it read all of mail_history.
_COUNTED = f"""ended AS MATERIALIZED (
    SELECT date_trunc('minute', {{at}}) AS at, a.outcome, a.worker, a.relay, a.phase, a.smtp_code,
        a.enhanced_code,
        a.outcome = 'accepted' AND a.error <> '{TAKEN_BACK}' AS in_part,
        {_bucket('a.duration_ms')} AS duration,
        CASE WHEN a.outcome = 'accepted' THEN {_bucket(_LATENCY_MS)} END AS latency,
        COALESCE(e.email_type::text, '(none)') AS email_type,
        e.organization_id::text AS organization,
        COALESCE(lower(substring(left(e.recipient, 500) FROM '@([[:alnum:]_.-]+)')),
            '(no address)') AS domain
    FROM email_attempts AS a LEFT JOIN mail_outbox AS e ON e.id = a.email_id
    WHERE {{window}} AND EXISTS (SELECT FROM moved)
), whole AS (
{_named(_WHOLE)}
), named AS (
{_named(_CUT)}
), spanned AS ({_spanned('named')}
), weighed AS (
    SELECT span_s, dimension, at, name, sum(attempts) AS weight, array_agg(outcome) AS outcomes,
        array_agg(attempts) AS numbers
    FROM spanned GROUP BY span_s, dimension, at, name
), placed AS (
    SELECT *, row_number() OVER (PARTITION BY span_s, dimension, at ORDER BY weight DESC, name)
        AS place
    FROM weighed
), crowded AS (
    SELECT *, max(CASE WHEN place = 1 THEN (
        SELECT count(DISTINCT h.name) FROM mail_history AS h
        WHERE h.span_s = p.span_s AND h.dimension = p.dimension AND h.at = p.at)
    END) OVER (PARTITION BY span_s, dimension, at) AS names
    FROM placed AS p
), cut AS (
    SELECT span_s, dimension, at, outcomes, numbers, CASE
        WHEN place <= CASE span_s WHEN {MINUTE_SPAN_S} THEN {MOST_NAMES[MINUTE_SPAN_S]}
            ELSE {MOST_NAMES[HOUR_SPAN_S]} END - names OR (names > 0 AND {_IS_KNOWN})
        THEN name ELSE '{OTHERS}' END AS name
    FROM crowded AS c
), added AS (
    INSERT INTO mail_history AS h (span_s, dimension, at, name, outcome, attempts)
    SELECT span_s, dimension, at, name, outcome, sum(number)
    FROM cut, LATERAL unnest(outcomes, numbers) AS u (outcome, number)
    GROUP BY span_s, dimension, at, name, outcome
    UNION ALL {_spanned('whole')}
    ON CONFLICT (span_s, dimension, at, name, outcome)
    DO UPDATE SET attempts = h.attempts + excluded.attempts
)
SELECT (SELECT count(*) FROM moved) > 0 AS is_ours, (SELECT count(*) FROM ended) AS attempts
"""

COUNT_RECORDED_SQL = f"""
WITH moved AS (
    UPDATE mail_history_progress SET counted_until = $2 WHERE counted_until = $1 RETURNING 1
), {_COUNTED.format(at='a.recorded_at', window='a.recorded_at >= $1 AND a.recorded_at < $2')}
"""
# Those of before recorded_at was there, from the latest back.
COUNT_OLDER_SQL = f"""
WITH moved AS (
    UPDATE mail_history_progress SET filled_back_to = $1 WHERE filled_back_to = $2 RETURNING 1
), {
    _COUNTED.format(
        at='a.started_at',
        window='a.started_at >= $1 AND a.started_at < $2 AND a.recorded_at IS NULL',
    )
}
"""


class Counted(NamedTuple):
    """What one statement counted. Somebody else was first where it is not ours."""

    is_ours: bool
    attempts: int


async def count_recorded(pool: asyncpg.Pool, since: datetime, until: datetime) -> Counted:
    """Count the attempts recorded from `since`, which is counted_until, up to `until`.

    Both are whole minutes; nobody records in them any more, see read_writers.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was counted, or
        all of it; the same for the others here.
    """
    [row] = await pool.fetch(COUNT_RECORDED_SQL, since, until)
    return Counted(*row)


async def count_older(pool: asyncpg.Pool, since: datetime, until: datetime) -> Counted:
    """Count the attempts of before recorded_at that began from `since` to `until`.

    `until` is filled_back_to, which becomes `since`.
    """
    [row] = await pool.fetch(COUNT_OLDER_SQL, since, until)
    return Counted(*row)


class HistoryProgress(NamedTuple):
    """How far the counting has come; `now` is the database's time."""

    now: datetime
    counted_until: datetime
    filled_back_to: datetime | None
    waiting_tried_at: datetime | None
    waiting_took_s: float | None


PROGRESS_SQL = """
SELECT now(), counted_until, filled_back_to, waiting_tried_at, waiting_took_s
FROM mail_history_progress
"""


async def read_progress(pool: asyncpg.Pool) -> HistoryProgress:
    """Return how far it has come."""
    [row] = await pool.fetch(PROGRESS_SQL)
    return HistoryProgress(*row)


# Who records something has its lock before recorded_at is told, and holds it until others can see
# what it wrote. pg_locks shows everybody's.
WRITERS_SQL = """
SELECT date_trunc('minute', now()) AS until,
    ARRAY(SELECT DISTINCT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND relation = 'email_attempts'::regclass AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND mode = 'RowExclusiveLock') AS writers
"""


async def read_writers(pool: asyncpg.Pool) -> tuple[datetime, set[str]]:
    """Return up to when nobody but these transactions can still record an attempt.

    Once they have ended, the minutes before that time are complete.
    """
    [row] = await pool.fetch(WRITERS_SQL)
    return row['until'], set(row['writers'])


END_FILLING_SQL = 'UPDATE mail_history_progress SET filled_back_to = NULL'


async def end_filling(pool: asyncpg.Pool) -> None:
    """Note that there is nothing more to count of before."""
    await pool.execute(END_FILLING_SQL)


REMOVE_HISTORY_SQL = """
DELETE FROM mail_history
WHERE span_s = $1 AND at < now() - $2 * interval '1 hour' AND dimension = ANY($3::text[])
"""


async def remove_old_history(pool: asyncpg.Pool) -> None:
    """Forget minutes and hours past their time."""
    for span_s, hours in KEPT_HOURS.items():
        await pool.execute(REMOVE_HISTORY_SQL, span_s, hours, DIMENSIONS)


def reason_fields(reason: Sequence[Any]) -> dict[str, Any]:
    """Return what a name of the dimension `reason` says."""
    return dict(zip(('phase', 'relay', 'smtp_code', 'enhanced_code'), reason, strict=True))


def quantile_ms(buckets: Mapping[int, int], quantile: float) -> float:
    """Return a quantile of times in milliseconds, to about a tenth.

    Args:
        buckets: How many there are of each bucket, at least one.
        quantile: From 0 to 1.
    """
    left = quantile * sum(buckets.values())
    bucket = -1
    for bucket in sorted(buckets):
        if left <= buckets[bucket]:
            break
        left -= buckets[bucket]
    within = min(left / buckets[bucket], 1.0)
    at: float = 2 ** ((bucket + within) / BUCKETS_PER_DOUBLING)
    return at
