"""The schema: made from nothing, adopted from a table that was there before, checked by
the worker.
"""

import asyncio
import subprocess
import sys
from typing import Any

import asyncpg
import pytest

from db.migrate import migrate
from db.schema import SchemaMismatchError, check_schema, known_migrations
from dev.ports import free_port
from mail_outbox.outbox import queue_email
from tests.conftest import ROOT


async def shape(conn: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Everything about the tables that a migration could change."""
    columns = await conn.fetch(
        'SELECT table_name, column_name, data_type, is_nullable, column_default FROM '
        'information_schema.columns '
        "WHERE table_schema = 'public' AND table_name NOT LIKE '\\_pogo%' ORDER BY 1, 2"
    )
    indexes = await conn.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    )
    constraints = await conn.fetch(
        'SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = '
        "'public'::regnamespace "
        'ORDER BY 1, 2'
    )
    return [
        tuple(row)
        for rows in (columns, indexes, constraints)
        for row in rows
        if '_pogo' not in str(row)
    ]


def run_migrate(dsn: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'db.migrate'], cwd=ROOT, env={'DATABASE_URL': dsn},
        capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


async def test_fresh_database_gets_the_schema_and_a_second_run_changes_nothing(conn, worker_pool):
    await migrate(conn)
    await check_schema(worker_pool)
    before = await shape(conn)
    applied = await conn.fetch('SELECT * FROM _pogo_migration')
    assert {row['migration_id'] for row in applied} == known_migrations()
    email_id = await queue_email(conn, recipient='a@example.com', subject='s', body_text='t')
    await migrate(conn)
    assert await shape(conn) == before
    assert await conn.fetch('SELECT * FROM _pogo_migration') == applied
    assert await conn.fetchval('SELECT id FROM outbound_emails') == email_id


async def test_two_migrations_at_once_are_one(conn, empty_database, worker_pool):
    other = await asyncpg.connect(empty_database.dsn)
    await asyncio.gather(migrate(conn), migrate(other))
    await check_schema(worker_pool)
    assert await conn.fetchval('SELECT count(*) FROM _pogo_migration') == len(known_migrations())
    assert await conn.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await other.close()


async def test_schema_check_tells_none_older_and_newer_apart(conn, worker_pool):
    with pytest.raises(SchemaMismatchError, match=r'older .*python -m db\.migrate'):
        await check_schema(worker_pool)
    await migrate(conn)
    await check_schema(worker_pool)
    await conn.execute(
        'INSERT INTO _pogo_migration (migration_hash, migration_id, applied, schema_name) '
        "VALUES (repeat('0', 64), '9999_from_the_future', now(), 'public')"
    )
    with pytest.raises(SchemaMismatchError, match=r'newer .* 9999_from_the_future'):
        await check_schema(worker_pool)
    await conn.execute("DELETE FROM _pogo_migration WHERE migration_id LIKE '0001%'")
    with pytest.raises(SchemaMismatchError, match='0001_outbox'):
        await check_schema(worker_pool)


async def test_command_migrates_and_says_so_twice(conn, empty_database, worker_pool):
    for _ in range(2):
        result = await asyncio.to_thread(run_migrate, empty_database.dsn)
        assert (result.returncode, result.stdout) == (
            0,
            f'schema is up to date ({max(known_migrations())})\n',
        )
        assert 'Traceback' not in result.stderr
    await check_schema(worker_pool)


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
async def test_rows_that_do_not_say_carry_the_number_of_the_settings_or_none_of_their_own(
    conn, max_attempts, stored
):
    await migrate(conn, max_attempts)
    sql = (
        "INSERT INTO outbound_emails (recipient) VALUES ('anna@example.com') RETURNING max_attempts"
    )
    assert await conn.fetchval(sql) == stored


async def test_a_dead_reason_of_somebody_elses_words_is_kept_as_an_error(conn):
    await migrate(conn)
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, status, dead_reason) VALUES '
        "('a@example.com', 'failed', 'rejected')"
    )
    await conn.execute(
        'ALTER TABLE outbound_emails DROP CONSTRAINT outbound_emails_dead_reason_known'
    )
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, status, dead_reason, last_error) '
        "VALUES ('b@example.com', 'failed', 'spam', '451 later'), ('c@example.com', 'failed', "
        "'spam', NULL)"
    )
    await conn.execute(
        "DELETE FROM _pogo_migration WHERE left(migration_id, 4) IN ('0007', '0008')"
    )
    await migrate(conn)
    rows = await conn.fetch('SELECT dead_reason, last_error FROM outbound_emails ORDER BY id')
    assert [tuple(row) for row in rows] == [
        ('rejected', None),
        ('given up', '451 later; spam'),
        ('given up', 'spam'),
    ]
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE outbound_emails SET dead_reason = 'spam'")
