"""A worker restarts itself after so much work, or when its memory grew: a leak has an end."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import structlog

from process.memory import resident_bytes

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
SPREAD = 0.1  # each worker draws its own limit, up to this share below the given one
# A limit this close to the memory of a fresh worker would only restart it again and again.
ROOM = 1.2


@dataclass(frozen=True, slots=True)
class Limits:
    """When to restart; 0 is never."""

    jobs: int
    rss_bytes: int


def draw(limits: Limits) -> Limits:
    """Return a worker's own limits: a fleet that started together must not restart together."""
    share = 1 - random.uniform(0, SPREAD)
    return Limits(ceil(limits.jobs * share), int(limits.rss_bytes * share))


async def keep_recycling(
    limits: Limits, count_done: Callable[[], int], stop: Callable[[], None]
) -> None:
    """Stop the worker, in order, when it has done its share; the service manager starts it again.

    Args:
        count_done: Returns how many jobs or e-mails were finished since the start.
        stop: Begins the drain, as SIGTERM does.
    """
    own = draw(limits)
    fresh_bytes = resident_bytes()
    if own.rss_bytes and own.rss_bytes < fresh_bytes * ROOM:
        log.error(
            'recycling.limit_ignored',
            detail='a fresh worker needs nearly as much',
            remedy='raise WORKER_RECYCLE_RSS_MIB',
            limit_mib=limits.rss_bytes // 2**20,
            fresh_mib=fresh_bytes // 2**20,
        )
        own = Limits(own.jobs, 0)
    while own.jobs or own.rss_bytes:
        await asyncio.sleep(LOOK_EVERY_S)
        done, rss_bytes = count_done(), resident_bytes()
        if (own.jobs and done >= own.jobs) or (own.rss_bytes and rss_bytes >= own.rss_bytes):
            log.info(
                'worker.recycling',
                done=done,
                rss_bytes=rss_bytes,
            )
            stop()
            return
