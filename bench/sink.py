"""A relay that takes everything and keeps nothing: `python -m bench.sink PORT`. Stands in where smtp-sink is missing.

One process, plain SMTP on 127.0.0.1. It answers as fast as it can, understands pipelining (RFC 2920), and tells the
number of messages it has taken when asked with XCOUNT.
"""

import asyncio
import sys

import uvloop

END_OF_DATA = b'\r\n.\r\n'
MAX_LINE_BYTES = 4096
GREETING = b'220 sink.invalid ESMTP\r\n'
EHLO_REPLY = b'250-sink.invalid\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n'


class Sink(asyncio.Protocol):
    """One SMTP connection."""

    messages = 0  # taken by all connections together

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._buffer = bytearray()
        self._searched_bytes = 0
        self._in_data = False
        self._has_sender = False
        self._recipients = 0
        self._transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        """Take what there is, and answer all of it in one write."""
        self._buffer += data
        replies = []
        while (reply := self._take_message() if self._in_data else self._take_command()) is not None:
            replies.append(reply)
            if reply.startswith((b'221', b'421')):
                break
        self._transport.write(b''.join(replies))
        if replies and replies[-1].startswith((b'221', b'421')):
            self._transport.close()

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
                return EHLO_REPLY
            case b'MAIL' if not self._has_sender:
                self._has_sender = True
            case b'RCPT' if self._has_sender:
                self._recipients += 1
            case b'DATA' if self._recipients:
                return self._start_data()
            case b'MAIL' | b'RCPT' | b'DATA':
                return b'503 5.5.1 bad sequence of commands\r\n'
            case b'HELO' | b'RSET':
                self._forget_transaction()
            case b'NOOP':
                pass
            case b'XCOUNT':
                return b'250 %d\r\n' % Sink.messages
            case b'QUIT':
                return b'221 2.0.0 Bye\r\n'
            case _:
                return b'500 5.5.2 command not known\r\n'
        return b'250 2.0.0 Ok\r\n'

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


if __name__ == '__main__':
    uvloop.run(serve(int(sys.argv[1])))
