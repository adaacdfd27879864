"""The embedded stack itself: real servers, real signals."""

import asyncio
import contextlib
import os
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pymongo
import pytest
import redis
from dotenv import dotenv_values

from dev import env_file
from dev.server import Server, ServerFailed
from dev.stack import Stack
from dev.stack_state import DirectoryInUse, lock_directory

DEADLINE_S = 20.0
DATABASE_VARIABLES = ['DB_HOST', 'DB_PORT', 'DB_USER', 'DB_PASSWORD', 'DB_NAME', 'MONGODB_URL', 'MONGODB_DATABASE']
RELAY_VARIABLES = ['HOST', 'PORT', 'USER', 'PASSWORD', 'USE_TLS']
VARIABLES = {
    'ARQ_REDIS_URL',
    'REDIS_URL',
    *DATABASE_VARIABLES,
    *(f'SMTP_{name}' for name in [*RELAY_VARIABLES, 'FROM_EMAIL', 'FROM_NAME', 'CA_FILE']),
    *(f'SMTP_BACKUP_{name}' for name in RELAY_VARIABLES),
    'INBOX_DIR',
}


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory PostgreSQL's user can enter when we are root; pytest's own tmp_path is closed to others."""
    directory = Path(tempfile.mkdtemp(prefix='stack-test-'))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope='module')
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, 'not within the deadline'
        time.sleep(0.01)


@contextlib.contextmanager
def stack_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m dev.stack` up to its `ready`."""
    argv = [sys.executable, '-m', 'dev.stack', *arguments]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        yield process
    finally:
        process.kill()
        process.communicate()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def connect(env: dict[str, Any], **changed: Any) -> asyncpg.Connection:
    given = {
        'host': env['DB_HOST'],
        'port': int(env['DB_PORT']),
        'user': env['DB_USER'],
        'password': env['DB_PASSWORD'],
        'database': env['DB_NAME'],
    }
    return await asyncpg.connect(**given | changed)


async def fetchval(env: dict[str, Any], sql: str) -> Any:
    connection = await connect(env)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def test_env_file_has_every_variable_and_is_private(short_dir: Path) -> None:
    path = short_dir / 'stack.env'
    with stack_process('--env-file', str(path)) as process:
        values = dotenv_values(path)
        assert set(values) == VARIABLES
        assert all(values.values())
        assert values['SMTP_FROM_NAME'] == 'Example Application'
        assert path.stat().st_mode & 0o777 == 0o600
        assert asyncio.run(fetchval(values, 'SELECT 1')) == 1
        servers = descendants(process)
        data_dir = Path(str(values['INBOX_DIR'])).parent
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
        assert all(is_gone(server) for server in servers)
        assert not data_dir.exists()


def test_kill_of_the_stack_leaves_no_process_and_no_temporary_file(short_dir: Path) -> None:
    path = short_dir / 'stack.env'
    with stack_process('--env-file', str(path)) as process:
        names = {server.name() for server in descendants(process)}
        assert {'postgres', 'valkey-server'} <= names
        servers = descendants(process)
        data_dir = Path(str(dotenv_values(path)['INBOX_DIR'])).parent
        process.kill()
        eventually(lambda: all(is_gone(server) for server in servers))
        eventually(lambda: not data_dir.exists())


