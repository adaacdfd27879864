"""Errors that are a connection's own end the connection.

Those that waiting does not heal end the worker's start.
"""

import asyncio
import ssl
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from db.errors import DATABASE_DOWN, ErrorKind, kind_of, words_of
from db.pools import create_postgres_pool
from db.wakeups import listen
from mail_outbox.outbox import queue_email
from mail_outbox.wake import notify
from tests.conftest import wait_until

WRITE = 'UPDATE outbound_emails SET updated_at = now() WHERE id = 0'
PID = 'SELECT pg_backend_pid()'


@pytest.fixture
async def few(database):
    """A pool of three connections, all of them open."""
    pool = await create_postgres_pool(
        database.dsn, size=3, connect_timeout_s=20, command_timeout_s=20, application_name='tests'
    )
    await asyncio.gather(*(pool.execute('SELECT pg_sleep(0.1)') for _ in range(3)))
    assert pool.get_size() == 3
    yield pool
    pool.terminate()


async def pids(pool):
    return set(
        await asyncio.gather(*(pool.fetchval(f'{PID} FROM pg_sleep(0.1)') for _ in range(3)))
    )


async def set_read_only(database, pool, *, on):
    change = (
        'SET default_transaction_read_only = on' if on else 'RESET default_transaction_read_only'
    )
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('SET TRANSACTION READ WRITE')
        await conn.execute(f'ALTER DATABASE {database.name} {change}')


async def test_session_opened_while_the_database_was_read_only_is_dropped_with_all_others(
    database, pool
):
    await set_read_only(database, pool, on=True)
    try:
        few = await create_postgres_pool(
            database.dsn,
            size=3,
            connect_timeout_s=20,
            command_timeout_s=20,
            application_name='tests',
        )
        before = await pids(few)
    finally:
        await set_read_only(database, pool, on=False)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await few.execute(WRITE)
    assert await asyncio.gather(*(few.execute(WRITE) for _ in range(6))) == ['UPDATE 0'] * 6
    assert not await pids(few) & before
    few.terminate()


async def test_session_found_read_only_in_a_transaction_is_dropped_when_that_has_ended(
    database, pool
):
    await set_read_only(database, pool, on=True)
    try:
        few = await create_postgres_pool(
            database.dsn,
            size=1,
            connect_timeout_s=20,
            command_timeout_s=20,
            application_name='tests',
        )
        await few.execute('SELECT 1')
    finally:
        await set_read_only(database, pool, on=False)

    async def write():
        async with few.acquire() as conn, conn.transaction():
            await conn.execute(WRITE)

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await write()
    await write()
    few.terminate()


async def test_worker_goes_on_after_the_database_was_read_only(database, pool, start_worker, inbox):
    """A managed server with a full disk; whatever sessions it opened meanwhile."""
    await set_read_only(database, pool, on=True)
    worker = start_worker()
    try:
        await worker.started()
        await wait_until(
            lambda: 'read-only transaction' in worker.log, what='a write that was refused'
        )
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute('SET TRANSACTION READ WRITE')
            await queue_email(
                conn, recipient='anna@example.com', subject='Hello', body_text='Hello.'
            )
    finally:
        await set_read_only(database, pool, on=False)
    await wait_until(inbox.accepted, what='the e-mail')
    await wait_until(lambda: pool.fetchval("SELECT status = 'sent' FROM outbound_emails"))
    assert worker.process.poll() is None


async def test_session_that_was_ended_idle_in_a_transaction_is_replaced(few):
    async with few.acquire() as conn:
        await conn.execute("SET idle_in_transaction_session_timeout = '1ms'")

        async def linger():
            async with conn.transaction():
                await wait_until(conn.is_closed)
                await conn.execute(WRITE)

        with pytest.raises(DATABASE_DOWN):
            await linger()
    assert await few.execute(WRITE) == 'UPDATE 0'


@pytest.mark.parametrize('taken', ['DEALLOCATE ALL', 'DISCARD ALL'])
async def test_session_whose_prepared_statements_were_taken_away_is_replaced(database, taken):
    pool = await create_postgres_pool(
        database.dsn, size=1, connect_timeout_s=20, command_timeout_s=20, application_name='tests'
    )
    before = await pool.fetchval(PID)
    await pool.execute(taken)
    with pytest.raises(DATABASE_DOWN):
        await pool.fetchval(PID)
    assert await pool.fetchval(PID) != before
    pool.terminate()


async def test_sessions_that_an_operator_ended_are_replaced(few, pool):
    before = await pids(few)
    for pid in before:
        await pool.execute('SELECT pg_terminate_backend($1)', pid)

    async def passes():
        try:
            return await pids(few)
        except DATABASE_DOWN:
            return None

    assert not await wait_until(passes) & before


@pytest.mark.parametrize(
    'statement',
    [
        'SELECT 1 / 0',
        'SELECT nothing',
        "SELECT 'x'::int",
        'INSERT INTO outbound_emails DEFAULT VALUES',
    ],
)
async def test_error_of_a_statement_leaves_its_connection_alone(few, statement):
    before = await pids(few)
    with pytest.raises(asyncpg.PostgresError) as raised:
        await few.execute(statement)
    assert not isinstance(raised.value, DATABASE_DOWN)
    assert await pids(few) == before


