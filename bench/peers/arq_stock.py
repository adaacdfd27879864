"""`arq bench.peers.arq_stock.WorkerSettings`: stock arq, tuned."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import uvloop
from arq import create_pool
from arq.connections import RedisSettings

from bench.peers.tally import ran

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(ctx: dict[str, Any]) -> None:  # noqa: ARG001 - arq's signature
    """Count."""
    ran()


class WorkerSettings:
    """Stock arq starts 20 short jobs a second with its defaults; these make the most of it."""

    functions: ClassVar = [noop]
    redis_settings = RedisSettings.from_dsn(os.environ['BENCH_REDIS'])
    max_jobs = 100
    poll_delay = 0.01
    log_results = False


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use arq's own client."""
    pool = await create_pool(WorkerSettings.redis_settings)
    try:
        yield lambda: pool.enqueue_job('noop')
    finally:
        await pool.aclose()
