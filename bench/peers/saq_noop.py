"""`saq bench.peers.saq_noop.settings`."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop
from saq import Queue

from bench.peers.tally import ran

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(os.environ['BENCH_REDIS'])


async def noop(ctx: dict[str, Any]) -> None:  # noqa: ARG001 - SAQ's signature
    """Count."""
    ran()


settings = {'queue': queue, 'functions': [noop], 'concurrency': 100}


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use SAQ's queue."""
    await queue.connect()
    try:
        yield lambda: queue.enqueue('noop')
    finally:
        await queue.disconnect()
