"""Workers of another application in the same Redis database: they take our jobs, and we take theirs.

A job is a number, and means another e-mail in each database: none can be handed on, for nobody can tell whose it is.
PostgreSQL is the truth, so no e-mail is lost by that: the sweep of its own application sends it. But it may be late,
and so the worker says it, the doctor calls it an error, and no command of `ops control` goes to the others.
"""

import asyncio
import contextlib

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from db.identity import is_other
from fleet.registry import read_workers

log = structlog.get_logger()

LOOK_EVERY_S = 60.0
REMEDY = 'give each application a Redis database of its own: the number at the end of ARQ_REDIS_URL'


class Neighbours:
    """The workers of other databases that were registered at the last look."""

    def __init__(self, database: str = '') -> None:
        self.database = database  # ours, see db.identity
        self.names: list[str] = []

    async def look(self, redis: ArqRedis) -> None:
        """Look for them. Names that are new are logged.

        Raises:
            redis.RedisError, OSError: Redis does not answer.
        """
        known = set(self.names)
        self.names = [record.worker for record in await read_workers(redis) if is_other(record.database, self.database)]
        if set(self.names) - known:
            log.error('another application uses this Redis database', workers=self.names[:10], remedy=REMEDY)


async def keep_watching_neighbours(redis: ArqRedis, neighbours: Neighbours, stopping: asyncio.Event) -> None:
    """Look at the start and every minute, until the worker stops. While Redis is away there is nothing to share."""
    while not stopping.is_set():
        with contextlib.suppress(RedisError, OSError):
            await neighbours.look(redis)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await stopping.wait()
