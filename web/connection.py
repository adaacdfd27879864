"""Connections to the page and the API: so many, and never kept by who asks nothing.

Descriptors are what runs out first: a client that connects and says nothing costs one. So there is
a limit on how long a connection may be idle, and one on how many there are: beyond it the one that
has been idle for longest makes room.
"""

import asyncio
import errno
import resource
import time
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()

BACKLOG = 32  # asyncio accepts so many at once, before any of them can be let go
ACCEPTED = 2 * BACKLOG  # and so many more while those are closed that were let go
MOST_OPEN = 1000
RESERVED = 48  # descriptors for everything else: servers asked, their new connections, the log
LONGEST_HEAD_BYTES = 64 * 1024  # of a request, without its body
BYTES_PER_BYTE = 8  # of a body in the smallest pieces, on the wire
STUCK_S = 30.0  # for who asked and does not read the answer
MOST_UNREAD_BYTES = 64 * 1024 * 1024  # of all answers that their clients do not read
REPORTED_EVERY_S = 60.0
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def most_open() -> int:
    """Return how many connections there may be with the descriptors this process may have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_OPEN
    return max(4, min(MOST_OPEN, allowed - RESERVED - ACCEPTED))


class PageConnection(HttpToolsProtocol):
    """uvicorn's, but who does not ask in time, or without end, is let go.

    Otherwise silent connections take every place, and keep it; and httptools, unlike h11, takes a
    head of any length.
    """

    opened_at = unread_since = 0.0
    overhead_bytes = 0  # of the request that is coming, besides its body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Start to wait for a request; the oldest idle connection goes when there are too many."""
        super().connection_made(transport)
        self.opened_at = self.loop.time()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        if len(self.connections) > most_open():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Go on waiting when this was a part of a request; it gets no more time than a whole."""
        waiting = self.timeout_keep_alive_task
        self.overhead_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._read(memoryview(data))
        except httptools.HttpParserError:
            self.send_400_response('Invalid HTTP request received.')
            return
        if self.overhead_bytes > LONGEST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response('The head of the request is too long.')
            return
        if waiting and not self.timeout_keep_alive_task and self.is_idle:
            self.timeout_keep_alive_task = self.loop.call_at(
                waiting.when(), self.timeout_keep_alive_handler
            )

    def _read(self, data: memoryview) -> None:
        """Read what came; a request that offers another protocol, as one that does not.

        A server need not take the offer (RFC 9110, 7.8). httptools ends with the head of such a
        request, and uvicorn answers it without its body: each POST by the HTTP client of Java,
        which offers h2c.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                fields = [b'%b: %b\r\n' % field for field in self.headers if field[0] != b'upgrade']
                line = b'%b %b HTTP/1.1\r\n' % (self.parser.get_method(), self.url)
                self.parser = httptools.HttpRequestParser(self)
                self.parser.feed_data(b''.join([line, *fields, b'\r\n']))
            else:
                return

    def on_headers_complete(self) -> None:
        """Begin to answer.

        Raises:
            ValueError: who asks takes this for a proxy.
        """
        if self.parser.get_method() == b'CONNECT':
            raise ValueError('this is no proxy')
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_begin(self) -> None:
        """Count anew."""
        self.overhead_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Allow for the lengths in front of small pieces."""
        self.overhead_bytes -= BYTES_PER_BYTE * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count anew: what else has come is of the next request."""
        self.overhead_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Let go who has not read for longest, when too much waits to be read."""
        super().pause_writing()
        self.unread_since = self.loop.time()
        stuck: list[Any] = [c for c in self.connections if c.flow.write_paused]  # type: ignore[union-attr] # as uvicorn's
        unread_bytes = sum(c.transport.get_write_buffer_size() for c in stuck)
        for connection in sorted(stuck, key=lambda c: c.unread_since):
            if unread_bytes <= MOST_UNREAD_BYTES:
                break
            unread_bytes -= connection.transport.get_write_buffer_size()
            self._let_go(connection)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> None:
        others: list[Any] = sorted(
            self.connections - {self}, key=lambda connection: connection.opened_at
        )
        stuck_before = self.loop.time() - STUCK_S
        let_go = next((c for c in others if c.is_idle), None) or next(
            (c for c in others if c.opened_at < stuck_before), None
        )
        if let_go is not None:
            self._let_go(let_go)

    def _let_go(self, connection: Any) -> None:
        # It is closed in the loop's next turn; no place is counted for it any more.
        self.connections.discard(connection)
        connection.transport.abort()


class _Quiet:
    """Says once a minute what asyncio says thousands of times, each with a traceback."""

    def __init__(self) -> None:
        self._reported_at = -REPORTED_EVERY_S
        self._unreported = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get('exception')
        if not isinstance(error, OSError) or error.errno not in OUT_OF_DESCRIPTORS:
            loop.default_exception_handler(context)
            return
        self._unreported += 1
        if time.monotonic() - self._reported_at >= REPORTED_EVERY_S:
            log.warning(
                'web.connections_refused',
                error=str(error),
                times=self._unreported,
                remedy='raise LimitNOFILE',
            )
            self._reported_at, self._unreported = time.monotonic(), 0


def quieten(loop: asyncio.AbstractEventLoop) -> None:
    """Have the loop report missing descriptors once a minute, and everything else as ever."""
    loop.set_exception_handler(_Quiet())