async def test_argument_that_does_not_fit_is_the_statements_error_and_never_an_unreachable_server(
    few,
):
    with pytest.raises(asyncpg.DataError) as raised:
        await few.fetch('SELECT $1::int', 'seven')
    assert not isinstance(raised.value, DATABASE_DOWN)


@pytest.mark.parametrize('timeout_s', [0.2, 0.5, 1, 7.3, 15, 60, 61, 120, 300])
async def test_session_of_our_own_is_never_taken_for_a_pooler(database, timeout_s):
    pool = await create_postgres_pool(
        database.dsn,
        size=1,
        connect_timeout_s=20,
        command_timeout_s=timeout_s,
        application_name='tests',
    )
    async with pool.acquire(timeout=20) as conn:
        assert not conn.is_pooled
    pool.terminate()


async def test_statement_that_takes_too_long_is_ended_by_the_server_and_told_as_such(database):
    pool = await create_postgres_pool(
        database.dsn, size=1, connect_timeout_s=20, command_timeout_s=0.5, application_name='tests'
    )
    before = await pool.fetchval(PID)
    with pytest.raises(asyncpg.QueryCanceledError) as raised:
        await pool.execute('SELECT pg_sleep(60)')
    assert kind_of(raised.value) is ErrorKind.LIMIT
    assert 'time limit' in words_of(raised.value)
    assert await pool.fetchval(PID) == before
    pool.terminate()


def changed(dsn, *, userinfo=None, **parts):
    place = urlsplit(dsn)
    netloc = f'{userinfo}@{place.netloc.rpartition("@")[2]}' if userinfo else place.netloc
    return urlunsplit(place._replace(netloc=netloc, **parts))


HOPELESS = {
    'a role that does not exist': (lambda dsn: changed(dsn, userinfo='nobody:geheim'), 'DB_USER'),
    'a wrong password': (lambda dsn: changed(dsn, userinfo='postgres:geheim'), 'DB_PASSWORD'),
    'a database that does not exist': (lambda dsn: changed(dsn, path='/no_such_database'),
        'DB_NAME'),
    'an unknown parameter': (lambda dsn: changed(dsn, query='conect_timeout=5'), 'DATABASE_URL'),
    'a parameter out of range': (lambda dsn: changed(dsn, query='work_mem=lots'), 'DATABASE_URL'),
    'TLS where there is none': (lambda dsn: changed(dsn, query='sslmode=require'), 'DATABASE_URL'),
    'a wrong sslmode': (lambda dsn: changed(dsn, query='sslmode=sometimes'), 'DATABASE_URL'),
    'a certificate file that is missing': (
        lambda dsn: changed(dsn, query='sslmode=verify-full&sslrootcert=/no/such/file'),
        'DATABASE_URL',
    ),
}  # fmt: skip


@pytest.mark.parametrize('what', HOPELESS)
async def test_what_waiting_does_not_heal_stops_the_worker_with_one_line_that_names_the_variable(
    database, start_worker, what
):
    change, variable = HOPELESS[what]
    worker = start_worker(DATABASE_URL=change(database.dsn))
    assert await worker.ended() == 1
    (line,) = [
        line for line in worker.log.splitlines() if line.startswith(('worker: ', 'settings: '))
    ]
    assert variable in line
    assert 'geheim' not in worker.log
    assert 'postgresql.unreachable' not in worker.log
    assert 'Traceback' not in worker.log


async def test_role_without_rights_stops_the_worker_with_one_line(database, pool, start_worker):
    role = f'{database.name}_guest'
    await pool.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    try:
        worker = start_worker(DATABASE_URL=changed(database.dsn, userinfo=f'{role}:geheim'))
        assert await worker.ended() == 1
    finally:
        await pool.execute(f'DROP ROLE {role}')
    (line,) = [line for line in worker.log.splitlines() if line.startswith('worker: ')]
    assert 'permission denied' in line
    assert 'DB_USER' in line


async def test_function_that_is_missing_stops_the_worker_with_one_line(
    database, pool, start_worker, monkeypatch
):
    """As after an extension was dropped."""
    await pool.execute('ALTER TABLE mail_switches RENAME COLUMN reason TO other')
    worker = start_worker()
    try:
        assert await worker.ended() == 1
    finally:
        await pool.execute('ALTER TABLE mail_switches RENAME COLUMN other TO reason')
    (line,) = [line for line in worker.log.splitlines() if line.startswith('worker: ')]
    assert 'db.migrate' in line


