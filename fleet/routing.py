"""Queues by kind of work, when QUEUE_ROUTING is on: e-mails in one, maintenance in another.

Only wake-ups are routed. PostgreSQL stays the truth: a route that nobody serves delays mail until
the next sweep of any worker, and is reported.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from fleet.registry import LIFETIME_S, read_served_queues, read_workers

log = structlog.get_logger()

EMAIL_QUEUE = 'high_priority'
MAINTENANCE_QUEUE = 'low_priority'
SERVED_BY = {EMAIL_QUEUE: 'arq worker.HighPriority', MAINTENANCE_QUEUE: 'arq worker.LowPriority'}
LOOK_EVERY_S = 60.0


async def unserved_routes(redis: ArqRedis) -> list[str]:
    """Return the routed queues that no living worker polls.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    served = await read_served_queues(redis, await read_workers(redis), list(SERVED_BY))
    return [queue for queue in SERVED_BY if queue not in served]


async def keep_watching_routes(
    redis: ArqRedis, stopping: asyncio.Event, grace_s: float = LIFETIME_S
) -> None:
    """Log an error when nobody serves a routed queue, once until that changes.

    It runs until the worker stops.

    Args:
        grace_s: Before the first look: workers that start together have to register.
    """
    reported: Sequence[str] = ()
    wait_s = grace_s
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await stopping.wait()
                return
        wait_s = LOOK_EVERY_S
        try:
            unserved = await unserved_routes(redis)
        except (RedisError, OSError):
            continue  # without Redis there are no queues; the worker says so itself
        for queue in unserved:
            if queue not in reported:
                log.error(
                    'queue.not_served',
                    queue=queue,
                    remedy=f'start `{SERVED_BY[queue]}`',
                )
        reported = unserved
