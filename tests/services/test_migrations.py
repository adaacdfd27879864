"""The schema: made from nothing, adopted from a table that was there before, checked by the worker."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db.claims import claim_due
from db.health import Finding, record_health
from db.migrate import migrate
from db.outbox import queue_email
from db.pools import create_postgres_pool
from db.schema import SchemaMismatchError, check_schema, known_migrations
from dev.ports import free_port
from jobs.cleanup_old_sessions import cleanup_old_sessions
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_email
from mail.outcome import Status
from tests.conftest import ROOT

LEGACY_SQL = Path(__file__).with_name('legacy_schema.sql').read_text()
STATES = "'pending', 'sending', 'sent', 'failed', 'expired', 'cancelled'"
USER = '6f9619ff-8b86-4d01-b42d-00cf4fc964ff'

LEGACY_ROWS = f"""
INSERT INTO outbound_emails
    (recipient, subject, body_text, status, attempts, max_attempts, next_retry_at, last_attempt_at, sent_at, expires_at,
     user_id, created_at, updated_at)
VALUES
    ('pending@example.com', 's', 't', 'pending', NULL, NULL, NULL, NULL, NULL, NULL, '{USER}', now(), NULL),
    ('sending@example.com', 's', 't', 'sending', 1, 5, now(), now(), NULL, NULL, NULL, now(), now()),
    ('sent@example.com', 's', 't', 'sent', 1, 5, NULL, '2026-01-02 03:04:05', NULL, NULL, NULL, now(), now()),
    ('dated@example.com', 's', 't', 'sent', 1, 5, NULL, NULL, '2026-01-02 03:04:06', NULL, NULL, now(), now()),
    ('failed@example.com', 's', 't', 'failed', 7, 5, NULL, now(), NULL, NULL, NULL, now(), now()),
    ('retry@example.com', 's', 't', 'failed', 1, 5, now() - interval '1 day', now(), NULL, NULL, NULL, now(), now()),
    ('expired@example.com', 's', 't', 'expired', 0, 0, NULL, NULL, NULL, '2026-01-02 03:04:07', NULL, NULL, NULL),
    ('cancelled@example.com', 's', 't', 'cancelled', 0, 5, NULL, NULL, NULL, NULL, NULL, now(), now())
"""


@pytest.fixture
async def conn(empty_database) -> AsyncIterator[asyncpg.Connection]:
    # The server's own zone is none of UTC's business: times without a zone were written by it in UTC.
    conn = await asyncpg.connect(empty_database.dsn, server_settings={'timezone': 'Asia/Tokyo'})
    yield conn
    await conn.close()


@pytest.fixture
async def adopted_pool(empty_database) -> AsyncIterator[asyncpg.Pool]:
    pool = await create_postgres_pool(
        empty_database.dsn, size=4, connect_timeout_s=20, command_timeout_s=20, application_name='tests'
    )
    yield pool
    pool.terminate()


async def create_legacy(conn: asyncpg.Connection, status: str) -> None:
    if status == 'enum':
        await conn.execute(f'CREATE TYPE email_status AS ENUM ({STATES})')
    await conn.execute(LEGACY_SQL.replace('__STATUS__', 'email_status' if status == 'enum' else status))


async def shape(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Everything about the tables that a migration could change."""
    columns = await conn.fetch(
        'SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns '
        "WHERE table_schema = 'public' AND table_name NOT LIKE '\\_pogo%' ORDER BY 1, 2"
    )
    indexes = await conn.fetch("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    constraints = await conn.fetch(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
        'ORDER BY 1, 2'
    )
    return [tuple(row) for rows in (columns, indexes, constraints) for row in rows if '_pogo' not in str(row)]


def run_migrate(dsn: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'db.migrate'], cwd=ROOT, env={'DATABASE_URL': dsn}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


async def test_fresh_database_gets_the_schema_and_a_second_run_changes_nothing(conn, adopted_pool):
    await migrate(conn)
    await check_schema(adopted_pool)
    before = await shape(conn)
    applied = await conn.fetch('SELECT * FROM _pogo_migration')
    assert {row['migration_id'] for row in applied} == known_migrations()
    email_id = await queue_email(conn, recipient='a@example.com', subject='s', body_text='t')
    await migrate(conn)
    assert await shape(conn) == before
    assert await conn.fetch('SELECT * FROM _pogo_migration') == applied
    assert await conn.fetchval('SELECT id FROM outbound_emails') == email_id


async def test_two_migrations_at_once_are_one(conn, empty_database, adopted_pool):
    other = await asyncpg.connect(empty_database.dsn)
    await asyncio.gather(migrate(conn), migrate(other))
    await check_schema(adopted_pool)
    assert await conn.fetchval('SELECT count(*) FROM _pogo_migration') == len(known_migrations())
    assert await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await other.close()


