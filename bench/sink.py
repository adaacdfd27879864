"""A relay that takes everything and keeps nothing, and can do what smtp-sink cannot.

`python -m bench.sink PORT`.

One process, SMTP on 127.0.0.1, with pipelining (RFC 2920). With --delay-ms every answer comes that
much later, as from a relay with this round-trip time; with --certificate and --key it offers
STARTTLS. XCOUNT answers with the number of messages taken. After XWATCH a connection is told of
each message when its final dot has come: one line `count nanoseconds`, by the machine's monotonic
clock; after XWATCH TEXT only of those whose recipient holds TEXT.
"""

import argparse
import asyncio
import ssl
import time
from pathlib import Path
from typing import ClassVar

import uvloop

END_OF_DATA = b'\r\n.\r\n'
MAX_LINE_BYTES = 4096
GREETING = b'220 sink.invalid ESMTP\r\n'
EHLO_REPLY = (
    b'250-sink.invalid\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n'
    b'250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n'
)
EHLO_REPLY_TLS = EHLO_REPLY.replace(b'250-PIPELINING', b'250-STARTTLS\r\n250-PIPELINING')


class Sink(asyncio.Protocol):
    """One SMTP connection."""

    messages: ClassVar[int] = 0  # taken by all connections together
    delay_s: ClassVar[float] = 0.0
    tls: ClassVar[ssl.SSLContext | None] = None
    watchers: ClassVar[
        dict[asyncio.Transport, bytes]
    ] = {}  # and what the recipient's line must hold

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._buffer = bytearray()
        self._searched_bytes = 0
        self._in_data = False
        self._has_sender = False
        self._recipients = 0
        self._last_recipient = b''
        self._loop = asyncio.get_running_loop()
        self._answer_with(GREETING)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget a watcher."""
        Sink.watchers.pop(self._transport, None)

    def _answer_with(self, replies: bytes) -> None:
        if Sink.delay_s:
            self._loop.call_later(Sink.delay_s, self._transport.write, replies)
        else:
            self._transport.write(replies)

    def data_received(self, data: bytes) -> None:
        """Take what there is, and answer all of it in one write."""
        self._buffer += data
        replies = []
        while (
            reply := self._take_message() if self._in_data else self._take_command()
        ) is not None:
            replies.append(reply)
            if reply.startswith((b'220', b'221', b'421')):
                break
        if not replies:
            return
        if replies[-1].startswith(b'220'):  # TLS comes next, and is not for us to read
            self._transport.pause_reading()
            self._upgrade = self._loop.create_task(self._start_tls(replies[-1]))
            return
        self._answer_with(b''.join(replies))
        if replies[-1].startswith((b'221', b'421')):
            self._loop.call_later(Sink.delay_s, self._transport.close)

    async def _start_tls(self, reply: bytes) -> None:
        self._transport.write(reply)
        self._buffer.clear()
        if Sink.tls is None:  # then STARTTLS is not offered
            return
        try:
            transport = await self._loop.start_tls(
                self._transport, self, Sink.tls, server_side=True
            )
        except (OSError, ssl.SSLError):
            self._transport.close()
            return
        self._transport = transport  # type: ignore[assignment]

    def _take_message(self) -> bytes | None:
        end = self._buffer.find(END_OF_DATA, self._searched_bytes)
        if end < 0:
            # The mark may come in two pieces.
            self._searched_bytes = max(0, len(self._buffer) - len(END_OF_DATA) + 1)
            return None
        del self._buffer[: end + len(END_OF_DATA)]
        self._in_data = False
        self._forget_transaction()
        Sink.messages += 1
        if Sink.watchers:
            line = b'%d %d\r\n' % (Sink.messages, time.monotonic_ns())
            for watcher, wanted in Sink.watchers.items():
                if wanted in self._last_recipient:
                    watcher.write(line)
        return b'250 2.0.0 Ok\r\n'

    def _take_command(self) -> bytes | None:
        end = self._buffer.find(b'\r\n')
        if end < 0 and len(self._buffer) > MAX_LINE_BYTES:
            self._buffer.clear()
            return b'421 4.7.0 line too long\r\n'
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).upper()
        del self._buffer[: end + 2]
        return self._answer(line)

    def _answer(self, line: bytes) -> bytes:
        verb = line.partition(b' ')[0]
        match verb:
            case b'EHLO':
                self._forget_transaction()
                return EHLO_REPLY_TLS if Sink.tls else EHLO_REPLY
            case b'MAIL' if not self._has_sender:
                self._has_sender = True
            case b'RCPT' if self._has_sender:
                self._recipients += 1
                self._last_recipient = line
            case b'DATA' if self._recipients:
                return self._start_data()
            case b'MAIL' | b'RCPT' | b'DATA':
                return b'503 5.5.1 bad sequence of commands\r\n'
            case b'HELO' | b'RSET':
                self._forget_transaction()
            case _:
                return self._answer_aside(verb, line.partition(b' ')[2])
        return b'250 2.0.0 Ok\r\n'

    def _answer_aside(self, verb: bytes, rest: bytes) -> bytes:
        match verb:
            case b'STARTTLS' if Sink.tls:
                return b'220 2.0.0 go ahead\r\n'
            case b'XCOUNT':
                return b'250 %d\r\n' % Sink.messages
            case b'XWATCH':
                Sink.watchers[self._transport] = rest
                return b'250 2.0.0 Ok\r\n'
            case b'NOOP':
                return b'250 2.0.0 Ok\r\n'
            case b'QUIT':
                return b'221 2.0.0 Bye\r\n'
        return b'500 5.5.2 command not known\r\n'

    def _start_data(self) -> bytes:
        self._in_data = True
        # The end of the line DATA belongs to the mark when the message is empty.
        self._buffer[:0] = b'\r\n'
        self._searched_bytes = 0
        return b'354 end with a dot\r\n'

    def _forget_transaction(self) -> None:
        self._has_sender = False
        self._recipients = 0


async def serve(port: int) -> None:
    """Serve until the process ends."""
    server = await asyncio.get_running_loop().create_server(Sink, '127.0.0.1', port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog='python -m bench.sink')
    parser.add_argument('port', type=int)
    parser.add_argument('--delay-ms', type=float, default=0.0)
    parser.add_argument('--certificate', type=Path)
    parser.add_argument('--key', type=Path)
    options = parser.parse_args()
    Sink.delay_s = options.delay_ms / 1000
    if options.certificate:
        Sink.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        Sink.tls.load_cert_chain(options.certificate, options.key)
    uvloop.run(serve(options.port))


if __name__ == '__main__':
    main()
