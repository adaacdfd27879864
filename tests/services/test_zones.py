"""db.migrate and ops doctor find out on which clocks times without a zone were written."""

from typing import Any

import asyncpg
import pytest

from db.zones import COMMON, compare_zones
from tests.services.ops_desk import run

NAIVE = ('created_at', 'updated_at', 'next_retry_at', 'expires_at')


@pytest.fixture
async def conn(empty_database: Any) -> Any:
    conn = await asyncpg.connect(empty_database.dsn)
    await conn.execute(
        'CREATE TABLE outbound_emails (id serial PRIMARY KEY, recipient text, status text DEFAULT '
        '$$pending$$, '
        'created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now(), last_attempt_at '
        'timestamp, '
        'next_retry_at timestamp DEFAULT now(), expires_at timestamp, claimed_at timestamptz)'
    )
    yield conn
    await conn.close()


async def insert(conn: Any, zone: str, rows: int = 3, **columns: str) -> None:
    """What a program does in a session with this TimeZone."""
    names, values = (
        ', '.join(('recipient', *columns)),
        ', '.join(("'a@example.com'", *columns.values())),
    )
    async with conn.transaction():
        await conn.execute(f"SET LOCAL timezone = '{zone}'")
        await conn.execute(
            f'INSERT INTO outbound_emails ({names}) SELECT {values} FROM generate_series(1, {rows})'
        )


async def test_utc_everywhere_is_nothing_to_say(conn):
    await insert(conn, 'UTC', expires_at="now() + interval '1 hour'")
    assert await compare_zones(conn, 'UTC') == []


async def test_columns_with_zones_are_nothing_to_say(database, pool):
    await pool.execute(f'ALTER DATABASE {database.name} SET timezone = $$Asia/Tokyo$$')
    await pool.execute(
        "INSERT INTO outbound_emails (recipient, created_at) VALUES ('a', now() + "
        "interval '9 hours')"
    )
    conn = await asyncpg.connect(database.dsn)
    assert await compare_zones(conn, 'UTC') == []
    await conn.close()
    await pool.execute(f'ALTER DATABASE {database.name} RESET timezone')


@pytest.mark.parametrize(
    'zone', ['Asia/Tokyo', 'Asia/Kathmandu', 'Asia/Kolkata', 'Australia/Sydney']
)
async def test_times_from_east_of_utc_are_an_error_that_names_the_zone(conn, zone: str):
    await insert(conn, zone)
    found = await compare_zones(conn, 'UTC')
    assert [one.severity for one in found] == ['error']
    assert 'created_at, updated_at of new e-mails lie' in found[0].what
    assert f'look like {zone}' in found[0].what
    assert f'DB_NAIVE_TIMEZONE={zone}' in found[0].remedy
    assert {one.severity for one in await compare_zones(conn, zone)} == {
        'warning'
    }  # of sessions that still have UTC


async def test_mail_that_is_over_before_it_was_made_is_an_error(conn):
    await insert(
        conn, 'Asia/Tokyo', 2, expires_at="(now() AT TIME ZONE 'UTC') + interval '2 hours'"
    )
    for zone in ('UTC', 'Asia/Tokyo'):
        found = [one.what for one in await compare_zones(conn, zone) if one.severity == 'error']
        assert any(
            what.startswith('2 e-mails are over (expires_at) before created_at') for what in found
        ), zone


async def test_mail_that_is_due_by_another_clock_is_an_error(conn, empty_database):
    await conn.execute(f'ALTER DATABASE {empty_database.name} SET timezone = $$Asia/Tokyo$$')
    utc = "now() AT TIME ZONE 'UTC'"
    await insert(conn, 'Asia/Tokyo', 2, created_at=utc, updated_at=utc)
    found = await compare_zones(conn, 'UTC')
    assert [one.severity for one in found] == ['error', 'warning']
    assert found[0].what == '2 new e-mails wait 9.0 h, which is what Asia/Tokyo differs from UTC'


async def test_times_from_west_of_utc_are_told_by_the_claims_that_follow(conn):
    await insert(conn, 'America/Sao_Paulo', claimed_at="now() + interval '2 seconds'")
    [found] = await compare_zones(conn, 'UTC')
    assert (found.severity, 'America/Sao_Paulo' in found.what) == ('error', True)


async def test_a_quiet_table_and_a_session_in_the_west_are_a_warning(conn, empty_database):
    await conn.execute(f'ALTER DATABASE {empty_database.name} SET timezone = $$America/Sao_Paulo$$')
    await insert(conn, 'America/Sao_Paulo')
    assert [one.severity for one in await compare_zones(conn, 'UTC')] == ['warning', 'warning']


async def test_roles_whose_sessions_have_another_zone_are_named(conn, empty_database):
    name = empty_database.name
    roles = {
        f'{name}_a': f'IN DATABASE {name} SET timezone = $$Europe/Berlin$$',
        f'{name}_b': 'RESET timezone',
    }
    try:
        for role, setting in roles.items():
            await conn.execute(f'CREATE ROLE {role} LOGIN')
            await conn.execute(f'GRANT INSERT (recipient) ON outbound_emails TO {role}')
            await conn.execute(f'ALTER ROLE {role} {setting}')
        found = await compare_zones(conn, 'UTC')
        assert [(one.severity, one.what.partition(' the TimeZone')[0]) for one in found] == [
            ('warning', f'sessions of {name}_a have')
        ]
        assert f'ALTER ROLE "{name}_a" SET timezone = \'UTC\'' in found[0].remedy
        berlin = await compare_zones(conn, 'Europe/Berlin')
        assert [f'{name}_b' in one.what and f'{name}_a' not in one.what for one in berlin] == [True]
    finally:
        for role in roles:
            await conn.execute(f'DROP OWNED BY {role}; DROP ROLE {role}')


async def test_old_rows_and_times_no_calendar_knows_prove_nothing(conn):
    await insert(
        conn, 'UTC', created_at="now() - interval '9 days'", expires_at="now() - interval '10 days'"
    )
    await insert(
        conn, 'UTC', created_at="'infinity'", updated_at="'4713-01-01 BC'", expires_at="'infinity'"
    )
    await insert(conn, 'UTC', created_at='NULL', updated_at='NULL')
    assert await compare_zones(conn, 'UTC') == []


async def test_every_zone_that_is_proposed_is_one_that_the_server_knows(conn):
    unknown = await conn.fetch(
        (
            'SELECT name FROM unnest($1::text[]) AS z (name) WHERE name NOT IN (SELECT name '
            'FROM pg_timezone_names)'
        ),
        list(COMMON),
    )
    assert unknown == []


async def test_doctor_says_that_times_are_of_another_zone(env, pool):
    view = await pool.fetchval("SELECT pg_get_viewdef('mail_outbox'::regclass)")
    await pool.execute('DROP VIEW mail_outbox')
    for name in ('created_at', 'updated_at'):
        await pool.execute(f'ALTER TABLE outbound_emails ALTER {name} TYPE timestamp')
    await pool.execute(f'CREATE VIEW mail_outbox AS {view}')
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, created_at, updated_at) '
        "SELECT 'a@example.com', t, t FROM (SELECT now() AT TIME ZONE 'Asia/Tokyo' AS t) AS s"
    )
    given = await run(env, 'doctor', 'clocks')
    [found] = given.document['findings']
    assert (found['severity'], found['check'], 'Asia/Tokyo' in found['what']) == (
        'error',
        'clocks',
        True,
    )
