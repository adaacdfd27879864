"""Where Redis is, in arq's terms, and a client that waits for nothing."""

from dataclasses import dataclass
from typing import Any, cast

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.sentinel import Sentinel

from fleet.address import TLS_OPTIONS, redis_settings
from fleet.moved import MasterPool, drop_when_moved

__all__ = ['RedisClock', 'open_redis', 'redis_settings']

SENTINEL_TIMEOUT_S = 1.0  # one that does not answer has often died together with the master: the next is asked
# Without it, a Redis that is frozen rather than gone would hold every caller for ever.
COMMAND_TIMEOUT_S = 5.0


@dataclass(slots=True)
class RedisClock:
    """How far Redis's clock is ahead of ours. Jobs are due by Redis's, whatever the clocks of the machines say."""

    ahead_s: float = 0.0


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
        return drop_when_moved(redis)
    return drop_when_moved(
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
