"""Connections to a Redis that is not the one to talk to any more: dropped, so that the next leads to the right one."""

import contextlib
import weakref
from typing import Any, ClassVar, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

log = structlog.get_logger()

Client = TypeVar('Client', bound=Redis)

# What a server says that was demoted, lost its master or its replicas, or belongs to a broken
# cluster. LOADING, the one of these that redis-py knows, ends its connection anyway. Scripts have
# it in the middle, before Redis 7.
MOVED_REPLIES = ('READONLY', 'MASTERDOWN', 'CLUSTERDOWN', 'UNBLOCKED', 'NOREPLICAS')
SENTINELS_WORDS = 'The previous master is now a slave'  # redis-py's, for READONLY


def has_moved(error: BaseException) -> bool:
    """Whether a reply says that somebody else is the server to talk to now, or nobody yet."""
    if isinstance(error, ReadOnlyError):  # its text has lost the word
        return True
    said = str(error)
    if isinstance(error, ResponseError):
        return said.startswith(MOVED_REPLIES) or any(
            f'-{reply} ' in said for reply in MOVED_REPLIES
        )
    return isinstance(error, RedisConnectionError) and said == SENTINELS_WORDS


class _Dropped(AbstractConnection):
    """A connection that ends itself, and all others of its pool, when the server is not the right one any more."""

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
        """End the connection under the feet of whoever reads from it: he sees it end."""
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
    """Have a client that has not connected yet reconnect when its server is not the right one any more. Returns it.

    All its connections: those that only listen would hear nothing for ever.
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
        # redis-py tells nobody which these are, and its own way takes the ground from under those
        # who read.
        for connection in list(pool._available_connections):  # noqa: SLF001
            await connection.disconnect(nowait=True)
        for connection in list(pool._in_use_connections):  # noqa: SLF001
            if isinstance(connection, _Dropped):
                connection.cut()
