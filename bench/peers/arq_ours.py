"""`arq bench.peers.arq_ours.WorkerSettings`.

The arq worker we run, without anything to do with mail.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import arq.worker
from arq import create_pool

from bench.peers.tally import ran
from engine.dispatcher import Dispatcher
from engine.redis_url import redis_settings
from engine.wire import deserialize, serialize

arq.worker.Worker = Dispatcher  # type: ignore[misc] # as in worker.py


async def noop(ctx: dict[str, Any]) -> None:  # noqa: ARG001 - arq's signature
    """Count."""
    ran()


class WorkerSettings:
    """As worker.py sets it, with a hundred jobs at once."""

    functions: ClassVar = [noop]
    redis_settings = redis_settings(os.environ['BENCH_REDIS'])
    max_jobs = 100
    job_serializer = serialize
    job_deserializer = deserialize
    log_results = False


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use arq's own client."""
    pool = await create_pool(redis_settings(os.environ['BENCH_REDIS']))
    try:
        yield lambda: pool.enqueue_job('noop')
    finally:
        await pool.aclose()
