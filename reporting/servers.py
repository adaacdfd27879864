"""PostgreSQL, Redis and MongoDB as operators ask them: opened when first asked.

A server that does not answer is named, with where it is and what to do, but never its password.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.errors import DATABASE_DOWN
from db.pools import create_postgres_pool
from db.schema import SchemaMismatchError, check_schema
from engine.connection import open_redis
from engine.redis_url import redis_settings
from engine.urls import place_of
from engine.wire import deserialize, serialize
from reporting.problems import Problem, ProblemError
from reporting.unreachable import mongo_problem, postgres_problem, redis_problem, unreadable

if TYPE_CHECKING:  # the driver is imported by whoever has a MongoDB
    from db.mongo import Mongo

T = TypeVar('T')
# Told how many are done, and of how many if that is known. False: end it, what is done stays done.
TellProgress = Callable[[int, int | None], bool]

NO_MONGO = Problem('MongoDB is not configured', 'set MONGODB_URL', 'MongoDB')
QUEUE = 'arq:queue'  # where jobs go that nobody routes


@dataclass(frozen=True, slots=True)
class ServerAddresses:
    """Where the servers are, with their passwords, and how long to wait for each.

    is_dsn_given is False where the DSN was made of DB_HOST, DB_PORT and so on: a remedy names the
    variable that is wrong.
    """

    postgres_dsn: str = field(repr=False)
    redis_url: str = field(repr=False)
    mongodb_url: str | None = field(default=None, repr=False)  # None: there is no MongoDB
    mongodb_database: str = ''
    naive_timezone: str = 'UTC'
    postgres_connect_timeout_s: float = 5.0
    postgres_command_timeout_s: float = 10.0
    mongodb_timeout_s: float = 5.0
    is_dsn_given: bool = True


def go_on(_: int, __: int | None) -> bool:
    """Show nothing and go on."""
    return True


class Servers:
    """Asks the servers. Without an answer each ask_ raises ProblemError, with service and place."""

    def __init__(
        self, addresses: ServerAddresses, *, pool_size: int = 2, application_name: str = 'ops'
    ) -> None:
        self.addresses = addresses
        self.progress: TellProgress = go_on  # of a long change on these connections
        self._pool_size = pool_size
        self._application_name = application_name
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool | None = None
        self._redis: ArqRedis | None = None
        self._mongo: Mongo | None = None

    async def ask_postgres(self, question: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
        """Return what question(pool) returns."""
        place = place_of(self.addresses.postgres_dsn, 5432)
        try:
            async with self._opening:
                if self._pool is None:
                    self._pool = await self._open_postgres()
            return await question(self._pool)
        except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
            raise ProblemError(postgres_problem(error, place)) from error
        except SchemaMismatchError as error:
            what, _, remedy = str(error).partition('; ')
            raise ProblemError(Problem(what, remedy, 'PostgreSQL', place)) from error

    async def _open_postgres(self) -> asyncpg.Pool:
        addresses = self.addresses
        pool = await create_postgres_pool(
            addresses.postgres_dsn,
            size=self._pool_size,
            connect_timeout_s=addresses.postgres_connect_timeout_s,
            command_timeout_s=addresses.postgres_command_timeout_s,
            application_name=self._application_name,
            naive_timezone=addresses.naive_timezone,
        )
        try:
            await first_connection(addresses, check_schema(pool))
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def in_time(self, asking: Awaitable[T]) -> T:
        """Return what is awaited, which waits for PostgreSQL with others of our own."""
        return await asking

    async def ask_redis(self, question: Callable[[ArqRedis], Awaitable[T]]) -> T:
        """Return what question(redis) returns."""
        url = self.addresses.redis_url
        if self._redis is None:
            self._redis = redis_of(
                url, 'ARQ_REDIS_URL', job_serializer=serialize, job_deserializer=deserialize
            )
        try:
            return await question(self._redis)
        except BrokenPipeError:  # of what the question prints; those of connections are RedisErrors
            raise
        except (RedisError, OSError) as error:
            raise ProblemError(redis_problem(error, place_of(url, 6379))) from error

    @property
    def has_mongo(self) -> bool:
        """Whether this installation has a MongoDB."""
        return self.addresses.mongodb_url is not None

    async def ask_mongo(self, question: Callable[['Mongo'], Awaitable[T]]) -> T:
        """Return what question(mongo) returns; a problem where there is no MongoDB."""
        addresses = self.addresses
        url = addresses.mongodb_url
        if url is None:
            raise ProblemError(NO_MONGO)
        from pymongo.errors import PyMongoError  # noqa: PLC0415 - see db.mongo

        from db.mongo import open_mongo  # noqa: PLC0415 - see there

        if self._mongo is None:
            try:
                self._mongo = open_mongo(
                    url, addresses.mongodb_database, addresses.mongodb_timeout_s
                )
            except (PyMongoError, ValueError, OSError) as error:  # OSError: of a file that it names
                raise ProblemError(unreadable('MongoDB', 'MONGODB_URL')) from error
        try:
            return await question(self._mongo)
        except PyMongoError as error:
            raise ProblemError(mongo_problem(error, place_of(url, 27017))) from error

    async def close(self) -> None:
        """Drop what was opened, without waiting for servers that do not answer."""
        if self._pool is not None:
            self._pool.terminate()
        if self._redis is not None:
            await self._redis.aclose(close_connection_pool=True)
        if self._mongo is not None:
            from db.mongo import close_mongo  # noqa: PLC0415 - see there

            await close_mongo(self._mongo)


async def first_connection(addresses: ServerAddresses, connecting: Awaitable[T]) -> T:
    """Await what connects to PostgreSQL first: only then are the address and the host's name read.

    Raises:
        ProblemError: the address makes no sense; it names the variable.
    """
    try:
        return await connecting
    except asyncpg.InterfaceError:  # some are ValueErrors too, and say what is wrong
        raise
    except ValueError as error:
        if addresses.is_dsn_given:
            raise ProblemError(unreadable('PostgreSQL', 'DATABASE_URL')) from error
        what = 'is no name or address of a server'
        raise ProblemError(
            Problem(what, 'correct it', 'PostgreSQL', 'the host in DB_HOST')
        ) from error


def redis_of(url: str, variable: str, **codecs: Any) -> ArqRedis:
    """Open a Redis, see engine.connection.open_redis.

    Raises:
        ProblemError: the address makes no sense; it names the variable.
    """
    try:
        return open_redis(redis_settings(url), QUEUE, **codecs)
    except ValueError as error:
        raise ProblemError(unreadable('Redis', variable)) from error


async def answer_or_note(asking: Coroutine[Any, Any, T], problems: list[Problem]) -> T | None:
    """Return the answer; without one, note the problem and return None: others can still answer."""
    try:
        return await asking
    except ProblemError as error:
        problems.append(error.problem)
        return None