@pytest.mark.parametrize('status', ['varchar(20)', 'text', 'enum'])
async def test_adoption_keeps_every_row_and_makes_it_legal(conn, status):
    await create_legacy(conn, status)
    await conn.execute(LEGACY_ROWS)
    unchanged = 'SELECT id, recipient, subject, body_text, template_id, user_id FROM outbound_emails ORDER BY id'
    before = await conn.fetch(unchanged)
    await migrate(conn)
    assert await conn.fetch(unchanged) == before
    rows = {row['recipient'].partition('@')[0]: row for row in await conn.fetch('SELECT * FROM outbound_emails')}
    assert {name: row['status'] for name, row in rows.items()} == {
        'pending': 'pending',
        'sending': 'uncertain',
        'sent': 'sent',
        'dated': 'sent',
        'failed': 'failed',
        'retry': 'failed',
        'expired': 'expired',
        'cancelled': 'cancelled',
    }
    assert (rows['pending']['attempts'], rows['pending']['max_attempts']) == (0, 5)
    assert (rows['failed']['attempts'], rows['failed']['max_attempts']) == (7, 7)
    assert rows['expired']['max_attempts'] == 1
    assert rows['sending']['next_retry_at'] is None
    assert 'previous system' in rows['sending']['last_error']
    assert rows['sent']['sent_at'] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert rows['dated']['sent_at'] == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    assert rows['expired']['expires_at'] == datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC)
    assert all(row['created_at'] and row['updated_at'] for row in rows.values())
    await migrate(conn)
    assert await conn.fetch(unchanged) == before


@pytest.mark.parametrize('status', ['varchar(20)', 'enum'])
async def test_adopted_rows_are_sent_by_the_jobs(conn, adopted_pool, ctx, inbox, status):
    await create_legacy(conn, status)
    await conn.execute(LEGACY_ROWS)
    await conn.execute("INSERT INTO email_templates VALUES ('welcome', 'Welcome', 'Hi {{ name }}', 'Hello', NULL)")
    template_id = await conn.fetchval(
        'INSERT INTO outbound_emails (recipient, status, template_id, template_data) '
        "VALUES ('template@example.com', 'pending', 'welcome', '{\"name\": \"Anna\"}') RETURNING id"
    )
    await migrate(conn)
    adopted = {'runtime': replace(ctx['runtime'], pool=adopted_pool)}
    assert await send_email(adopted, template_id) == {'email_id': template_id, 'status': 'sent', 'attempts': 1}
    assert inbox.accepted('template@example.com')[0]['subject'] == 'Hi Anna'
    assert (await process_pending_emails(adopted))['outcomes'] == {'sent': 2}
    assert {entry['rcpt_to'][0].partition('@')[0] for entry in inbox.accepted()} == {'template', 'pending', 'retry'}
    queued = await queue_email(
        conn, recipient='new@example.com', template_id='welcome', template_data={'name': 'Bert'}, user_id=USER,
        organization_id=USER, idempotency_key='k',
    )  # fmt: skip
    assert (await send_email(adopted, queued))['status'] == 'sent'
    assert inbox.accepted('new@example.com')[0]['subject'] == 'Hi Bert'


async def test_adopted_table_answers_for_ids_beyond_its_own_type(conn, adopted_pool, ctx):
    await create_legacy(conn, 'text')
    await migrate(conn)
    adopted = {'runtime': replace(ctx['runtime'], pool=adopted_pool)}
    result = await send_email(adopted, 2**40)
    assert (result['status'], result['state']) == ('not-claimable', None)


async def test_adopted_sessions_and_health_serve_their_jobs(conn, adopted_pool, ctx):
    await create_legacy(conn, 'text')
    for table in ('sessions', 'refresh_tokens'):
        await conn.execute(
            f'INSERT INTO {table} (created_at, expires_at) VALUES '
            "(now() - interval '91 days', now() - interval '1 day'), "
            "(now() - interval '91 days', now() + interval '1 day'), (now() - interval '89 days', NULL)"
        )
    await migrate(conn)
    adopted = {'runtime': replace(ctx['runtime'], pool=adopted_pool)}
    assert await cleanup_old_sessions(adopted) == {'affected': 2, 'sessions': 1, 'refresh_tokens': 1}
    await record_health(adopted_pool, [Finding('mongodb', 'down', 5, 'away')])
    assert await conn.fetchval('SELECT error_message FROM service_health') == 'away'


async def test_adopted_check_on_the_status_does_not_forbid_ours(conn):
    await create_legacy(conn, 'text')
    await conn.execute(
        'ALTER TABLE outbound_emails ADD CONSTRAINT own_check '
        "CHECK (status IN ('pending', 'sending', 'sent', 'failed'))"
    )
    await conn.execute("INSERT INTO outbound_emails (recipient, status) VALUES ('a@example.com', 'sending')")
    await migrate(conn)
    for status in set(Status) - {Status.SENDING, Status.SENT}:
        await conn.execute('UPDATE outbound_emails SET status = $1', status.value)


