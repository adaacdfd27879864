"""Celery's broker: where it is, as kombu spells it, and how the commands open it.

Source: kombu/utils/url.py, kombu/transport/redis.py (_connparams)
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from arq.connections import ArqRedis, RedisSettings
from redis.exceptions import RedisError

from engine.connection import open_redis
from engine.redis_url import redis_settings
from ops.celery.keys import find_containers, other_databases
from ops.celery.signs import Signs, signs_of_celery
from reporting.problems import USAGE, Problem, ProblemError
from reporting.servers import QUEUE
from reporting.unreachable import redis_problem, unreadable
from settings import Settings

# Others are of no importance here.
KEPT_OPTIONS = ('ssl_keyfile', 'ssl_certfile', 'ssl_cert_reqs', 'ssl_ca_certs')
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
    """Return where to look for Celery's messages, and whether our own queues are there as well.

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
    return broker, _address_and_database(broker) == _address_and_database(queue)


def _address_and_database(settings: RedisSettings) -> tuple[object, ...]:
    local = ('localhost', '::1')
    host = '127.0.0.1' if settings.host in local else settings.host
    return settings.unix_socket_path or (host, settings.port), settings.database


@dataclass(frozen=True, slots=True)
class Broker:
    """An open database of it."""

    redis: ArqRedis
    address: RedisSettings
    is_ours: bool  # our own queues are in the same database

    @property
    def place(self) -> str:
        """host:port/database."""
        return place_of_settings(self.address)


def place_of_settings(address: RedisSettings) -> str:
    """Return host:port/database, without the password."""
    return f'{address.unix_socket_path or f"{address.host}:{address.port}"}/{address.database}'


def address_of(settings: Settings, number: int | None) -> tuple[RedisSettings, bool]:
    """Return where the broker is, see chosen_broker.

    Raises:
        ProblemError: CELERY_BROKER_URL names no Redis.
    """
    url = settings.celery_broker_url.get_secret_value() if settings.celery_broker_url else None
    try:
        return chosen_broker(url, settings.arq_redis_url.get_secret_value(), number)
    except NoRedisError as error:
        remedy = 'messages of another broker stay there: let Celery work them off'
        remedy += ', then `python -m db.migrate --take-over`'
        raise ProblemError(
            Problem(f'CELERY_BROKER_URL {error}', remedy, exit_status=USAGE)
        ) from error


@asynccontextmanager
async def open_broker(settings: Settings, number: int | None) -> AsyncIterator[Broker]:
    """Open Celery's Redis: the queue's server, unless CELERY_BROKER_URL names another.

    Raises:
        ProblemError: it does not answer, now or later, or CELERY_BROKER_URL names no Redis.
    """
    address, is_ours = address_of(settings, number)
    try:
        redis = open_redis(address, QUEUE)
    except ValueError as error:  # an option of the address makes no sense
        variable = 'CELERY_BROKER_URL' if settings.celery_broker_url else 'ARQ_REDIS_URL'
        raise ProblemError(unreadable('Redis', variable)) from error
    try:
        yield Broker(redis, address, is_ours)
    except (RedisError, OSError) as error:
        raise ProblemError(redis_problem(error, place_of_settings(address))) from error
    finally:
        await redis.aclose(close_connection_pool=True)


async def look_for_celery(settings: Settings) -> Signs:
    """Look for a running Celery where its broker is.

    Nothing is raised: what could not be asked is among the signs. Where the broker is must be known
    before nothing there means anything.
    """
    try:
        async with open_broker(settings, None) as broker:
            signs = await signs_of_celery(broker.redis)
            if signs.is_running or signs.messages or signs.unknown:
                return signs
            # An address that somebody gave is believed, also while nothing waits there.
            if not settings.celery_broker_url and (found := await elsewhere(broker)):
                numbers = ', '.join(map(str, found))
                signs.unknown.append(
                    f'Celery is in database {numbers} of the same server, not in {broker.place}: '
                    'set CELERY_BROKER_URL'
                )
            elif (
                not settings.celery_broker_url
                and not (await find_containers(broker.redis)).is_kombus
            ):
                signs.unknown.append(
                    f'Celery never was in {broker.place}: set CELERY_BROKER_URL if there is one'
                )
            return signs
    except ProblemError as error:
        return Signs(unknown=[error.problem.line])


async def elsewhere(broker: Broker) -> dict[int, int]:
    """Return in which other databases of the server kombu was, and how many messages are there."""
    found = {}
    for number in await other_databases(broker.redis):
        redis = open_redis(replace(broker.address, database=number), QUEUE)
        try:
            containers = await find_containers(redis)
        except RedisError:  # this user may not look there
            continue
        finally:
            await redis.aclose(close_connection_pool=True)
        if containers.is_kombus:
            found[number] = containers.messages
    return found
