"""Redis without a server, which can fail at any reply.

Enough for clients and single polls; arq's start needs INFO.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from arq.connections import ArqRedis
from arq.jobs import Job
from fakeredis import FakeServer
from fakeredis.aioredis import FakeAsyncRedisConnection
from redis.asyncio import ConnectionPool

from engine.dispatcher import Dispatcher

DEADLINE_S = 30.0

MakeWorker = Callable[..., Dispatcher]


class FakeRedis:
    """One server and its clients."""

    def __init__(self) -> None:
        self.fails_in: int | None = None  # replies from now; 1 is the next one
        self.error: Exception = OSError('gone')
        fake = self

        class Connection(FakeAsyncRedisConnection):
            async def _read_response(self, **kwargs: Any) -> Any:
                if fake.fails_in is not None:
                    fake.fails_in -= 1
                    if fake.fails_in == 0:
                        fake.fails_in = None
                        raise fake.error
                return await super()._read_response(**kwargs)

        self._connection_class = Connection
        self._server = FakeServer()

    def client(self, **options: Any) -> ArqRedis:
        """Return a stock arq client, or one with the codecs given."""
        return ArqRedis(
            ConnectionPool(connection_class=self._connection_class, server=self._server), **options
        )

    def fail(self, error: Exception, in_replies: int) -> None:
        """Raise an error once, at a reply counted from now."""
        self.error, self.fails_in = error, in_replies


async def echo(_: Any, value: Any = None) -> Any:
    return value


async def poll(worker: Dispatcher) -> None:
    """Poll once, let what it started finish, and poll once more."""
    async with asyncio.timeout(DEADLINE_S):
        await worker._poll_iteration()
        await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
        await worker._poll_iteration()


async def result_of(job: Job | None) -> Any:
    """Return what the job returned.

    A stock client's own pauses between two looks would be most of a test's time.
    """
    assert job is not None
    return await job.result(timeout=DEADLINE_S, poll_delay=0.005)


def free_slots(worker: Dispatcher) -> int:
    """Return how many jobs the worker believes it may still start."""
    return worker.max_jobs - len(worker.tasks)
