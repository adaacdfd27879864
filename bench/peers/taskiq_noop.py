"""`taskiq worker bench.peers.taskiq_noop:broker`, with its simplest and fastest broker."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from taskiq_redis import ListQueueBroker

from bench.peers.tally import ran

broker = ListQueueBroker(os.environ['BENCH_REDIS'])


@broker.task
async def noop() -> None:
    """Count."""
    ran()


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use taskiq's own client."""
    await broker.startup()
    try:
        yield noop.kiq
    finally:
        await broker.shutdown()
