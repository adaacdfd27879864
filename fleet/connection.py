"""Where Redis is, in arq's terms, and a client that waits for nothing."""

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio.connection import parse_url

CONNECT_TIMEOUT_S = 5
# Without it, a Redis that is frozen rather than gone would hold every caller for ever.
COMMAND_TIMEOUT_S = 5.0


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
    return ArqRedis(
        **options,
        db=settings.database,
        socket_connect_timeout=settings.conn_timeout,
        socket_timeout=COMMAND_TIMEOUT_S,
        encoding='utf8',
        default_queue_name=queue_name,
        **codecs,
    )
