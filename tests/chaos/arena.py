"""Where the scenarios run.

The embedded stack, and for each scenario a database and a fleet of its own.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from arq.connections import ArqRedis

from db.errors import DATABASE_DOWN
from db.migrate import migrate
from dev.inbox_server import InboxServer
from dev.stack import Stack
from dev.watchdog import Watchdog
from engine.connection import open_redis
from engine.redis_url import redis_settings
from settings import Settings
from tests.chaos import invariants
from tests.chaos.fleet import Fleet
from tests.chaos.inquest import UNSETTLED, hold_inquest
from tests.chaos.report import Row
from tests.chaos.sink import EVENTS_NAME, Sink
from tests.chaos.waiting import DeadlinePassedError, until

SMTP_CONNECTIONS = 2 * 10  # SMTP_MAX_CONNECTIONS, at each of two relays
RETRY_BASE_S = 2.0
LEASE_S: float = Settings.model_fields['worker_lease_s'].default
# Long enough for a worker that has a tenth of a core: three lanes and whatever else runs share the
# machine.
SHORT_LEASE_S, SHORT_BEAT_S = 6.0, 1.5
UNSETTLED_SQL = f'SELECT count(*) FROM outbound_emails WHERE id = ANY($1::bigint[]) AND {UNSETTLED}'
IDS_SQL = (
    'SELECT COALESCE(array_agg(id), ARRAY[]::bigint[]) FROM outbound_emails WHERE created_at '
    '>= to_timestamp($1)'
)
Answer = TypeVar('Answer')


class SinkStack(Stack):
    """The embedded stack with our sink in place of the inbox."""

    def _build_servers(self, watchdog: Watchdog) -> None:
        super()._build_servers(watchdog)
        usual: InboxServer = self.inbox
        self.inbox = Sink(
            usual.directory, watchdog, usual.login, usual.port, usual.backup_port, durable=True
        )


@dataclass
class Arena:
    """The servers, shared by the scenarios of one lane."""

    directory: Path
    seed: int
    short: bool
    stack: SinkStack = field(default_factory=SinkStack)
    template: str = 'chaos_template'

    async def open(self) -> None:
        await asyncio.to_thread(self.stack.start)
        await self._administer(f'CREATE DATABASE {self.template}')
        conn = await asyncpg.connect(self.dsn(self.template))
        await migrate(conn)
        await conn.close()

    async def close(self) -> None:
        await asyncio.to_thread(self.stack.stop)

    def dsn(self, database: str) -> str:
        return urlunsplit(urlsplit(self.stack.postgres.superuser_url)._replace(path=f'/{database}'))

    async def _administer(self, statement: str) -> None:
        conn = await asyncpg.connect(self.stack.postgres.superuser_url)
        await conn.execute(statement)
        await conn.close()

    @asynccontextmanager
    async def stage(self, name: str, **variables: str) -> AsyncIterator['Stage']:
        """Set up an empty database and an empty Redis for one scenario, and end its workers
        afterwards.
        """
        slug = ''.join(c if c.isalnum() else '_' for c in name)
        database = f'chaos_{slug}'
        directory = self.directory / slug
        directory.mkdir()
        await self._administer(f'CREATE DATABASE {database} TEMPLATE {self.template}')
        redis = open_redis(redis_settings(self.stack.env['ARQ_REDIS_URL']), 'arq:queue')
        await redis.flushdb()
        pool = await asyncpg.create_pool(
            self.dsn(database),
            min_size=0,
            max_size=8,
            command_timeout=60,
            server_settings={
                'default_transaction_read_only': 'off'
            },  # the application's, also while workers may not
        )
        environment = self.stack.env | {'DATABASE_URL': self.dsn(database), 'LOG_FORMAT': 'json'}
        environment |= {'EMAIL_RETRY_BASE_DELAY': str(RETRY_BASE_S)} | self.lease | variables
        fleet = Fleet(directory, environment)
        rng = random.Random(f'{self.seed}:{name}')
        try:
            yield Stage(self, name, pool, redis, fleet, rng)
        finally:
            fleet.close()
            pool.terminate()
            await redis.aclose()
            await asyncio.to_thread(self.stack.inbox.control.behave)

    @property
    def lease(self) -> dict[str, str]:
        """The default lease in a full run; a fraction of it in a short one."""
        return (
            {'WORKER_LEASE_S': str(SHORT_LEASE_S), 'WORKER_BEAT_S': str(SHORT_BEAT_S)}
            if self.short
            else {}
        )


@dataclass
class Stage:
    """One scenario's database, Redis, fleet and random numbers."""

    arena: Arena
    name: str
    pool: asyncpg.Pool
    redis: ArqRedis
    fleet: Fleet
    rng: random.Random
    started_at: float = field(default_factory=time.time)
    expected: dict[int, Sequence[str]] = field(default_factory=dict)
    killed_at_random: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index_start = len(self.stack.inbox.messages())
        self._events_start = len(self._event_lines())

    @property
    def stack(self) -> SinkStack:
        return self.arena.stack

    @property
    def control(self) -> Any:
        return self.stack.inbox.control

    @property
    def lease_s(self) -> float:
        return SHORT_LEASE_S if self.arena.short else LEASE_S

    def pick(self, full: Any, short: Any) -> Any:
        """Choose by the length of the run."""
        return short if self.arena.short else full

    def accepted(self) -> Counter[str | None]:
        """Count the messages in the sink by Message-ID."""
        return Counter(
            message.message_id for message in self.stack.inbox.messages()[self._index_start :]
        )

    def _event_lines(self) -> list[str]:
        path = self.stack.inbox.directory / EVENTS_NAME
        return path.read_text().splitlines() if path.exists() else []

    def events(self, **wanted: str) -> list[dict[str, Any]]:
        """Return the sink's events of this scenario that have these values."""
        events = [json.loads(line) for line in self._event_lines()[self._events_start :]]
        return [
            event
            for event in events
            if all(event.get(key) == value for key, value in wanted.items())
        ]

    async def ids_since(self, moment: float) -> list[int]:
        """Return all e-mails committed since then, also those whose producer never learnt of its
        commit.
        """
        ids: list[int] = await self.pool.fetchval(IDS_SQL, moment)
        return ids

    async def ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer | None:
        """Ask PostgreSQL; None while it is away."""
        try:
            return await question()
        except DATABASE_DOWN:
            return None

    async def quiet(self, ids: Sequence[int], deadline_s: float) -> None:
        """Wait until every e-mail is sent or will not be tried again.

        Raises:
            DeadlinePassedError: some are still on their way.
        """

        async def all_settled() -> bool:
            return await self.ask(lambda: self.pool.fetchval(UNSETTLED_SQL, ids)) == 0

        try:
            await until(all_settled, deadline_s, 'all e-mails settled', poll_s=0.2)
        except DeadlinePassedError as passed:
            raise DeadlinePassedError(
                f'{passed}: {await hold_inquest(self.pool, self.fleet, ids)}'
            ) from None

    async def finish(
        self,
        row: Row,
        ids: Sequence[int],
        *,
        deadline_s: float,
        recovery: Callable[[invariants.Evidence], list[float]] | None = None,
        most_duplicates: int | None = None,
    ) -> invariants.Evidence:
        """Wait for quiet, stop the workers, and judge."""
        try:
            await self.quiet(ids, deadline_s)
        except DeadlinePassedError as passed:
            row.problems.append(str(passed))
        row.problems += await self.fleet.stop_all()
        return await self.judge(row, ids, recovery=recovery, most_duplicates=most_duplicates)

    async def judge(
        self,
        row: Row,
        ids: Sequence[int],
        *,
        recovery: Callable[[invariants.Evidence], list[float]] | None = None,
        most_duplicates: int | None = None,
    ) -> invariants.Evidence:
        """Judge the e-mails with these ids as they are now."""
        evidence = await invariants.collect(self.pool, ids, self.accepted())
        if recovery is not None:
            evidence.recovery_s = recovery(evidence)
        invariants.judge(
            row,
            evidence,
            expected=self.expected,
            most_duplicates=most_duplicates,
            killed=self.killed_at_random,
        )
        row.took_s = row.took_s or time.time() - self.started_at
        row.notes += [f'logged: {alarm}' for alarm in self.fleet.alarms()]
        return evidence
