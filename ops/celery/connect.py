"""Celery's broker as the commands open it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from arq.connections import ArqRedis, RedisSettings
from redis.exceptions import RedisError

from engine.connection import open_redis
from ops.answer import USAGE, Trouble, TroubleError
from ops.celery.broker_url import NoRedisError, chosen_broker
from ops.celery.keys import find_places, other_databases
from ops.celery.signs import Signs, signs_of_celery
from ops.connect import QUEUE, redis_trouble
from reporting.unreachable import unreadable
from settings import Settings


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
    """Return where the broker is, see ops.celery.broker_url.chosen_broker.

    Raises:
        TroubleError: CELERY_BROKER_URL names no Redis.
    """
    url = settings.celery_broker_url.get_secret_value() if settings.celery_broker_url else None
    try:
        return chosen_broker(url, settings.arq_redis_url.get_secret_value(), number)
    except NoRedisError as error:
        remedy = 'messages of another broker stay there: let Celery work them off'
        remedy += ', then `python -m db.migrate --take-over`'
        raise TroubleError(
            Trouble(f'CELERY_BROKER_URL {error}', remedy, exit_status=USAGE)
        ) from error


@asynccontextmanager
async def open_broker(settings: Settings, number: int | None) -> AsyncIterator[Broker]:
    """Open Celery's Redis: the queue's server, unless CELERY_BROKER_URL names another.

    Raises:
        TroubleError: it does not answer, now or later, or CELERY_BROKER_URL names no Redis.
    """
    address, is_ours = address_of(settings, number)
    try:
        redis = open_redis(address, QUEUE)
    except ValueError as error:  # an option of the address makes no sense
        variable = 'CELERY_BROKER_URL' if settings.celery_broker_url else 'ARQ_REDIS_URL'
        raise TroubleError(unreadable('Redis', variable)) from error
    try:
        yield Broker(redis, address, is_ours)
    except (RedisError, OSError) as error:
        raise TroubleError(redis_trouble(error, place_of_settings(address))) from error
    finally:
        await redis.aclose(close_connection_pool=True)


async def look_for_celery(settings: Settings) -> Signs:
    """Look for a running Celery where its broker is; never raises, but says what could not be asked.

    Where the broker is must be known before nothing there means anything.
    """
    try:
        async with open_broker(settings, None) as broker:
            signs = await signs_of_celery(broker.redis)
            if signs.is_running or signs.messages or signs.unknown:
                return signs
            # An address that somebody gave is believed, also while nothing waits there.
            if not settings.celery_broker_url and (found := await elsewhere(broker)):
                told = f'Celery is in database {", ".join(map(str, found))} of the same server, not in {broker.place}'
                signs.unknown.append(f'{told}: set CELERY_BROKER_URL')
            elif not settings.celery_broker_url and not (await find_places(broker.redis)).is_kombus:
                signs.unknown.append(
                    f'Celery never was in {broker.place}: set CELERY_BROKER_URL if there is one'
                )
            return signs
    except TroubleError as error:
        return Signs(unknown=[error.trouble.line])


async def elsewhere(broker: Broker) -> dict[int, int]:
    """Return in which other databases of the server kombu was, and how many messages are there."""
    found = {}
    for number in await other_databases(broker.redis):
        redis = open_redis(replace(broker.address, database=number), QUEUE)
        try:
            places = await find_places(redis)
        except RedisError:  # this user may not look there
            continue
        finally:
            await redis.aclose(close_connection_pool=True)
        if places.is_kombus:
            found[number] = places.messages
    return found
