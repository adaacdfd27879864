"""Behind pgbouncer, in each of its modes: mail goes out once, or the worker says what is wrong."""

import asyncio
import subprocess
import sys
from collections import Counter

import asyncpg
import pytest

from db.pools import create_postgres_pool
from db.wakeups import listen
from mail_outbox.outbox import queue_email
from mail_outbox.wake import notify
from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import insert, ops

OURS = (
    'statement_timeout,idle_in_transaction_session_timeout'
    ',enable_seqscan,enable_sort,enable_hashjoin,enable_mergejoin'
)

MODES = pytest.mark.parametrize(
    'options',
    [{}, {'ignored': OURS}, {'pool_mode': 'session'}, {'pool_mode': 'session', 'ignored': OURS}],
    ids=[
        'refuses parameters',
        'forgets parameters',
        'by the session',
        'by the session, forgets parameters',
    ],
)


def open_pool(dsn, **options):
    options = {
        'size': 4,
        'connect_timeout_s': 20,
        'command_timeout_s': 20,
        'by_index': True,
    } | options
    return create_postgres_pool(dsn, application_name='tests', **options)


async def emails(pool, count):
    async with pool.acquire() as conn, conn.transaction():
        return [
            await queue_email(
                conn, recipient=f'anna{n}@example.com', subject='Hello', body_text='Hello.'
            )
            for n in range(count)
        ]


@pytest.fixture
async def start_pool():
    opened = []

    async def start(dsn, **options):
        opened.append(await open_pool(dsn, **options))
        return opened[-1]

    yield start
    for pool in opened:
        pool.terminate()


@MODES
async def test_200_emails_are_sent_once_by_a_worker_behind_a_pooler_and_a_direct_one(
    start_pooler, start_worker, pool, inbox, options
):
    pooler = await start_pooler(**options)
    await emails(pool, 200)
    workers = [start_worker(DATABASE_URL=pooler.dsn), start_worker()]
    for worker in workers:
        await worker.started()
    sent = "SELECT count(*) = 200 FROM outbound_emails WHERE status = 'sent'"
    await wait_until(lambda: pool.fetchval(sent), what='200 e-mails sent')
    copies = Counter(entry['rcpt_to'][0] for entry in inbox.accepted())
    assert (len(copies), set(copies.values())) == (200, {1})
    assert 'postgresql.unreachable' not in workers[0].log


async def test_worker_behind_a_pooler_sends_alone_what_is_queued_later(
    start_pooler, start_worker, pool, inbox
):
    pooler = await start_pooler(sessions=2)
    worker = start_worker(DATABASE_URL=pooler.dsn)
    await worker.started()
    await emails(pool, 20)
    await notify(pool)
    await wait_until(lambda: len(inbox.accepted()) == 20, what='20 e-mails sent')
    worker.stop()
    assert worker.process.returncode == 0
    assert 'Traceback' not in worker.log


@MODES
async def test_each_statement_has_our_settings_behind_a_pooler(start_pooler, start_pool, options):
    pooler = await start_pooler(**options)
    pool = await start_pool(pooler.dsn)
    names = ('enable_seqscan', 'TimeZone', 'statement_timeout')
    shown = ', '.join(f"current_setting('{name}')" for name in names)
    ask = f'SELECT {shown}, $1::int'
    assert tuple(await pool.fetchrow(ask, 7)) == ('off', 'UTC', '19s', 7)
    async with pool.acquire() as conn, conn.transaction():
        assert tuple(await conn.fetchrow(ask, 7)) == ('off', 'UTC', '19s', 7)
        async with conn.transaction():
            assert tuple(await conn.fetchrow(ask, 8)) == ('off', 'UTC', '19s', 8)


async def test_nothing_of_ours_is_left_in_the_sessions_of_others(start_pooler, start_pool):
    pooler = await start_pooler(sessions=1)
    pool = await start_pool(pooler.dsn)
    assert await pool.fetchval("SELECT current_setting('enable_seqscan')") == 'off'
    other = await asyncpg.connect(pooler.dsn, statement_cache_size=0)
    assert await other.fetchval("SELECT current_setting('enable_seqscan')") == 'on'
    assert await other.fetchval('SELECT count(*) FROM pg_prepared_statements') == 0
    await other.close()


