"""`streaq run bench.peers.streaq_noop:worker`."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from streaq import Worker

from bench.peers.tally import ran

worker = Worker(redis_url=os.environ['BENCH_REDIS'], concurrency=100)


@worker.task
async def noop() -> None:
    """Count."""
    ran()


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use streaq's own client."""

    async def enqueue() -> None:
        await noop.enqueue()

    async with worker:
        yield enqueue
