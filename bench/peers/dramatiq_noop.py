"""`dramatiq bench.peers.dramatiq_noop`."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.tally import ran

dramatiq.set_broker(RedisBroker(url=os.environ['BENCH_REDIS']))


@dramatiq.actor
def noop() -> None:
    """Count."""
    ran()


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use dramatiq's own client, which blocks."""

    async def enqueue() -> None:
        noop.send()

    yield enqueue
