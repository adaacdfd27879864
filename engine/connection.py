"""A client of Redis for a program that runs for months.

It connects when it is first used, waits no longer than a time limit, loses no cancellation, and
leaves a server that is not the master any more.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engine.redis_url import TLS_OPTIONS

# A sentinel that does not answer has often died together with the master: the next is asked.
SENTINEL_TIMEOUT_S = 1.0
# Without it, a Redis that is frozen rather than gone would hold every caller for ever.
COMMAND_TIMEOUT_S = 5.0

Client = TypeVar('Client', bound=Redis)


def open_redis(settings: RedisSettings, queue_name: str, **codecs: Any) -> ArqRedis:
    """Return arq's client without connecting.

    arq's create_pool gives up when Redis is unreachable; we start and go on without it.

    Args:
        codecs: job_serializer and job_deserializer.
    """
    if settings.sentinel:
        redis = _ask_sentinels_for(settings)
        redis.default_queue_name = queue_name
        for name, value in codecs.items():
            setattr(redis, name, value)
        return drop_when_moved(keep_cancellations(redis))
    return drop_when_moved(
        keep_cancellations(
            ArqRedis(
                host=settings.host,
                port=settings.port,
                unix_socket_path=settings.unix_socket_path,
                ssl=settings.ssl,
                default_queue_name=queue_name,
                retry_on_timeout=settings.retry_on_timeout,
                retry_on_error=settings.retry_on_error,
                retry=settings.retry,
                **_options(settings),
                **(_tls_options(settings) if settings.ssl else {}),
                **codecs,
            )
        )
    )


def _ask_sentinels_for(settings: RedisSettings) -> ArqRedis:
    tls = {'ssl': True, **_tls_options(settings)} if settings.ssl else {}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # as redis-py has it
        cast('list[tuple[str, int]]', settings.host),
        sentinel_kwargs={
            'username': getattr(settings, 'sentinel_username', None),
            'password': getattr(settings, 'sentinel_password', None),
            'socket_connect_timeout': SENTINEL_TIMEOUT_S,
            'socket_timeout': SENTINEL_TIMEOUT_S,
            **tls,
        },
        **_options(settings),
        **tls,
    )
    for sentinel in sentinels.sentinels:
        keep_cancellations(sentinel)
    redis: ArqRedis = sentinels.master_for(
        settings.sentinel_master, redis_class=ArqRedis, connection_pool_class=MasterPool
    )
    return redis


def _options(settings: RedisSettings) -> dict[str, Any]:
    return {
        'db': settings.database,
        'username': settings.username,
        'password': settings.password,
        'max_connections': settings.max_connections,
        'socket_connect_timeout': settings.conn_timeout,
        'socket_timeout': COMMAND_TIMEOUT_S,
        'encoding': 'utf8',
    }


def _tls_options(settings: RedisSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in TLS_OPTIONS}


class _Cancellable(AbstractConnection):
    """A connection that sends as redis-py's does, but for its time limit.

    With a socket_timeout, redis-py 5 sends by asyncio.wait_for, which before Python 3.12 returns as
    if nothing had happened when its task is cancelled while the bytes go out (python/cpython issue
    86296): one in twenty. A worker's tasks and those of tests then go on for ever. asyncio.timeout
    loses none.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send, and drop the connection when that does not succeed: half a command may be out.

        Raises:
            redis.ConnectionError, redis.TimeoutError: it does not take the bytes.
        """
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]  # as redis-py has it
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        data = command.encode() if isinstance(command, str) else command
        try:
            async with asyncio.timeout(self.socket_timeout or None):
                await self._send_packed_command([data] if isinstance(data, bytes) else data)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError('Timeout writing to socket') from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(
                f'Error {error.errno} while writing to socket. {error.strerror}.'
            ) from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise


def keep_cancellations(redis: Client) -> Client:
    """Have a client that has not connected yet lose no cancellation; returns the client."""
    pool = redis.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f'Cancellable{kind.__name__}', (_Cancellable, kind), {})
    return redis


# What a server says that was demoted, lost its master or its replicas, or belongs to a broken
# cluster. LOADING, the one of these that redis-py knows, ends its connection anyway. Scripts have
# it in the middle, before Redis 7.
MOVED_REPLIES = ('READONLY', 'MASTERDOWN', 'CLUSTERDOWN', 'UNBLOCKED', 'NOREPLICAS')
SENTINELS_WORDS = 'The previous master is now a slave'  # redis-py's, for READONLY


def has_moved(error: BaseException) -> bool:
    """Whether a reply says that another server is the one to talk to now, or none yet."""
    if isinstance(error, ReadOnlyError):  # redis-py cuts the word off its text
        return True
    said = str(error)
    if isinstance(error, ResponseError):
        return said.startswith(MOVED_REPLIES) or any(
            f'-{reply} ' in said for reply in MOVED_REPLIES
        )
    return isinstance(error, RedisConnectionError) and said == SENTINELS_WORDS


class _Dropped(AbstractConnection):
    """A connection that notices when its server is not the right one any more.

    It ends itself and all others of its pool, so that the next ones lead to the right server.
    """

    on_moved: ClassVar['_DropAll']  # of the pool for which the class was made

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py.

        Raises:
            redis.ConnectionError: also where redis-py would raise ReadOnlyError and the like.
        """
        try:
            return await super().read_response(*args, **options)
        except (ResponseError, RedisConnectionError) as error:
            if not has_moved(error):
                raise
            await self.disconnect(nowait=True)
            await self.on_moved()
            raise RedisConnectionError(f'another Redis has taken over, or will: {error}') from error

    def cut(self) -> None:
        """End the connection while somebody reads from it: the reader gets a connection error."""
        if self._writer is not None:
            self._writer.transport.abort()


class MasterPool(SentinelConnectionPool):
    """Connections to the master that sentinels name; closes those to the sentinels with them."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """See redis-py."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                with contextlib.suppress(RedisError, OSError):
                    await sentinel.aclose(close_connection_pool=True)


def drop_when_moved(redis: Client) -> Client:
    """Have a client reconnect when its server is not the right one any more; returns the client.

    It must not have connected yet. All its connections end: a subscriber on a demoted server would
    hear nothing for ever.
    """
    pool = redis.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(
        f'Dropped{kind.__name__}', (_Dropped, kind), {'on_moved': _DropAll(pool)}
    )
    return redis


class _DropAll:
    """Ends all connections of a pool, which it does not keep alive."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = weakref.ref(pool)

    async def __call__(self) -> None:
        pool = self._pool()
        if pool is None:
            return
        # redis-py has no public list of them, and its own disconnect() sets the reader to None
        # while others await it.
        for connection in list(pool._available_connections):  # noqa: SLF001
            await connection.disconnect(nowait=True)
        for connection in list(pool._in_use_connections):  # noqa: SLF001
            if isinstance(connection, _Dropped):
                connection.cut()
