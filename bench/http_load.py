"""Requests over HTTP from this process: as fast as connections answer, or at a pace."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from bench.outbox import RunFailed

HEAD_END = b'\r\n\r\n'
LENGTH = b'content-length: '
REQUEST_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Load:
    """What a run of requests took.

    Attributes:
        latencies_ms: Of each request, from the moment it was due.
    """

    wall_s: float
    latencies_ms: list[float]


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._received = b''
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(HEAD_END)
        if not end:
            return
        length = int(head.lower().partition(LENGTH)[2].partition(b'\r\n')[0])
        if len(body) >= length and self._answer is not None and not self._answer.done():
            self._received = b''
            self._answer.set_result(head[:200] + HEAD_END + body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RunFailed(f'the server closed a connection: {exc}'))

    async def ask(self, request: bytes) -> bytes:
        self._answer = asyncio.get_running_loop().create_future()
        assert self.transport is not None  # noqa: S101 - it is connected
        self.transport.write(request)
        async with asyncio.timeout(REQUEST_DEADLINE_S):
            return await self._answer


async def load(
    port: int,
    request_of: Callable[[int], bytes],
    requests: int,
    *,
    connections: int,
    per_s: float | None = None,
) -> Load:
    """Make requests.

    Args:
        request_of: Makes the request with a number.
        per_s: The pace; a request that finds no connection free is late, and that counts. None: as
            fast as answers come.
    Raises:
        RunFailed: an answer was not 200.
    """
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(_Connection, '127.0.0.1', port))[1]
        for _ in range(connections)
    ]
    latencies: list[float] = []
    began_at = time.perf_counter()
    numbers = _due(requests, began_at, per_s)

    async def work(connection: _Connection) -> None:
        for number, due_at in numbers:  # shared: each takes the next
            if due_at is not None and (early_s := due_at - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            asked_at = due_at or time.perf_counter()
            answer = await connection.ask(request_of(number))
            latencies.append((time.perf_counter() - asked_at) * 1000)
            if not answer.startswith(b'HTTP/1.1 200'):
                raise RunFailed(f'the server answered {answer[:500]!r}')

    try:
        await asyncio.gather(*(work(connection) for connection in opened))
        return Load(time.perf_counter() - began_at, latencies)
    finally:
        for connection in opened:
            if connection.transport is not None:
                connection.transport.abort()


def _due(requests: int, began_at: float, per_s: float | None) -> Iterator[tuple[int, float | None]]:
    for number in itertools.islice(itertools.count(), requests):
        yield number, None if per_s is None else began_at + number / per_s
