"""Where Celery's broker is, as kombu spells it.

Source: kombu/utils/url.py, kombu/transport/redis.py (_connparams)
"""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from arq.connections import RedisSettings

from engine.connection import redis_settings

KEPT_OPTIONS = (
    'ssl_keyfile',
    'ssl_certfile',
    'ssl_cert_reqs',
    'ssl_ca_certs',
)  # others are of no importance here
REDIS = ('redis', 'rediss', 'unix', 'redis+socket')


class NoRedisError(ValueError):
    """The broker is no Redis that can be opened; the message says why, without the address."""


def broker_settings(url: str) -> RedisSettings:
    """Translate a broker's URL for arq.

    Args:
        url: As CELERY_BROKER_URL has it, perhaps several separated by ; of which the first counts.
    Raises:
        NoRedisError: it is RabbitMQ, a Sentinel or anything else, or cannot be understood.
    """
    first = url.partition(';')[0].strip()
    scheme = first.partition('://')[0].lower()
    if scheme not in REDIS:
        raise NoRedisError(f'is {scheme!r}, no Redis' if scheme.isalnum() else 'names no Redis')
    parts = urlsplit(first)
    options = dict(parse_qsl(parts.query))
    kept = {name: options[name] for name in KEPT_OPTIONS if name in options}
    if 'ssl_cert_reqs' in kept:
        kept['ssl_cert_reqs'] = kept['ssl_cert_reqs'].lower().removeprefix('cert_')
    if scheme in ('redis+socket', 'unix'):
        scheme = 'unix'
        kept['db'] = (options.get('virtual_host') or options.get('db') or '0').lstrip('/') or '0'
    try:
        return redis_settings(urlunsplit((scheme, parts.netloc, parts.path, urlencode(kept), '')))
    except ValueError as error:
        raise NoRedisError(str(error)) from None


def chosen_broker(
    broker_url: str | None, queue_url: str, database: int | None = None
) -> tuple[RedisSettings, bool]:
    """Return where Celery's messages are looked for, and whether it is the database of our own queues.

    Args:
        broker_url: CELERY_BROKER_URL, when it is set.
        queue_url: ARQ_REDIS_URL.
        database: Another one of that server.
    Raises:
        NoRedisError: see broker_settings.
        ValueError: queue_url makes no sense.
    """
    queue = redis_settings(queue_url)
    broker = broker_settings(broker_url) if broker_url else redis_settings(queue_url)
    if database is not None:
        broker.database = database
    return broker, _place(broker) == _place(queue)


def _place(settings: RedisSettings) -> tuple[object, ...]:
    local = ('localhost', '::1')
    host = '127.0.0.1' if settings.host in local else settings.host
    return settings.unix_socket_path or (host, settings.port), settings.database
