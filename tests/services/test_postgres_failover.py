"""PostgreSQL fails over to a standby.

An address with both hosts follows the one that takes writes.
"""

import asyncio
from collections import Counter

import asyncpg
import pytest

from db.migrate import migrate
from db.pools import create_postgres_pool
from dev.postgres import Postgres, PostgresPasswords
from dev.postgres_home import remove_data
from dev.standby import Standby
from dev.watchdog import Watchdog
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.ops_desk import run

PASSWORDS = PostgresPasswords('geheim', 'geheimer')


@pytest.fixture
async def servers(tmp_path):
    """A primary with our schema, and a standby that is in step."""
    watchdog = Watchdog()
    primary = Postgres(tmp_path / 'primary', watchdog, PASSWORDS)
    await asyncio.to_thread(primary.start)
    conn = await asyncpg.connect(primary.superuser_url)
    await migrate(conn)
    standby = Standby(tmp_path / 'standby', watchdog, PASSWORDS).follow(primary)
    await asyncio.to_thread(standby.start)
    await wait_until(
        lambda: conn.fetchval(
            "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
        )
    )
    # What the primary has told anybody, the standby has: else a failover loses it, and that is not
    # ours to mend.
    await conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await conn.execute('SELECT pg_reload_conf()')
    await conn.close()
    yield primary, standby
    for server in (primary, standby):
        await asyncio.to_thread(server.discard)
        remove_data(server.directory)
    watchdog.close()


def open_pool(dsn):
    return create_postgres_pool(
        dsn, size=4, connect_timeout_s=5, command_timeout_s=5, application_name='tests'
    )


async def queue(pool, count, first=0):
    async with pool.acquire() as conn, conn.transaction():
        for n in range(first, first + count):
            await queue_email(
                conn, recipient=f'anna{n}@example.com', subject='Hello', body_text='Hello.'
            )


async def test_mail_in_flight_survives_the_promotion_of_a_standby(servers, start_worker, inbox):
    primary, standby = servers
    dsn = Standby.both(primary, standby)
    worker = start_worker(DATABASE_URL=dsn, WORKER_LEASE_S='2')
    await worker.started()
    pool = await open_pool(primary.superuser_url)
    await queue(pool, 200)
    await pool.execute("SELECT pg_notify('outbound_emails_due', '')")
    await wait_until(inbox.accepted, what='the first e-mail')
    pool.terminate()
    await asyncio.to_thread(primary.kill)
    promoted = await open_pool(standby.superuser_url)
    await promoted.execute('ALTER SYSTEM RESET synchronous_standby_names')
    await promoted.execute('SELECT pg_promote()')
    await queue(promoted, 1, first=200)
    sent = "SELECT count(*) FILTER (WHERE status = 'sent') = 201 FROM outbound_emails"
    await wait_until(lambda: promoted.fetchval(sent), what=f'all e-mails: {worker.log[-500:]}')
    copies = Counter(entry['rcpt_to'][0] for entry in inbox.accepted())
    assert len(copies) == 201
    # A second copy is one that the outbox explains: its first attempt's answer was lost with the
    # primary.
    explained = "SELECT count(*) FROM email_attempts WHERE outcome IN ('uncertain', 'lost')"
    assert sum(copies.values()) - 201 <= await promoted.fetchval(explained)
    assert worker.process.poll() is None
    promoted.terminate()


async def test_pool_leaves_a_primary_that_was_demoted(servers):
    primary, standby = servers
    pool = await open_pool(Standby.both(primary, standby))
    await queue(pool, 1)
    await asyncio.to_thread(primary.kill)
    promoted = await open_pool(standby.superuser_url)
    await promoted.execute('ALTER SYSTEM RESET synchronous_standby_names')
    await promoted.execute('SELECT pg_promote()')

    async def writes():
        try:
            return await pool.execute('UPDATE outbound_emails SET updated_at = now()')
        except (
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ):
            return None

    assert await wait_until(writes) == 'UPDATE 1'
    pool.terminate()
    promoted.terminate()


async def test_session_with_a_standby_is_dropped_by_a_write(servers):
    """A name that led to the wrong server when the session was opened."""
    _, standby = servers
    pool = await open_pool(standby.superuser_url)
    before = await pool.fetchval('SELECT pg_backend_pid()')
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await pool.execute('UPDATE outbound_emails SET updated_at = now()')
    assert await pool.fetchval('SELECT pg_backend_pid()') != before
    pool.terminate()


async def test_commands_take_both_hosts_and_name_them(servers, env):
    primary, standby = servers
    given = await run(env | {'DATABASE_URL': Standby.both(primary, standby)}, 'failed')
    assert given.exit_status == 0
    await asyncio.to_thread(primary.kill)
    given = await run(env | {'DATABASE_URL': Standby.both(primary, standby)}, 'failed')
    (problem,) = [problem for problem in given.problems if problem.service == 'PostgreSQL']
    assert problem.place == f'127.0.0.1:{primary.port},127.0.0.1:{standby.port}/mail'
    assert 'geheim' not in problem.line
