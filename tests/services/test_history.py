"""What the duty count_history counts, on a real PostgreSQL: each attempt once, whatever happens."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from db import reports
from db.history import MOST_NAMES, OTHERS, count_recorded, read_progress
from jobs import count_history as duty
from jobs.count_history import count_history
from reporting.history import WINDOWS, AttemptCounts, Dimension, read_history, read_most
from tests.services.ops_desk import insert, rendered, run

HOUR, DAY, WEEK = (WINDOWS[name] for name in ('1h', '24h', '7d'))
INSERT_SQL = """
INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, smtp_code,
    enhanced_code, error, duration_ms, recorded_at)
SELECT $1, now() - $3 * interval '1 minute' - n * interval '1 millisecond', 1, 'w@h:1', $2, 'rcpt',
    $4, CASE WHEN $2 <> 'accepted' THEN 550 END, NULL, $5, 100,
    CASE WHEN $6 THEN now() - $3 * interval '1 minute' END
FROM generate_series(1, $7::int) AS n
"""


async def attempt(
    db: Any,
    email_id: int,
    outcome: str = 'accepted',
    *,
    minutes_ago: float = 5.0,
    relay: str = 'primary',
    error: str | None = None,
    has_time: bool = True,
    times: int = 1,
) -> None:
    await db.execute(INSERT_SQL, email_id, outcome, minutes_ago, relay, error, has_time, times)


async def begin(pool: Any, ago: str = '1 day', filled_back_to: str = 'NULL') -> None:
    """Set back what is counted: as after so long a time without a worker."""
    await pool.execute(
        f"UPDATE mail_history_progress SET counted_until = date_trunc('minute', now() - "
        f"interval '{ago}'), filled_back_to = {filled_back_to}"
    )


async def sums(pool: Any) -> dict[tuple[int, str], int]:
    rows = await pool.fetch(
        'SELECT span_s, dimension, sum(attempts)::int AS n FROM mail_history GROUP BY 1, 2'
    )
    return {(row['span_s'], row['dimension']): row['n'] for row in rows}


@pytest.fixture
async def seeded(pool):
    """An hour with something of everything."""
    await begin(pool)
    anna = await insert(pool, email_type='code', organization_id=7,
        created_at="sql:now() - interval '6 minutes'")  # fmt: skip
    bob = await insert(pool, recipient='Bob <bob@Example.NET>')
    await attempt(pool, anna, times=8)
    await attempt(pool, anna, error='550 no such user', minutes_ago=7)
    await attempt(pool, bob, 'rejected', relay='backup', minutes_ago=7)
    await attempt(pool, bob, 'deferred', minutes_ago=90)
    await attempt(pool, bob, 'released', minutes_ago=5)


async def test_every_attempt_is_counted_once_by_minute_and_hour_and_by_each_dimension(
    ctx, pool, seeded
):
    assert [(await count_history(ctx))['affected'] for _ in range(3)] == [12, 0, 0]
    counted = await sums(pool)
    for span_s in (60, 3600):
        assert {name: n for (span, name), n in counted.items() if span == span_s} == {
            'all': 12, 'relay': 12, 'type': 12, 'domain': 12, 'worker': 12, 'duration': 12,
            'organization': 9, 'latency': 9, 'reason': 2, 'in part': 1,
        }  # fmt: skip
    history = await read_history(pool, HOUR)
    assert history.total == AttemptCounts(sent=9, failed=1)
    assert [point.counts.sent for point in history.points if point.counts.attempts] == [1, 8]
    assert 60 <= len(history.points) <= 61
    assert history.age_s < 65
    assert (await read_history(pool, DAY)).total == AttemptCounts(sent=9, failed=1, deferred=1)
    assert (await read_history(pool, WEEK)).total == AttemptCounts(sent=9, failed=1, deferred=1)
    latency = history.latency
    assert 50 < latency.p50_s < 72  # queued a minute before
    found = {
        dimension: [
            (one.name, one.counts.attempts) for one in await read_most(pool, DAY, dimension)
        ]
        for dimension in Dimension
    }
    assert found == {
        Dimension.RELAY: [('primary', 10), ('backup', 1)],
        Dimension.TYPE: [('code', 9), ('(none)', 2)],
        Dimension.ORGANIZATION: [('7', 9)],
        Dimension.DOMAIN: [('example.com', 9), ('example.net', 2)],
        Dimension.WORKER: [('w@h:1', 11)],
    }


async def test_reports_tell_the_same_before_and_after_counting(ctx, pool, seeded):
    async def told() -> Any:
        outbox = await reports.read_outbox(pool)
        failures = await reports.count_failures(pool, 10)
        return (
            outbox['sent_last_hour'],
            outbox['sent_in_part_last_day'],
            [{k: v for k, v in row.items() if k != 'last_s'} for row in failures],
            await reports.count_attempts(pool),
        )

    before = await told()
    assert before[:2] == (9, 1)
    await count_history(ctx)
    assert await told() == before
    await pool.execute("DELETE FROM email_attempts WHERE outcome <> 'released'")  # counted already
    assert await told() == before


async def test_top_draws_the_minutes_of_the_last_hour(ctx, pool, env, seeded):
    assert 'in the last hour' not in rendered('top', await run(env, 'top', '--once'))
    await count_history(ctx)
    given = await run(env, 'top', '--once')
    assert sum(given.document['hour']['sent']) == 9
    sent, failed = (
        line for line in rendered('top', given).splitlines() if 'in the last hour' in line
    )
    assert re.search(r'^sent .*▁ *█ +9 in the last hour, 8 a minute at most$', sent), sent
    assert failed.endswith(' 1 in the last hour, 1 a minute at most')


async def test_attempt_that_commits_late_is_counted_once_it_is_there(
    ctx, pool, database, monkeypatch
):
    await begin(pool)
    monkeypatch.setattr(duty, 'WRITERS_END_S', 0.3)
    other = await asyncpg.connect(database.dsn)
    transaction = other.transaction()
    await transaction.start()
    await attempt(other, 1)
    with capture_logs() as lines:
        assert (await count_history(ctx))['affected'] == 0
    assert [line['event'] for line in lines] == ['history.not_counted']
    monkeypatch.setattr(duty, 'WRITERS_END_S', 20)
    waiting = asyncio.create_task(count_history(ctx))
    await attempt(pool, 2)  # who comes later is not waited for
    await transaction.commit()
    assert (await waiting)['affected'] == 2
    await other.close()


async def test_second_of_two_that_count_the_same_minutes_counts_nothing(pool):
    await begin(pool)
    await attempt(pool, 1)
    progress = await read_progress(pool)
    since, until = progress.counted_until, progress.counted_until + timedelta(days=1)
    found = await asyncio.gather(*(count_recorded(pool, since, until) for _ in range(4)))
    assert sorted(found) == [(False, 0)] * 3 + [(True, 1)]
    assert (await sums(pool))[60, 'all'] == 1


async def test_day_without_a_worker_is_counted_piece_by_piece_over_several_runs(
    ctx, pool, monkeypatch
):
    await begin(pool, '25 hours')
    await attempt(pool, 1, minutes_ago=24 * 60, times=30)
    await attempt(pool, 2, minutes_ago=12 * 60, times=500)
    await attempt(pool, 3, minutes_ago=10)
    monkeypatch.setattr(duty, 'COUNT_S', 0)  # one piece a run
    monkeypatch.setattr(duty, 'FIRST', timedelta(hours=1))
    runs = []
    while sum(runs) < 531:
        runs.append((await count_history(ctx))['affected'])
        assert len(runs) <= 26
    assert (await sums(pool))[60, 'all'] == 531
    assert (await count_history(ctx))['affected'] == 0


async def test_piece_that_takes_too_long_is_made_shorter(ctx, pool, monkeypatch):
    await begin(pool, '10 minutes')
    await attempt(pool, 1)
    asked = []

    async def count(pool: Any, since: Any, until: Any) -> Any:
        asked.append(until - since)
        if until - since > timedelta(seconds=8):
            raise asyncpg.QueryCanceledError
        return await count_recorded(pool, since, until)

    monkeypatch.setattr(duty, 'count_recorded', count)
    assert (await count_history(ctx))['affected'] == 1
    assert asked[:2] == [timedelta(minutes=1), timedelta(seconds=7.5)]


async def test_attempts_of_the_version_before_are_counted_for_a_week_back(ctx, pool):
    await begin(pool, '1 minute', "date_trunc('minute', now())")
    for days_ago in (0.01, 1, 3, 6.9, 7.1, 30):
        await attempt(pool, 1, minutes_ago=days_ago * 1440, has_time=False)
    await attempt(pool, 2, minutes_ago=0.5)
    runs = [(await count_history(ctx))['affected'] for _ in range(2)]
    assert runs[0] in (4, 5)  # one began half a minute ago
    assert await pool.fetchval('SELECT filled_back_to IS NULL FROM mail_history_progress')
    assert (await read_history(pool, WEEK)).total.sent >= 4


async def test_names_beyond_the_most_are_counted_as_others(ctx, pool):
    await begin(pool)
    many = MOST_NAMES[3600] + 10
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        "recorded_at) SELECT n, now(), 1, 'w' || n, 'accepted', 'data', "
        "date_trunc('hour', now() - interval '2 hours') + (n % 10) * interval '1 minute' "
        'FROM generate_series(1, $1::int) AS n',
        many,
    )
    await count_history(ctx)
    by_hour = await pool.fetch(
        "SELECT name, attempts FROM mail_history WHERE span_s = 3600 AND dimension = 'worker'"
    )
    assert len(by_hour) == MOST_NAMES[3600] + 1
    assert sum(row['attempts'] for row in by_hour) == many
    assert {row['name']: row['attempts'] for row in by_hour}[OTHERS] == 10
    assert await pool.fetchval("SELECT count(*) FROM mail_history WHERE dimension = 'all'") == 11


async def test_old_minutes_go_and_hours_stay(ctx, pool):
    await begin(pool, '5 days')
    await attempt(pool, 1, minutes_ago=3 * 1440)
    await attempt(pool, 2)
    await count_history(ctx)
    assert {key: n for key, n in (await sums(pool)).items() if key[1] == 'all'} == {
        (60, 'all'): 1, (3600, 'all'): 2,
    }  # fmt: skip


async def test_attempt_has_the_time_at_which_it_was_recorded_whatever_began_before(pool):
    async with pool.acquire() as conn, conn.transaction():
        began = await conn.fetchval('SELECT now() FROM pg_sleep(0.01)')
        await conn.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) '
            "VALUES (2, now() - interval '1 hour', 1, 'w', 'accepted', 'data')"
        )
    assert await pool.fetchval('SELECT recorded_at FROM email_attempts') > began
