"""One open SMTP connection: what is written to it, and the relay's replies in their order.

aiosmtplib opens the connection (TCP, greeting, EHLO, STARTTLS, AUTH); from then on this protocol has it, because
aiosmtplib waits for each reply before the next command, and RFC 2920 (PIPELINING) lets us send several at once.
"""

import asyncio
import re
from collections import deque
from collections.abc import Collection
from typing import cast

from mail.outcome import Reply

REPLY_LINE = re.compile(rb'(\d{3})([ -]?)([^\r\n]*)\r?\n')
MAX_REPLY_BYTES = 64 * 1024


class RelayGoneError(Exception):
    """The connection failed, or nothing came in time, or what came is no SMTP."""


class Session(asyncio.Protocol):
    """Commands out, replies in.

    Attributes:
        extensions: What the relay offered in EHLO, in lower case.
        size_limit_bytes: The relay's SIZE (RFC 1870), 0 for none.
    """

    def __init__(self, transport: asyncio.Transport, extensions: Collection[str], size_limit_bytes: int) -> None:
        self.extensions = frozenset(extensions)
        self.size_limit_bytes = size_limit_bytes
        self._transport = transport
        self._buffer = b''
        self._lines: list[bytes] = []  # of a reply that is not complete yet
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._lost: RelayGoneError | None = None
        # resume_writing is called when nothing is left to flush, see flush().
        transport.set_write_buffer_limits(high=1, low=0)  # high=0 would stop a TLS transport with nothing to flush
        transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether the connection can still be written to, as far as we know."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def has_unread(self) -> bool:
        """Whether the relay said something nobody asked for: mostly 421 before it closes an idle connection."""
        return bool(self._replies or self._lines or self._buffer)

    def write(self, data: bytes) -> None:
        """Send, without waiting.

        Raises:
            RelayGoneError: the connection is known to be lost.
        """
        if not self.is_open:
            raise self._lost or RelayGoneError('the connection is closed')
        self._transport.write(data)

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything written has left this process.

        Raises:
            RelayGoneError: the connection was lost first, or the relay does not read.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._flushed.wait()
        except TimeoutError:
            raise RelayGoneError(f'the relay did not read for {timeout_s:g} s') from None
        if self._lost is not None:
            raise self._lost

    async def reply(self, timeout_s: float) -> Reply:
        """Return the next reply.

        Raises:
            RelayGoneError: none came in time, or the connection was lost.
        """
        if not self._replies:
            if self._lost is not None:
                raise self._lost
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout_s, self._fail, RelayGoneError(f'no reply within {timeout_s:g} s'))
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._replies.popleft()

    def close(self) -> None:
        """Close a connection that owes nothing, in order."""
        if self.is_open:
            self._transport.write(b'QUIT\r\n')
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what has not been flushed is never sent."""
        self._transport.abort()
        self._lost = self._lost or RelayGoneError('the connection was closed')

    def data_received(self, data: bytes) -> None:
        """Collect whole replies (RFC 5321, 4.2.1)."""
        self._buffer += data
        while match := REPLY_LINE.match(self._buffer):
            self._buffer = self._buffer[match.end() :]
            self._lines.append(match[3].strip())
            if match[2] != b'-':
                text = b'\n'.join(self._lines).decode('utf-8', 'replace')
                self._lines.clear()
                self._replies.append(Reply(int(match[1]), text))
        if b'\n' in self._buffer or len(self._buffer) + sum(map(len, self._lines)) > MAX_REPLY_BYTES:
            self._fail(RelayGoneError(f'not an SMTP reply: {self._buffer[:80].decode("utf-8", "replace")!r}'))
        elif self._replies:
            self._wake()

    def eof_received(self) -> None:
        """Note that the relay has closed its side; the transport closes ours."""
        self._fail(RelayGoneError('the relay closed the connection'))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._fail(RelayGoneError(f'connection lost: {exc}' if exc else 'the relay closed the connection'))

    def pause_writing(self) -> None:
        """Note that there is something to flush."""
        self._flushed.clear()

    def resume_writing(self) -> None:
        """Note that everything was flushed."""
        self._flushed.set()

    def _fail(self, error: RelayGoneError) -> None:
        # After a time-out as well: a reply that came later would be taken for that of the next command.
        self._lost = self._lost or error
        self._flushed.set()
        self._wake()
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            if self._replies:
                self._waiter.set_result(None)
            else:
                self._waiter.set_exception(self._lost or RelayGoneError('the connection is closed'))


def take_over(transport: asyncio.BaseTransport, extensions: dict[str, str]) -> Session:
    """Return the session of a connection on which EHLO, TLS and AUTH are done.

    Args:
        extensions: EHLO's keywords and their parameters.
    """
    size = extensions.get('size', '')
    return Session(cast('asyncio.Transport', transport), extensions, int(size) if size.isdigit() else 0)