async def test_running_worker_tells_of_a_password_that_was_changed_and_goes_on_when_it_is_back(
    database, pool, start_worker, inbox
):
    role = f'{database.name}_app'
    await pool.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'geheim'")
    try:
        worker = await start_worker(
            DATABASE_URL=changed(database.dsn, userinfo=f'{role}:geheim')
        ).started()
        await pool.execute(f"ALTER ROLE {role} PASSWORD 'other'")
        end = 'SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1'
        await pool.fetchval(end, role)
        await wait_until(lambda: 'PostgreSQL refuses: password authentication failed' in worker.log)
        assert 'correct DB_USER and DB_PASSWORD' in worker.log
        await pool.execute(f"ALTER ROLE {role} PASSWORD 'geheim'")
        async with pool.acquire() as conn, conn.transaction():
            await queue_email(
                conn, recipient='anna@example.com', subject='Hello', body_text='Hello.'
            )
            await notify(conn)
        await wait_until(inbox.accepted, what='the e-mail')
        assert worker.process.poll() is None
        assert 'geheim' not in worker.log
        worker.stop()
    finally:
        await pool.execute(f'DROP ROLE {role}')


async def test_too_many_connections_are_waited_for(database, pool, start_worker, inbox):
    await pool.execute(f'ALTER DATABASE {database.name} CONNECTION LIMIT 0')
    role = f'{database.name}_app'
    await pool.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'geheim' IN ROLE pg_write_all_data, pg_read_all_data"
    )
    try:
        worker = start_worker(DATABASE_URL=changed(database.dsn, userinfo=f'{role}:geheim'))
        await wait_until(lambda: 'postgresql.unreachable' in worker.log)
        assert worker.process.poll() is None
        worker.stop()
    finally:
        await pool.execute(f'ALTER DATABASE {database.name} CONNECTION LIMIT -1')
        await pool.execute(f'DROP ROLE {role}')


async def test_listener_is_back_at_once_after_its_session_was_ended_and_asks_for_a_sweep(
    database, pool
):
    heard, told = asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(listen(database.dsn, 5, heard.set, {'other': told.set}))
    find = (
        'SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '
        "'LISTEN%'"
    )
    first = await wait_until(lambda: pool.fetchval(find))
    await wait_until(told.is_set)  # looked after the first connect
    heard.clear()
    told.clear()
    await pool.execute('SELECT pg_terminate_backend($1)', first)
    await wait_until(heard.is_set, 10)  # not a notification: what was notified meanwhile
    await wait_until(told.is_set, 10)
    heard.clear()
    await notify(pool)
    await wait_until(heard.is_set)
    listening.cancel()


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (ConnectionRefusedError(111, 'refused'), ErrorKind.UNREACHABLE),
        (TimeoutError(), ErrorKind.UNREACHABLE),
        (asyncpg.TooManyConnectionsError('too many'), ErrorKind.UNREACHABLE),
        (
            asyncpg.CannotConnectNowError('the database system is starting up'),
            ErrorKind.UNREACHABLE,
        ),
        (asyncpg.TargetServerAttributeNotMatched('none of the hosts'), ErrorKind.UNREACHABLE),
        (asyncpg.ReadOnlySQLTransactionError('read-only'), ErrorKind.UNREACHABLE),
        (asyncpg.DiskFullError('no space left'), ErrorKind.UNREACHABLE),
        (asyncpg.DeadlockDetectedError('deadlock'), ErrorKind.UNREACHABLE),
        (asyncpg.ProtocolViolationError('query_wait_timeout'), ErrorKind.UNREACHABLE),
        (
            asyncpg.ProtocolViolationError('pgbouncer cannot connect to server'),
            ErrorKind.UNREACHABLE,
        ),
        (
            FileNotFoundError(2, 'No such file or directory'),
            ErrorKind.UNREACHABLE,
        ),  # the socket of a server that is not up
        (asyncpg.QueryCanceledError('statement timeout'), ErrorKind.LIMIT),
        (asyncpg.LockNotAvailableError('lock timeout'), ErrorKind.LIMIT),
        (asyncpg.InvalidPasswordError('password'), ErrorKind.REFUSED),
        (asyncpg.InvalidAuthorizationSpecificationError('no pg_hba.conf entry'), ErrorKind.REFUSED),
        (asyncpg.InvalidCatalogNameError('database'), ErrorKind.REFUSED),
        (asyncpg.ProtocolViolationError('unsupported startup parameter: x'), ErrorKind.REFUSED),
        (asyncpg.ProtocolViolationError('no such user: x'), ErrorKind.REFUSED),
        (asyncpg.ProtocolViolationError('SASL authentication failed'), ErrorKind.REFUSED),
        (asyncpg.InsufficientPrivilegeError('permission denied'), ErrorKind.REFUSED),
        (asyncpg.UndefinedFunctionError('function digest does not exist'), ErrorKind.REFUSED),
        (asyncpg.UndefinedObjectError('unrecognized configuration parameter'), ErrorKind.REFUSED),
        (asyncpg.FeatureNotSupportedError('extension "x" is not available'), ErrorKind.REFUSED),
        (asyncpg.UndefinedFileError('could not open extension control file'), ErrorKind.REFUSED),
        (ssl.SSLCertVerificationError('certificate verify failed'), ErrorKind.REFUSED),
        (FileNotFoundError(2, 'No such file or directory', '/etc/ca.pem'), ErrorKind.REFUSED),
    ],
)
def test_error_is_known_for_one_that_heals_or_not(error, kind):
    assert kind_of(error) is kind
