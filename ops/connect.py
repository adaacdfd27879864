"""The servers as the commands see them: opened when first asked, and named with their remedy when they are away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncpg
from arq.connections import ArqRedis
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from db.content import Mongo, close_mongo
from db.pools import DATABASE_DOWN, create_postgres_pool, open_mongo
from db.schema import SchemaMismatchError, check_schema
from engine.connection import open_redis, redis_settings
from engine.wire import deserialize, serialize
from ops.answer import Trouble, TroubleError
from reporting.unreachable import place_of, postgres_trouble, redis_trouble, unreadable
from settings import Settings

__all__ = [
    'QUEUE',
    'Connections',
    'attempt',
    'mongo_trouble',
    'place_of',
    'postgres_trouble',
    'redis_trouble',
]

T = TypeVar('T')

QUEUE = 'arq:queue'  # where the commands put jobs


class Connections:
    """PostgreSQL, Redis and MongoDB. Each ask_ raises TroubleError, with service and place, when there is no answer."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool | None = None
        self._redis: ArqRedis | None = None
        self._mongo: Mongo | None = None

    async def ask_postgres(self, question: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
        """Return what question(pool) returns."""
        place = place_of(self.settings.postgres_dsn, 5432)
        try:
            async with self._opening:
                if self._pool is None:
                    self._pool = await self._open_postgres()
            return await question(self._pool)
        except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
            raise TroubleError(postgres_trouble(error, place)) from error
        except SchemaMismatchError as error:
            what, _, remedy = str(error).partition('; ')
            raise TroubleError(Trouble(what, remedy, 'PostgreSQL', place)) from error

    async def _open_postgres(self) -> asyncpg.Pool:
        settings = self.settings
        pool = await create_postgres_pool(
            settings.postgres_dsn,
            size=2,
            connect_timeout_s=settings.db_connect_timeout_s,
            command_timeout_s=settings.db_command_timeout_s,
            application_name='ops',
            naive_timezone=settings.db_naive_timezone,
        )
        try:
            await first_connection(settings, check_schema(pool))
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def ask_redis(self, question: Callable[[ArqRedis], Awaitable[T]]) -> T:
        """Return what question(redis) returns."""
        url = self.settings.arq_redis_url.get_secret_value()
        if self._redis is None:
            self._redis = redis_of(
                url, 'ARQ_REDIS_URL', job_serializer=serialize, job_deserializer=deserialize
            )
        try:
            return await question(self._redis)
        except BrokenPipeError:  # of what the question prints; those of connections are RedisErrors
            raise
        except (RedisError, OSError) as error:
            raise TroubleError(redis_trouble(error, place_of(url, 6379))) from error

    async def ask_mongo(self, question: Callable[[Mongo], Awaitable[T]]) -> T:
        """Return what question(mongo) returns."""
        settings = self.settings
        url = settings.mongodb_url.get_secret_value()
        if self._mongo is None:
            try:
                self._mongo = open_mongo(url, settings.mongodb_database, settings.mongodb_timeout_s)
            except (
                PyMongoError,
                ValueError,
                OSError,
            ) as error:  # OSError: a file it names cannot be read
                raise TroubleError(unreadable('MongoDB', 'MONGODB_URL')) from error
        try:
            return await question(self._mongo)
        except PyMongoError as error:
            raise TroubleError(mongo_trouble(error, place_of(url, 27017))) from error

    async def close(self) -> None:
        """Drop what was opened, without waiting for servers that do not answer."""
        if self._pool is not None:
            self._pool.terminate()
        if self._redis is not None:
            await self._redis.aclose(close_connection_pool=True)
        if self._mongo is not None:
            await close_mongo(self._mongo)


async def first_connection(settings: Settings, connecting: Awaitable[T]) -> T:
    """Await what connects to PostgreSQL first: only then are the address and the host's name read.

    Raises:
        TroubleError: the address makes no sense; it names the variable.
    """
    try:
        return await connecting
    except asyncpg.InterfaceError:  # some are ValueErrors too, and say what is wrong
        raise
    except ValueError as error:
        if settings.database_url is not None:
            raise TroubleError(unreadable('PostgreSQL', 'DATABASE_URL')) from error
        what = 'is no name or address of a server'
        raise TroubleError(
            Trouble(what, 'correct it', 'PostgreSQL', 'the host in DB_HOST')
        ) from error


def redis_of(url: str, variable: str, *, database: int | None = None, **codecs: Any) -> ArqRedis:
    """Open a Redis, see engine.connection.open_redis. database: another than the address says.

    Raises:
        TroubleError: the address makes no sense; it names the variable.
    """
    try:
        address = redis_settings(url)
        if database is not None:
            address.database = database
        return open_redis(address, QUEUE, **codecs)
    except ValueError as error:
        raise TroubleError(unreadable('Redis', variable)) from error


async def attempt(asking: Coroutine[Any, Any, T], troubles: list[Trouble]) -> T | None:
    """Return the answer; when there is none, note the trouble and return None, so that others can still answer."""
    try:
        return await asking
    except TroubleError as error:
        troubles.append(error.trouble)
        return None


def mongo_trouble(error: Exception, place: str | None) -> Trouble:
    """Name what keeps MongoDB from answering, and the remedy."""
    if place is None:
        return unreadable('MongoDB', 'MONGODB_URL')
    what = str(error).partition(' (configured timeouts')[0].partition(', Timeout:')[0][:200]
    return Trouble(f'does not answer: {what}', 'start it, or correct MONGODB_URL', 'MongoDB', place)
