"""Times without a zone, as an application's table may have them.

For PostgreSQL and for us the same moments.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.pools import create_postgres_pool

# The hour that is skipped and the one that comes twice: north and south, by half an hour, by a day,
# against the rule.
ZONES = {
    'UTC': ['2026-07-01 12:00'],
    'Asia/Tokyo': ['2026-01-01 00:00', '1970-01-01 00:00:00.000001'],
    'Europe/Berlin': ['2026-03-29 01:59:59', '2026-03-29 02:30', '2026-03-29 03:00',
        '2026-10-25 02:30',
                      '2026-10-25 03:00', '2026-07-01 12:00'],
    'America/New_York': ['2026-03-08 02:30', '2026-11-01 01:30'],
    'Australia/Lord_Howe': ['2026-04-05 01:45', '2026-10-04 02:15'],
    'Europe/Dublin': ['2026-03-29 01:30', '2026-10-25 01:30'],
    'Pacific/Apia': ['2011-12-30 12:00'],
    'Asia/Kathmandu': ['2026-07-01 12:00'],
}  # fmt: skip
CASES = [(zone, text) for zone, texts in ZONES.items() for text in texts]


@pytest.fixture
async def pool_in(database: Any) -> Any:
    opened = []

    async def pool_in(zone: str) -> Any:
        opened.append(
            await create_postgres_pool(
                database.dsn, size=2, connect_timeout_s=20, command_timeout_s=20,
                application_name='tests',
                naive_timezone=zone,
            )
        )  # fmt: skip
        return opened[-1]

    yield pool_in
    for pool in opened:
        pool.terminate()


@pytest.mark.parametrize(('zone', 'text'), CASES)
async def test_a_naive_time_is_the_moment_that_the_server_takes_it_for(
    pool_in, zone: str, text: str
):
    pool = await pool_in(zone)
    row = await pool.fetchrow(
        f"SELECT timestamp '{text}' AS naive, timestamp '{text}'::timestamptz AS moment"
    )
    assert row['naive'] == row['moment']
    assert row['naive'].tzinfo is not None


@pytest.mark.parametrize(('zone', 'text'), CASES)
async def test_a_moment_is_written_as_the_clock_that_the_server_shows(
    pool_in, zone: str, text: str
):
    pool = await pool_in(zone)
    moment = await pool.fetchval(f"SELECT timestamp '{text}'::timestamptz")
    assert await pool.fetchval('SELECT $1::timestamp = $2::timestamptz::timestamp', moment, moment)


async def test_both_passes_of_the_hour_that_comes_twice_differ_by_no_more_than_an_hour(pool_in):
    pool = await pool_in('Europe/Berlin')
    first, second = (
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    )
    assert await pool.fetchval('SELECT $1::timestamp', second) == second
    assert await pool.fetchval('SELECT $1::timestamp', first) == first + timedelta(hours=1)


async def test_times_without_end_and_those_no_datetime_can_hold_are_read(pool_in):
    pool = await pool_in('Asia/Tokyo')
    last, first = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    times = await pool.fetchval(
        "SELECT ARRAY['infinity', '-infinity', '20000-01-01', '0044-03-15 BC', "
        "'0001-01-01 00:00']::timestamp[]"
    )
    assert times == [last, first, last, first, first]
    assert (
        await pool.fetchval('SELECT array_to_string($1::timestamp[], $2)', [last, first], ' ')
        == 'infinity -infinity'
    )


async def test_naive_columns_are_compared_with_now_in_their_zone(pool_in):
    for zone in ('Asia/Tokyo', 'America/New_York', 'UTC'):
        pool = await pool_in(zone)
        await pool.execute('DROP TABLE IF EXISTS theirs')
        await pool.execute('CREATE TABLE theirs (due timestamp)')
        await pool.execute(
            "INSERT INTO theirs SELECT now() AT TIME ZONE $1 - interval '1 minute'", zone
        )
        assert await pool.fetchval('SELECT count(*) FROM theirs WHERE due <= now()') == 1
        due = await pool.fetchval('SELECT due FROM theirs')
        assert timedelta() < datetime.now(UTC) - due < timedelta(minutes=10)
