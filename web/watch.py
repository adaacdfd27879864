"""PostgreSQL and Redis as the page asks them: both at once, and within a deadline."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import asyncpg
import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.errors import DATABASE_DOWN
from db.pools import create_postgres_pool
from db.schema import SchemaMismatchError, check_schema
from engine.connection import open_redis
from engine.redis_url import redis_settings
from engine.urls import place_of
from reporting.problems import Problem
from reporting.servers import ServerAddresses
from reporting.unreachable import postgres_problem, redis_problem

log = structlog.get_logger()

DEADLINE_S = 2.0
# An answer serves everybody who asks so soon again: reloading a page cannot load the database.
SHARED_S = 1.0
# What a source last answered stands in for what it does not answer now, for so long.
KEPT_S = 300.0


class Source(StrEnum):
    """Where answers come from."""

    POSTGRESQL = 'postgresql'
    REDIS = 'redis'


Question = Callable[[Any], Awaitable[Any]]  # takes the pool, or the Redis client
Questions = Mapping[Source, Mapping[str, Question]]  # asked in this order: what is cheap first


@dataclass(frozen=True, slots=True, eq=False)  # each is itself: what is made of one is made once
class Reading:
    """What one look found. A source with a problem has answered some of its questions at most.

    Attributes:
        found: The answers, by question.
        ages: Of those that an earlier look found, how long ago that was, in seconds.
    """

    found: Mapping[str, Any]
    problems: Mapping[Source, Problem]
    ages: Mapping[str, float] = field(default_factory=dict)


class Watch:
    """Asks the same questions whenever somebody looks.

    It holds one connection to PostgreSQL, and none that hangs.
    """

    def __init__(
        self,
        addresses: ServerAddresses,
        questions: Questions,
        *,
        deadline_s: float = DEADLINE_S,
        shared_s: float = SHARED_S,
    ) -> None:
        """Connect to nothing yet.

        Args:
            shared_s: For how long a finished answer is given again.
        Raises:
            ValueError: redis_url is no URL of a Redis.
        """
        self._addresses = addresses
        self._questions = questions
        self._deadline_s = deadline_s
        self._shared_s = shared_s
        self._redis_settings = redis_settings(addresses.redis_url)
        self._pool: asyncpg.Pool | None = None
        self._redis: ArqRedis | None = None
        self._looking: asyncio.Task[Reading] | None = None
        self._looked_at = 0.0
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._known: dict[str, tuple[Any, float]] = {}  # the last answer of each, and when

    async def look(self) -> Reading:
        """Return the answers there are, after the deadline at most.

        Where a source does not answer, what it last answered stands, with its age.
        Whoever asks while others wait waits with them.
        """
        loop = asyncio.get_running_loop()
        if self._looking is None or (
            self._looking.done() and loop.time() - self._looked_at >= self._shared_s
        ):
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Drop the connections, without waiting for servers that do not answer."""
        if self._looking is not None:
            self._looking.cancel()
        for source in Source:
            self._drop(source)
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1)

    async def _look(self) -> Reading:
        found: dict[str, Any] = {}
        asking = {
            asyncio.create_task(self._ask(source, questions, found)): source
            for source, questions in self._questions.items()
        }
        done, late = await asyncio.wait(asking, timeout=self._deadline_s)
        problems = {asking[task]: problem for task in done if (problem := task.result())}
        answered = dict(found)
        for task in late:
            problems[asking[task]] = self._too_late(asking[task])
            self._abandon(task)
        for source in problems:  # the next look begins anew, whatever state the connection is in
            self._drop(source)
        self._looked_at = asyncio.get_running_loop().time()
        ages = self._fill_in(answered, self._looked_at)
        return Reading(answered, problems, ages)

    def _fill_in(self, answered: dict[str, Any], now: float) -> dict[str, float]:
        """Add the last answers to what was not answered. Returns their ages."""
        self._known |= {name: (answer, now) for name, answer in answered.items()}
        ages = {
            name: now - at
            for name, (_, at) in self._known.items()
            if name not in answered and now - at <= KEPT_S
        }
        answered |= {name: self._known[name][0] for name in ages}
        return ages

    async def _ask(
        self, source: Source, questions: Mapping[str, Question], found: dict[str, Any]
    ) -> Problem | None:
        """Add the answers to found. Returns what kept the source from answering all."""
        try:
            client = (
                await self._open_postgres() if source is Source.POSTGRESQL else self._open_redis()
            )
            for name, question in questions.items():
                found[name] = await question(client)
        except (*DATABASE_DOWN, asyncpg.PostgresError, RedisError) as error:
            return self._problem(source, error)
        except SchemaMismatchError as error:
            what, _, remedy = str(error).partition('; ')
            return Problem(what, remedy, *self._name(source))
        except Exception as error:
            # Unlogged: the driver's words may hold a piece of the password.
            if self._name(source)[1] is None:
                return self._problem(source, error)
            log.exception('web.source_unreadable', source=source.value)
            return Problem(
                f'cannot be read: {type(error).__name__}',
                "see the web page's log",
                *self._name(source),
            )
        return None

    async def _open_postgres(self) -> asyncpg.Pool:
        if self._pool is None:
            pool = await create_postgres_pool(
                self._addresses.postgres_dsn,
                size=1,
                connect_timeout_s=self._deadline_s,
                # The server ends a statement then, whether we are there or not.
                command_timeout_s=self._deadline_s,
                application_name='email-web',
                naive_timezone=self._addresses.naive_timezone,
            )
            self._pool = pool
            await check_schema(pool)
        return self._pool

    def _open_redis(self) -> ArqRedis:
        if self._redis is None:
            self._redis = open_redis(self._redis_settings, 'arq:queue')
        return self._redis

    def _drop(self, source: Source) -> None:
        if source is Source.POSTGRESQL and self._pool is not None:
            self._pool.terminate()
            self._pool = None
        if source is Source.REDIS and self._redis is not None:
            self._abandon(asyncio.create_task(_close(self._redis)), cancel=False)
            self._redis = None

    def _abandon(self, task: asyncio.Task[Any], *, cancel: bool = True) -> None:
        """Let a task end when it can.

        One that waits for a frozen server would hold us up even when it is cancelled.
        """
        if cancel:
            task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody waits for it any more

    def _name(self, source: Source) -> tuple[str, str | None]:
        if source is Source.POSTGRESQL:
            return 'PostgreSQL', place_of(self._addresses.postgres_dsn, 5432)
        return 'Redis', place_of(self._addresses.redis_url, 6379)

    def _problem(self, source: Source, error: Exception) -> Problem:
        if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
            return self._too_late(source)
        name_problem = postgres_problem if source is Source.POSTGRESQL else redis_problem
        return name_problem(error, self._name(source)[1])

    def _too_late(self, source: Source) -> Problem:
        return Problem(
            f'no answer within {self._deadline_s:g} s',
            'see whether it can be reached, and look for load and locks there',
            *self._name(source),
        )


async def _close(redis: ArqRedis) -> None:
    with contextlib.suppress(RedisError, OSError):
        await redis.aclose(close_connection_pool=True)
