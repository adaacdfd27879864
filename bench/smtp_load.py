"""Messages by SMTP from this process: as fast as connections answer, or at a pace.

Clients wait for every reply, as mailers do. What they say is made before the clock starts, and they
read no more of a reply than its code, so that they leave the cores to the server.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from bench.outbox import RunFailed

SENDER = 'noreply@example.com'
BODY = 'What you ordered is on its way.\r\n' * 30
HELLO = ((b'', b'220'), (b'EHLO bench.example\r\n', b'250'))
ENVELOPE = (
    (f'MAIL FROM:<{SENDER}>\r\n'.encode(), b'250'),
    (b'RCPT TO:<anna@example.com>\r\n', b'250'),
    (b'DATA\r\n', b'354'),
)
GOODBYE = ((b'QUIT\r\n', b'221'),)
ANSWER_DEADLINE_S = 30.0

Step = tuple[bytes, bytes]  # what is said, and the code that must follow


@dataclass(frozen=True)
class SmtpLoad:
    """What a run of messages took.

    Attributes:
        latencies_ms: Of each message, from the moment it was due until its 250; with the connection
            where it has one of its own.
    """

    wall_s: float
    latencies_ms: list[float]


class SmtpClient(asyncio.Protocol):
    """One connection, one step after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b''
        self._steps: Iterator[Step] = iter(())
        self._said, self._code = b'', b''
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the greeting."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of a class of its own
        self._begin(HELLO)

    def data_received(self, data: bytes) -> None:
        """Go on when a reply is complete."""
        self._received += data
        if not data.endswith(b'\n'):
            return
        last = self._received.rfind(b'\n', 0, -1) + 1
        if self._received[last + 3 : last + 4] == b'-':
            return
        reply, self._received = self._received[last:], b''
        if not reply.startswith(self._code):
            self._end(RunFailed(f'{self._said[:60]!r} was answered by {reply!r}'))
        else:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._end(RunFailed(f'the server closed a connection: {error}'))

    async def go(self, *steps: Step) -> None:
        """Take these steps.

        Raises:
            RunFailed: a reply was another one, or did not come.
        """
        self._begin(steps)
        await self.settled()

    async def settled(self) -> None:
        """Wait until the steps are taken that were begun. Raises: see go."""
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                await self._done
        except TimeoutError as error:
            raise RunFailed(f'{self._said[:60]!r} was not answered') from error

    def hang_up(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _begin(self, steps: Iterable[Step]) -> None:
        self._done = asyncio.get_running_loop().create_future()
        self._steps = iter(steps)
        self._next()

    def _next(self) -> None:
        step = next(self._steps, None)
        if step is None:
            self._end(None)
            return
        self._said, self._code = step
        if self._said and self._transport is not None:
            self._transport.write(self._said)

    def _end(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


async def connected(port: int) -> SmtpClient:
    """Return a client that was greeted.

    Raises:
        OSError: nobody listens.
        RunFailed: it was answered otherwise.
    """
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(SmtpClient, '127.0.0.1', port)
    await client.settled()
    return client


def message(number: int) -> bytes:
    """Return what follows DATA, with its end: 1.2 kB."""
    head = (
        f'From: Shop <{SENDER}>\r\nTo: anna@example.com\r\nSubject: Receipt {number}\r\n'
        f'Date: Mon, 30 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@bench.example>\r\n\r\n'
    )
    return f'{head}{BODY}.\r\n'.encode()


async def submit_all(
    port: int, messages: Sequence[bytes], clients: int, *, is_kept: bool, per_s: float | None = None
) -> SmtpLoad:
    """Submit messages.

    Args:
        is_kept: Each client keeps its connection; else there is one for each message.
        per_s: The pace; a message that finds no client free is late, and that counts. None: as fast
            as answers come.
    Raises:
        RunFailed: one was not taken.
    """
    latencies_ms: list[float] = []
    numbered = iter(enumerate(messages))
    kept: list[SmtpClient | None] = [None] * clients
    if is_kept:
        kept = [await connected(port) for _ in range(clients)]
    began_at = time.perf_counter()

    async def work(client: SmtpClient | None) -> None:
        for number, data in numbered:  # shared: each takes the next
            due_at = time.perf_counter()
            if per_s is not None:
                due_at = began_at + number / per_s
                await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            own = client or await connected(port)
            await own.go(*ENVELOPE, (data, b'250'))
            latencies_ms.append((time.perf_counter() - due_at) * 1000)
            if client is None:
                await own.go(*GOODBYE)
                own.hang_up()

    await asyncio.gather(*map(work, kept))
    wall_s = time.perf_counter() - began_at
    for client in kept:
        if client is not None:
            client.hang_up()
    return SmtpLoad(wall_s, latencies_ms)
