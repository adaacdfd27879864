"""The embedded stack as a whole: its processes, files and directories, and how it ends."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis
from dotenv import dotenv_values

from dev import env_file
from dev.postgres_home import can_enter, data_directory, remove_data, server_identity
from dev.processes import Identity
from dev.server import ServerFailed
from dev.stack import Stack
from dev.stack_state import DirectoryInUse, lock_directory
from dev.valkey import Valkey
from dev.watchdog import Watchdog

DEADLINE_S = 20.0
DATABASE_VARIABLES = [
    'DATABASE_URL',
    'DB_HOST',
    'DB_PORT',
    'DB_USER',
    'DB_PASSWORD',
    'DB_NAME',
    'MONGODB_URL',
    'MONGODB_DATABASE',
]
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
    """A directory PostgreSQL's user can enter when we are root.

    Pytest's own tmp_path is closed to others.
    """
    directory = Path(tempfile.mkdtemp(prefix='stack-test-'))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


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


def test_watchdog_alone_ends_what_it_watches_and_removes_what_it_was_told(short_dir: Path) -> None:
    script = (
        'import subprocess, sys\nfrom pathlib import Path\nfrom dev.watchdog import Watchdog\n'
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        'watchdog = Watchdog()\nwatchdog.watch(child.pid)\n'
        'watchdog.remove_at_death(Path(sys.argv[1]))\n'
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    doomed = short_dir / 'doomed'
    doomed.mkdir()
    argv = [sys.executable, '-c', script, str(doomed)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        family = descendants(process)
        assert len(family) == 2
        process.kill()
        eventually(lambda: all(is_gone(member) for member in family))
    assert not doomed.exists()


def test_interrupt_during_start_leaves_no_process(short_dir: Path) -> None:
    argv = [sys.executable, '-m', 'dev.stack', '--env-file', str(short_dir / 'stack.env')]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(descendants(process)) >= 3)
    servers = descendants(process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert all(is_gone(server) for server in servers)
    if 'ready' not in output:  # else it was faster than we
        assert not (short_dir / 'stack.env').exists()


def test_foreign_env_file_is_not_overwritten(short_dir: Path) -> None:
    path = short_dir / '.env'
    path.write_text('SMTP_HOST=mail.example.com\n')
    argv = [sys.executable, '-m', 'dev.stack', '--env-file', str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert 'was not written by dev.stack' in done.stderr
    assert path.read_text() == 'SMTP_HOST=mail.example.com\n'


@pytest.mark.parametrize(
    'value', ['plain', 'two words', 'quote " and \\', 'a&b?c', '$HOME `x`', 'ü', 'a#b']
)
def test_env_file_keeps_any_value(short_dir: Path, value: str) -> None:
    path = short_dir / 'any.env'
    env_file.write(path, {'NAME': value})
    in_shell = subprocess.run(
        ['sh', '-c', f'. "{path}"; printf %s "$NAME"'], capture_output=True, text=True, check=True
    ).stdout
    assert in_shell == value
    if not set(value) & set('$`'):  # dotenv expands or keeps these in its own way
        assert dotenv_values(path)['NAME'] == value


def test_server_that_cannot_start_is_named_with_its_log_and_a_remedy(short_dir: Path) -> None:
    manifest = short_dir / 'valkey' / 'appendonlydir' / 'appendonly.aof.manifest'
    manifest.parent.mkdir(parents=True)
    manifest.write_text('nonsense\n')
    with Watchdog() as watchdog:
        server = Valkey(short_dir / 'valkey', watchdog, 'password')
        with pytest.raises(ServerFailed) as failed:
            server.start()
    message = str(failed.value)
    assert message.startswith('Valkey ended with status 1 while starting')
    assert 'AOF manifest' in message
    assert 'Remedy:' in message
    assert not server.is_running


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


def test_directory_is_entered_only_where_every_parent_lets_the_user_pass(short_dir: Path) -> None:
    stranger = Identity(uid=54_321, gid=54_321)
    inner = short_dir / 'closed' / 'inner'
    inner.mkdir(parents=True)
    for step in (short_dir / 'closed', inner):
        step.chmod(0o711)
    assert can_enter(inner, stranger)
    inner.parent.chmod(0o700)
    assert not can_enter(inner, stranger)
    assert can_enter(short_dir, stranger)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root has to run PostgreSQL as somebody else')
def test_postgres_data_goes_where_its_user_can_get_and_is_found_again(short_dir: Path) -> None:
    short_dir.chmod(0o700)
    nobody = server_identity()
    assert nobody is not None
    wanted = short_dir / 'postgres'
    real = data_directory(wanted, nobody)
    try:
        assert not real.is_relative_to(short_dir)
        assert can_enter(real, nobody)
        assert real.stat().st_uid == nobody.uid
        assert data_directory(wanted, nobody) == real
    finally:
        remove_data(wanted)
    assert not real.exists()
    with pytest.raises(FileNotFoundError, match='Remove the whole data directory'):
        data_directory(wanted, nobody)
