"""Looking for workers of another application in the same Redis database, see delivery.activity."""

import asyncio
import contextlib

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.identity import is_other
from delivery.activity import NEIGHBOURS_REMEDY, Neighbours
from fleet.registry import read_workers

log = structlog.get_logger()

LOOK_EVERY_S = 60.0


async def look_for_neighbours(redis: ArqRedis, neighbours: Neighbours) -> None:
    """Look for them. Names that are new are logged.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    known = set(neighbours.names)
    found = [
        record.worker
        for record in await read_workers(redis)
        if is_other(record.database, neighbours.database)
    ]
    neighbours.names = found
    if set(found) - known:
        log.error(
            'redis.shared',
            workers=found[:10],
            remedy=NEIGHBOURS_REMEDY,
        )


async def keep_watching_neighbours(
    redis: ArqRedis, neighbours: Neighbours, stopping: asyncio.Event
) -> None:
    """Look at the start and every minute, until the worker stops.

    While Redis is unreachable, nobody shares it.
    """
    while not stopping.is_set():
        with contextlib.suppress(RedisError, OSError):
            await look_for_neighbours(redis, neighbours)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await stopping.wait()
