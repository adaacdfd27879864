"""Where Redis is, in arq's terms, and a client that waits for nothing."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_TIMEOUT_S = 5
# Without it, a Redis that is frozen rather than gone would hold every caller for ever.
COMMAND_TIMEOUT_S = 5.0

Client = TypeVar('Client', bound=Redis)


@dataclass(slots=True)
class RedisClock:
    """How far Redis's clock is ahead of ours. Jobs are due by Redis's, whatever the clocks of the machines say."""

    ahead_s: float = 0.0


def redis_settings(url: str) -> RedisSettings:
    """Translate a Redis URL for arq.

    arq's own from_dsn does not percent-decode passwords and drops TLS options, so redis-py's parser reads the URL.

    Args:
        url: redis://[user:password@]host[:port]/database, rediss:// for TLS, unix://path?db=1.
    Raises:
        ValueError: the URL has another scheme or names something arq cannot use.
    """
    try:
        parts: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        # Its message may quote a part of the password.
        raise ValueError(
            'not a Redis URL; in a password, percent-encode / ? # @ : and %, for example %2F for a slash'
        ) from None
    tls = url.startswith('rediss://')
    database = urlsplit(url).path.strip('/')
    if not url.startswith('unix') and database and not database.isdecimal():  # redis-py takes it for database 0
        raise ValueError(f'the database of a Redis URL must be a number, not {database!r}')
    parts.pop('connection_class', None)
    settings = RedisSettings(
        host=parts.pop('host', 'localhost'),
        port=int(parts.pop('port', 6379)),
        unix_socket_path=parts.pop('path', None),
        database=int(parts.pop('db', 0)),
        username=parts.pop('username', None),
        password=parts.pop('password', None),
        ssl=tls,
        ssl_check_hostname=tls and str(parts.pop('ssl_check_hostname', True)).lower() != 'false',
        conn_timeout=CONNECT_TIMEOUT_S,
    )
    for name in ('ssl_keyfile', 'ssl_certfile', 'ssl_cert_reqs', 'ssl_ca_certs', 'ssl_ca_data', 'max_connections'):
        if name in parts:
            setattr(settings, name, parts.pop(name))
    if parts:
        raise ValueError(f'the Redis URL has options that are not supported: {", ".join(sorted(parts))}')
    return settings


def open_redis(settings: RedisSettings, queue_name: str, **codecs: Any) -> ArqRedis:
    """Return arq's client without connecting: arq's create_pool gives up when Redis is away, we go on without it.

    Args:
        codecs: job_serializer and job_deserializer.
    """
    options = asdict(settings)
    for name in ('conn_timeout', 'conn_retries', 'conn_retry_delay', 'sentinel', 'sentinel_master', 'database'):
        del options[name]
    redis = ArqRedis(
        **options,
        db=settings.database,
        socket_connect_timeout=settings.conn_timeout,
        socket_timeout=COMMAND_TIMEOUT_S,
        encoding='utf8',
        default_queue_name=queue_name,
        **codecs,
    )
    return keep_cancellations(redis)


class _Cancellable(AbstractConnection):
    """A connection that sends as redis-py's does, but for its time limit.

    With a socket_timeout, redis-py 5 sends by asyncio.wait_for, which before Python 3.12 returns as if nothing had
    happened when its task is cancelled while the bytes go out (python/cpython issue 86296): one in twenty. A worker's
    tasks and those of tests then go on for ever. asyncio.timeout loses none.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
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
            raise RedisConnectionError(f'Error {error.errno} while writing to socket. {error.strerror}.') from error
        except BaseException:
            await self.disconnect(nowait=True)
            raise


def keep_cancellations(redis: Client) -> Client:
    """Have a client that has not connected yet lose no cancellation, whatever it connects by. Returns it."""
    pool = redis.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(f'Cancellable{kind.__name__}', (_Cancellable, kind), {})
    return redis