async def test_adopted_narrow_column_does_not_lose_an_outcome(conn, adopted_pool, ctx, inbox):
    await create_legacy(conn, 'text')
    await conn.execute('ALTER TABLE outbound_emails ALTER COLUMN smtp_response TYPE varchar(100)')
    await migrate(conn)
    inbox.control.misbehave('rcpt', 'refuse', code=550, text='5.1.1 ' + 'no such user ' * 20, times=1)
    email_id = await queue_email(conn, recipient='wordy@example.com', subject='s', body_text='t')
    adopted = {'runtime': replace(ctx['runtime'], pool=adopted_pool)}
    assert (await send_email(adopted, email_id))['status'] == 'failed'
    assert await conn.fetchval('SELECT dead_reason FROM outbound_emails') == 'rejected'


async def test_adopted_enum_may_stand_in_a_partial_index(conn, adopted_pool):
    await create_legacy(conn, 'enum')
    await conn.execute("CREATE INDEX due ON outbound_emails (next_retry_at) WHERE status = 'pending'")
    await conn.execute("INSERT INTO outbound_emails (recipient) VALUES ('a@example.com')")
    await migrate(conn)
    await conn.execute('UPDATE outbound_emails SET next_retry_at = now()')
    assert await claim_due(adopted_pool, 5, worker='w', lease_s=30, message_id_domain='example.com')


async def test_unknown_status_is_named_with_its_count_and_remedy_and_nothing_is_changed(conn, empty_database):
    await create_legacy(conn, 'varchar(20)')
    await conn.execute(LEGACY_ROWS)
    await conn.execute(
        "INSERT INTO outbound_emails (recipient, status) VALUES ('a@example.com', 'ARCHIVED'), "
        "('b@example.com', 'ARCHIVED'), ('c@example.com', 'bounced')"
    )
    before = await shape(conn), await conn.fetch('SELECT * FROM outbound_emails ORDER BY id')
    result = await asyncio.to_thread(run_migrate, empty_database.dsn)
    assert result.returncode == 1
    assert 'ARCHIVED (2 rows)' in result.stderr
    assert 'bounced (1 rows)' in result.stderr
    assert 'UPDATE these rows' in result.stderr
    assert 'Traceback' not in result.stderr
    assert (await shape(conn), await conn.fetch('SELECT * FROM outbound_emails ORDER BY id')) == before
    await conn.execute("UPDATE outbound_emails SET status = 'cancelled' WHERE status IN ('ARCHIVED', 'bounced')")
    await migrate(conn)


async def test_schema_check_tells_none_older_and_newer_apart(conn, adopted_pool):
    with pytest.raises(SchemaMismatchError, match=r'older .*python -m db\.migrate'):
        await check_schema(adopted_pool)
    await migrate(conn)
    await check_schema(adopted_pool)
    await conn.execute(
        'INSERT INTO _pogo_migration (migration_hash, migration_id, applied, schema_name) '
        "VALUES (repeat('0', 64), '9999_from_the_future', now(), 'public')"
    )
    with pytest.raises(SchemaMismatchError, match=r'newer .* 9999_from_the_future'):
        await check_schema(adopted_pool)
    await conn.execute("DELETE FROM _pogo_migration WHERE migration_id LIKE '0001%'")
    with pytest.raises(SchemaMismatchError, match='0001_outbox'):
        await check_schema(adopted_pool)


async def test_command_migrates_and_says_so_twice(conn, empty_database, adopted_pool):
    for _ in range(2):
        result = await asyncio.to_thread(run_migrate, empty_database.dsn)
        assert (result.returncode, result.stdout) == (0, f'schema is up to date ({max(known_migrations())})\n')
        assert 'Traceback' not in result.stderr
    await check_schema(adopted_pool)


@pytest.mark.parametrize('what', ['away', 'wrong password', 'no such database'])
async def test_command_that_cannot_connect_says_where_in_one_line(empty_database, what):
    dsn = {
        'away': f'postgresql://mail:secret-password@127.0.0.1:{free_port()}/mail',
        'wrong password': f'postgresql://nobody:secret-password@{empty_database.dsn.rpartition("@")[2]}',
        'no such database': f'{empty_database.dsn}_not',
    }[what]
    result = await asyncio.to_thread(run_migrate, dsn)
    assert (result.returncode, result.stdout) == (1, '')
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f'cannot connect to PostgreSQL at {dsn.rpartition("@")[2]}: ')
    assert 'secret-password' not in result.stderr


@pytest.mark.parametrize(('max_attempts', 'stored'), [(None, 32767), (5, 5)])
async def test_rows_that_do_not_say_carry_the_number_of_the_settings_or_none_of_their_own(conn, max_attempts, stored):
    await migrate(conn, max_attempts)
    sql = "INSERT INTO outbound_emails (recipient) VALUES ('anna@example.com') RETURNING max_attempts"
    assert await conn.fetchval(sql) == stored
