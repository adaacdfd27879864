"""`celery -A bench.peers.celery_noop worker`, without a result backend."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

from celery import Celery

from bench.peers.tally import ran

app = Celery('noop', broker=os.environ['BENCH_REDIS'])
app.conf.update(task_ignore_result=True, timezone='UTC', broker_connection_retry_on_startup=True)


@app.task
def noop() -> None:
    """Count."""
    ran()


@contextlib.asynccontextmanager
async def producer() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Use one connection of Celery's own client, which blocks."""
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as publisher:

        async def enqueue() -> None:
            noop.apply_async(producer=publisher)

        yield enqueue
