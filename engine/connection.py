"""Where Redis is, in arq's terms, and a client that waits for nothing."""

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engine.moved import MasterPool, drop_when_moved
from engine.redis_url import TLS_OPTIONS, redis_settings

__all__ = ['open_redis', 'redis_settings']

SENTINEL_TIMEOUT_S = (
    1.0  # one that does not answer has often died together with the master: the next is asked
)
# Without it, a Redis that is frozen rather than gone would hold every caller for ever.
COMMAND_TIMEOUT_S = 5.0

Client = TypeVar('Client', bound=Redis)


def open_redis(settings: RedisSettings, queue_name: str, **codecs: Any) -> ArqRedis:
    """Return arq's client without connecting: arq's create_pool gives up when Redis is away, we go on without it.

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
    """Have a client that has not connected yet lose no cancellation, whatever it connects by. Returns it."""
    pool = redis.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f'Cancellable{kind.__name__}', (_Cancellable, kind), {})
    return redis