def test_kill_of_the_stack_ends_frozen_servers_too(short_dir: Path) -> None:
    script = (
        'import sys\nfrom dev.stack import Stack\n'
        'stack = Stack()\nstack.start()\n'
        'for server in stack.servers: server.freeze()\n'
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        servers = descendants(process)
        assert len(servers) > 4
        process.kill()
        eventually(lambda: all(is_gone(server) for server in servers))


def test_interrupt_during_start_leaves_no_process(short_dir: Path) -> None:
    argv = [sys.executable, '-m', 'dev.stack', '--env-file', str(short_dir / 'stack.env')]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(descendants(process)) >= 3)
    servers = descendants(process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert 'ready' not in output
    assert all(is_gone(server) for server in servers)
    assert not (short_dir / 'stack.env').exists()


def test_foreign_env_file_is_not_overwritten(short_dir: Path) -> None:
    path = short_dir / '.env'
    path.write_text('SMTP_HOST=mail.example.com\n')
    argv = [sys.executable, '-m', 'dev.stack', '--env-file', str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert 'was not written by dev.stack' in done.stderr
    assert path.read_text() == 'SMTP_HOST=mail.example.com\n'


@pytest.mark.parametrize('value', ['plain', 'two words', 'quote " and \\', 'a&b?c', '$HOME `x`', 'ü', 'a#b'])
def test_env_file_keeps_any_value(short_dir: Path, value: str) -> None:
    path = short_dir / 'any.env'
    env_file.write(path, {'NAME': value})
    in_shell = subprocess.run(
        ['sh', '-c', f'. "{path}"; printf %s "$NAME"'], capture_output=True, text=True, check=True
    ).stdout
    assert in_shell == value
    if not set(value) & set('$`'):  # dotenv expands or keeps these in its own way
        assert dotenv_values(path)['NAME'] == value


async def test_postgres_takes_its_password_only(stack: Stack) -> None:
    assert await fetchval(stack.env, "SELECT current_setting('fsync')") == 'on'
    assert await fetchval(stack.env, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mail'") == 'mail'
    for user in ('mail', 'postgres'):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await connect(stack.env, user=user, password='wrong')


async def test_postgres_role_may_copy_a_template(stack: Stack) -> None:
    connection = await connect(stack.env)
    await connection.execute('CREATE DATABASE copy_of_mail TEMPLATE template0')
    await connection.execute('DROP DATABASE copy_of_mail')
    await connection.close()


def test_valkey_takes_its_password_only_and_is_set_up_as_a_queue(stack: Stack) -> None:
    with redis.Redis.from_url(stack.env['ARQ_REDIS_URL'], decode_responses=True) as client:
        settings = client.config_get('appendonly', 'appendfsync', 'maxmemory-policy', 'databases', 'bind')
    assert settings == {
        'appendonly': 'yes',
        'appendfsync': 'everysec',
        'maxmemory-policy': 'noeviction',
        'databases': '16',
        'bind': '127.0.0.1',
    }
    with redis.Redis(port=stack.valkey.port, password='wrong') as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with redis.Redis(port=stack.valkey.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_mongo_is_a_primary_that_takes_writes(stack: Stack) -> None:
    with pymongo.MongoClient[dict[str, Any]](stack.env['MONGODB_URL']) as client:
        assert client.admin.command('hello')['isWritablePrimary']
        collection = client[stack.env['MONGODB_DATABASE']]['things']
        collection.insert_one({'_id': 1, 'data': b'\0' * 100_000})
        assert len(collection.find_one({'_id': 1})['data']) == 100_000


@pytest.mark.parametrize('prefix', ['SMTP', 'SMTP_BACKUP'])
def test_smtp_takes_its_password_only(stack: Stack, prefix: str) -> None:
    env = stack.env
    with smtplib.SMTP(env[f'{prefix}_HOST'], int(env[f'{prefix}_PORT']), timeout=DEADLINE_S) as client:
        client.starttls(context=ssl.create_default_context(cafile=env['SMTP_CA_FILE']))
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(env[f'{prefix}_USER'], 'wrong')
        client.login(env[f'{prefix}_USER'], env[f'{prefix}_PASSWORD'])


def test_servers_listen_on_loopback_only(stack: Stack) -> None:
    for server in stack.servers:
        listening = [
            connection.laddr
            for process in [psutil.Process(server.pid)]
            for connection in process.net_connections(kind='inet')
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {address.ip for address in listening} == {'127.0.0.1'}


def exchange(stack: Stack, server: Server) -> None:
    """One exchange with the server; raises within a second or so when it does not answer."""
    if server is stack.postgres:
        asyncio.run(asyncio.wait_for(fetchval(stack.env, 'SELECT 1'), 0.3))
    elif server is stack.valkey:
        with redis.Redis.from_url(stack.env['REDIS_URL'], socket_timeout=0.3) as client:
            client.ping()
    elif server is stack.mongo:
        options = {'serverSelectionTimeoutMS': 300, 'socketTimeoutMS': 300, 'connectTimeoutMS': 300}
        with pymongo.MongoClient[dict[str, Any]](stack.env['MONGODB_URL'], **options) as client:
            client.admin.command('ping')
    else:
        with socket.create_connection(('127.0.0.1', server.port), 0.3) as connection:
            assert connection.recv(3) == b'220'


@pytest.mark.parametrize('name', ['postgres', 'valkey', 'mongo', 'inbox'])
def test_server_can_be_frozen_killed_and_started_again_on_its_port(stack: Stack, name: str) -> None:
    server: Server = getattr(stack, name)
    env, first_pid = stack.env, server.pid
    server.freeze()
    with pytest.raises((TimeoutError, OSError, redis.RedisError, pymongo.errors.PyMongoError)):
        exchange(stack, server)
    server.thaw()
    exchange(stack, server)
    server.kill()
    assert not server.is_running
    with pytest.raises((OSError, redis.RedisError, pymongo.errors.PyMongoError)):
        exchange(stack, server)
    server.start()
    exchange(stack, server)
    assert server.pid != first_pid
    assert stack.env == env


def test_server_that_cannot_start_is_named_with_its_log_and_a_remedy(short_dir: Path) -> None:
    (short_dir / 'valkey' / 'appendonlydir').mkdir(parents=True)
    (short_dir / 'valkey' / 'appendonlydir' / 'appendonly.aof.manifest').write_text('nonsense\n')
    stack = Stack(short_dir)
    with pytest.raises(ServerFailed) as failed:
        stack.start()
    message = str(failed.value)
    assert message.startswith('Valkey ended with status 1 while starting')
    assert 'AOF manifest' in message
    assert 'Remedy:' in message
    assert not any(server.is_running for server in stack.servers)


def test_data_directory_keeps_data_ports_and_passwords(short_dir: Path) -> None:
    with Stack(short_dir) as first:
        env = first.env
        asyncio.run(fetchval(env, 'CREATE TABLE kept AS SELECT 42 AS answer'))
        with redis.Redis.from_url(env['ARQ_REDIS_URL']) as client:
            client.set('kept', 'yes')
        with pytest.raises(DirectoryInUse, match=str(os.getpid())):
            lock_directory(short_dir, wait_s=0)
        with socket.socket() as taken:  # while it is down, something else takes the port of MongoDB
            first.mongo.stop()
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(('127.0.0.1', first.mongo.port))
            taken.listen()
            first.stop()
            with Stack(short_dir) as second:
                assert {**second.env, 'MONGODB_URL': ''} == {**env, 'MONGODB_URL': ''}
                assert second.env['MONGODB_URL'] != env['MONGODB_URL']
                assert asyncio.run(fetchval(env, 'SELECT answer FROM kept')) == 42
                with redis.Redis.from_url(env['ARQ_REDIS_URL']) as client:
                    assert client.get('kept') == b'yes'


async def test_two_stacks_live_side_by_side(stack: Stack) -> None:
    async with Stack() as other:
        ports = [server.port for server in [*stack.servers, *other.servers]]
        assert len(set(ports)) == len(ports)
        assert await fetchval(other.env, 'SELECT 1') == 1
    assert await fetchval(stack.env, 'SELECT 1') == 1
