"""Real servers for every test that asks.

The embedded stack, or those that TEST_* variables point at.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from motor.motor_asyncio import AsyncIOMotorClient

from db.pools import create_postgres_pool
from dev.debian import DebianStack
from dev.inbox_control import InboxControl
from dev.stack import Stack
from engine.connection import open_redis
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize
from tests.reused_databases import ReusedDatabases

ROOT = Path(__file__).parent.parent
DEADLINE_S = 60.0  # only a broken test waits this long
STACKS = {'wheels': Stack, 'debian': DebianStack}  # TEST_SERVERS
SHARED_SERVERS = ('TEST_DATABASE_URL', 'TEST_ARQ_REDIS_URL', 'TEST_MONGODB_URL')

# Settings that make a worker's clock run fast enough for a test; the code path is the same.
FAST = {'EMAIL_RETRY_BASE_DELAY': '0.4', 'WORKER_POLL_DELAY_S': '0.05', 'WORKER_BEAT_S': '0.4'}
SHORT_LEASE = {'WORKER_LEASE_S': '2'}  # for a worker that is to lose what it holds


def pytest_configure(config: pytest.Config) -> None:
    # What structlog does by itself takes seconds for an exception: a traceback with the values of
    # all variables.
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    if hasattr(config, 'workerinput') and (
        given := [name for name in SHARED_SERVERS if name in os.environ]
    ):
        raise pytest.UsageError(
            f'{", ".join(given)}: one server serves one process of tests: give -n 0'
        )


async def wait_until(
    condition: Callable[[], Any], deadline_s: float = DEADLINE_S, what: str = ''
) -> Any:
    """Return the first truthy value of condition (plain or async), polled.

    Fail after the deadline.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f'not within {deadline_s} s: {what or condition}')
        await asyncio.sleep(0.02)


@pytest.fixture(scope='session')
def stack() -> Iterator[Stack]:
    with STACKS[os.environ.get('TEST_SERVERS', 'wheels')]() as running:
        yield running


@pytest.fixture(scope='session')
def admin_dsn(stack: Stack) -> str:
    """A PostgreSQL login that may create databases."""
    return os.environ.get('TEST_DATABASE_URL') or stack.postgres.superuser_url


@pytest.fixture(scope='session')
def databases(stack: Stack, admin_dsn: str) -> Iterator[ReusedDatabases]:
    databases = ReusedDatabases(admin_dsn)

    async def open_all() -> None:
        if admin_dsn == stack.postgres.superuser_url:
            # Nothing here survives the machine anyway, and writing would be much of the suite's
            # time.
            await databases.administer('ALTER SYSTEM SET fsync = off', 'SELECT pg_reload_conf()')
        await databases.open()

    asyncio.run(open_all())
    yield databases
    asyncio.run(databases.close())


@dataclass(frozen=True)
class Database:
    name: str
    dsn: str


@pytest.fixture
async def database(databases: ReusedDatabases) -> AsyncIterator[Database]:
    """A migrated database without any row; ids begin with 1."""
    name = await databases.take()
    yield Database(name, databases.dsn(name))
    await databases.give_back(name)


@pytest.fixture
async def empty_database(databases: ReusedDatabases) -> AsyncIterator[Database]:
    """A database without any table."""
    name = f'mail_{uuid.uuid4().hex[:12]}'
    await databases.administer(f'CREATE DATABASE {name}')
    yield Database(name, databases.dsn(name))
    await databases.administer(f'DROP DATABASE {name} WITH (FORCE)')


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    pool = await create_postgres_pool(
        database.dsn, size=6, connect_timeout_s=20, command_timeout_s=20, application_name='tests'
    )
    yield pool
    pool.terminate()


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Any]:
    url = os.environ.get('TEST_ARQ_REDIS_URL') or stack.env['ARQ_REDIS_URL']
    client = open_redis(
        redis_settings(url), 'arq:queue', job_serializer=serialize, job_deserializer=deserialize
    )
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def mongo(stack: Stack) -> AsyncIterator[Any]:
    url = os.environ.get('TEST_MONGODB_URL') or stack.env['MONGODB_URL']
    client: Any = AsyncIOMotorClient(url, tz_aware=True, serverSelectionTimeoutMS=20_000)
    name = f'mail_{uuid.uuid4().hex[:12]}'
    yield client[name]
    await client.drop_database(name)
    client.close()


def whole_lines(directory: Path) -> list[bytes]:
    """Return the inbox's index without a line that is just being written."""
    index = directory / 'index.jsonl'
    content = index.read_bytes() if index.exists() else b''
    return content[: content.rfind(b'\n') + 1].splitlines()


@dataclass(frozen=True)
class Inbox:
    """What the relays accepted, and how to make them misbehave."""

    control: InboxControl
    directory: Path
    first: int

    def accepted(self, recipient: str | None = None) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in whole_lines(self.directory)[self.first :]]
        return [entry for entry in entries if recipient is None or recipient in entry['rcpt_to']]

    def message(self, entry: dict[str, Any]) -> bytes:
        return (self.directory / entry['file']).read_bytes()


@pytest.fixture
def inbox(stack: Stack) -> Iterator[Inbox]:
    control = InboxControl(stack.inbox.directory)
    control.behave()
    yield Inbox(control, stack.inbox.directory, len(whole_lines(stack.inbox.directory)))
    control.behave()
    for relay in ('primary', 'backup'):
        control.listen(relay, on=True)


@pytest.fixture
def env(stack: Stack, database: Database, redis: Any, mongo: Any) -> dict[str, str]:
    """The whole environment for a subprocess of ours."""
    inherited = {name: os.environ[name] for name in ('PATH', 'HOME', 'LANG') if name in os.environ}
    servers = {
        'DATABASE_URL': database.dsn,
        'ARQ_REDIS_URL': os.environ.get('TEST_ARQ_REDIS_URL') or stack.env['ARQ_REDIS_URL'],
        'MONGODB_URL': os.environ.get('TEST_MONGODB_URL') or stack.env['MONGODB_URL'],
        'MONGODB_DATABASE': mongo.name,
    }
    return inherited | stack.env | servers | FAST


class WorkerProcess:
    """`arq worker.WorkerSettings` as its user starts it, with its log in a file."""

    def __init__(
        self, env: dict[str, str], log_path: Path, target: str = 'worker.WorkerSettings'
    ) -> None:
        self.log_path = log_path
        with log_path.open('ab') as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name('arq'), target],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors='replace')

    def events(self) -> list[dict[str, Any]]:
        events = []
        for line in self.log.splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
        return events

    async def started(self) -> 'WorkerProcess':
        await wait_until(lambda: 'worker.started' in self.log or self.process.poll() is not None)
        assert self.process.poll() is None, self.log
        return self

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        await wait_until(
            lambda: self.process.poll() is not None,
            deadline_s,
            f'end of the worker: {self.log[-2000:]}',
        )
        return self.process.returncode

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def start_worker(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker with extra variables; every worker started is stopped at the end."""
    started: list[WorkerProcess] = []

    def start(target: str = 'worker.WorkerSettings', **variables: str) -> WorkerProcess:
        worker = WorkerProcess(env | variables, tmp_path / f'worker-{len(started)}.log', target)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.stop()