async def test_failed_and_cancelled_statements_leave_no_transaction_open_behind_a_pooler(
    start_pooler, start_pool
):
    pooler = await start_pooler(sessions=1)
    pool = await start_pool(pooler.dsn, size=1)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await pool.fetchval('SELECT 1 / $1::int', 0)
    with pytest.raises(asyncpg.DataError):
        await pool.fetchval('SELECT $1::int', 'seven')

    async def fail_in_a_transaction():
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute('CREATE TABLE left_over ()')
            await conn.fetchval('SELECT 1 / $1::int', 0)

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail_in_a_transaction()
    asking = asyncio.create_task(pool.fetchval('SELECT pg_sleep(60)'))
    await wait_until(lambda: pool.get_idle_size() == 0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await pool.fetchval("SELECT to_regclass('left_over')") is None


async def test_pooler_by_the_statement_stops_the_worker_with_a_line_that_names_the_remedy(
    start_pooler, start_worker
):
    pooler = await start_pooler(pool_mode='statement')
    worker = start_worker(DATABASE_URL=pooler.dsn)
    assert await worker.ended() == 1
    (line,) = [line for line in worker.log.splitlines() if line.startswith('worker: ')]
    assert 'pool_mode' in line
    assert 'DATABASE_URL' in line


@pytest.mark.parametrize('what', ['role', 'password', 'parameter'])
async def test_what_a_pooler_refuses_for_good_stops_the_worker_with_one_line(
    start_pooler, start_worker, what
):
    pooler = await start_pooler()
    userinfo = pooler.dsn.partition('//')[2].partition('@')[0]
    dsn = {
        'role': pooler.dsn.replace(userinfo, f'nobody:{userinfo.partition(":")[2]}'),
        'password': pooler.dsn.replace(userinfo, f'{userinfo.partition(":")[0]}:geheim'),
        'parameter': f'{pooler.dsn}?search_path=public',
    }[what]
    worker = start_worker(DATABASE_URL=dsn)
    assert await worker.ended() == 1
    (line,) = [line for line in worker.log.splitlines() if line.startswith('worker: ')]
    assert 'DATABASE_URL' in line
    assert 'geheim' not in worker.log
    assert 'Traceback' not in worker.log


async def test_notifications_are_heard_by_the_direct_address(
    start_pooler, start_worker, database, pool, redis, inbox
):
    pooler = await start_pooler()
    worker = start_worker(DATABASE_URL=pooler.dsn, DATABASE_DIRECT_URL=database.dsn)
    await worker.started()
    assert 'postgresql.notify_unavailable' not in worker.log
    listening = (
        'SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query '
        "LIKE 'LISTEN%'"
    )
    await wait_until(lambda: pool.fetchval(listening), what='a session that listens')


async def test_without_a_direct_address_it_looks_for_itself(start_pooler, monkeypatch):
    monkeypatch.setattr('db.wakeups.LOOK_EVERY_S', 0.01)
    pooler = await start_pooler()
    called = asyncio.Event()
    listening = asyncio.create_task(listen(pooler.dsn, 5, called.set))
    await asyncio.wait_for(called.wait(), 20)
    listening.cancel()


@MODES
async def test_migrations_refuse_a_pooler_and_name_the_direct_address(
    start_pooler, database, options
):
    pooler = await start_pooler(**options)
    command = [sys.executable, '-m', 'db.migrate']
    run = subprocess.run  # the server of the test answers meanwhile
    refused = await asyncio.to_thread(
        run, command, cwd=ROOT, env={'DATABASE_URL': pooler.dsn}, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert refused.stderr.count('\n') == 1
    assert 'DATABASE_DIRECT_URL' in refused.stderr
    env = {'DATABASE_URL': pooler.dsn, 'DATABASE_DIRECT_URL': database.dsn}
    done = await asyncio.to_thread(run, command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


async def test_sessions_that_a_pooler_opened_read_only_are_ended(
    start_pooler, start_pool, database, pool
):
    pooler = await start_pooler(sessions=2)
    pooled = await start_pool(pooler.dsn, size=2)
    write = 'UPDATE outbound_emails SET updated_at = now() WHERE id = 0'
    await pool.execute(f'ALTER DATABASE {database.name} SET default_transaction_read_only = on')
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pooled.execute(write)
    finally:
        await pool.execute(f'ALTER DATABASE {database.name} RESET default_transaction_read_only')

    async def writes():
        try:
            return await pooled.execute(write)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return None

    await wait_until(writes, what='a session that writes')
    assert await pooled.execute(write) == 'UPDATE 0'


async def test_pooler_that_restarts_or_loses_its_server_is_waited_for(
    start_pooler, start_worker, pool, inbox
):
    pooler = await start_pooler()
    worker = start_worker(DATABASE_URL=pooler.dsn)
    await worker.started()
    await asyncio.to_thread(pooler.kill)
    await emails(pool, 10)
    await asyncio.to_thread(pooler.start)
    await wait_until(lambda: len(inbox.accepted()) == 10, what='10 e-mails sent')
    assert worker.process.poll() is None


async def test_doctor_warns_of_a_pooler_that_there_is_no_way_past(start_pooler, env, database):
    pooler = await start_pooler()

    async def found(**variables):
        checked = await ops(env | variables, 'doctor', 'postgresql', '--json')
        return [row['what'] for row in checked.document['findings'] if 'DATABASE_' in row['what']]

    (alone,) = await found(DATABASE_URL=pooler.dsn)
    assert 'NOTIFY is not heard' in alone
    assert await found(DATABASE_URL=pooler.dsn, DATABASE_DIRECT_URL=database.dsn) == []
    (wrong,) = await found(DATABASE_URL=pooler.dsn, DATABASE_DIRECT_URL=pooler.dsn)
    assert 'a pooler stands before it' in wrong
    assert await found() == []


@pytest.mark.parametrize(
    'words',
    [
        ['failed'],
        ['show', '1'],
        ['retry', '1', '--yes'],
        ['qshape'],
        ['cron', 'ls'],
        ['suppress', 'ls'],
    ],
)
async def test_commands_work_behind_a_pooler(start_pooler, env, pool, words):
    pooler = await start_pooler()
    await insert(pool, status='failed')
    direct = await ops(env, *words, '--json')
    await pool.execute("UPDATE outbound_emails SET status = 'failed'")
    pooled = await ops(env | {'DATABASE_URL': pooler.dsn}, *words, '--json')
    assert (pooled.status, pooled.err) == (direct.status, direct.err)
