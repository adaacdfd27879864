"""A loopback SMTP relay that follows a script, declared on the test that needs it.

    async with ScriptedRelay({'RCPT': '451 4.2.1 later'}) as relay:

A script maps a verb to a step: a reply such as '250 ok' (lines joined by CRLF), 'drop', 'stall' (no answer until the
client goes), or a tuple of these, done in order. A list holds one step for each time the verb comes; the last one
stays. Verbs are those of SMTP, 'RCPT <a@example.com>' for one recipient, and

    GREETING    when a connection was made
    BODY        after 354, when the first bytes of the body are there; no step: read on
    DOT         after the final dot
    CREDENTIALS after a 334 in reply to AUTH
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from mail.smtp import RelayOptions, Tls

DEADLINE_S = 5.0
DROP, STALL = 'drop', 'stall'

Step = str | tuple[str, ...]
Script = Mapping[str, Step | list[Step]]

POLITE: Script = {
    'GREETING': '220 relay.test ESMTP',
    'EHLO': '250-relay.test\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES',
    'AUTH': '235 2.7.0 welcome',
    'DATA': '354 go ahead',
    'DOT': '250 2.0.0 queued',
}


class Gone(Exception):
    """The script, or the client, ended the connection."""


@dataclass
class Session:
    """One connection, as the relay saw it."""

    lines: list[str] = field(default_factory=list)  # the commands, in order
    bodies: list[bytes] = field(default_factory=list)  # whole ones, as they came: dot-stuffed, without the final dot
    body_bytes: int = 0  # read so far, whole or not
    open: bool = True


class ScriptedRelay:
    """The server; `sessions` grows by one with every connection."""

    def __init__(self, script: Script | None = None, name: str = 'primary') -> None:
        self.name = name
        self.script: dict[str, Step | list[Step]] = {**POLITE, **(script or {})}
        self.sessions: list[Session] = []
        self._counts: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, '127.0.0.1', 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self.until(lambda: not self.open_sessions)

    def options(self, **changes: Any) -> RelayOptions:
        """Return how to reach this relay; all times are short of the test's own deadline."""
        times = dict.fromkeys(('connect_timeout_s', 'command_timeout_s', 'body_timeout_s', 'reply_timeout_s'), 2.0)
        values = {'name': self.name, 'host': '127.0.0.1', 'port': self.port, 'tls': Tls.NONE, 'local_hostname': 'test'}
        return RelayOptions(**{**values, **times, **changes})

    @property
    def lines(self) -> list[str]:
        """All commands of all connections."""
        return [line for session in self.sessions for line in session.lines]

    @property
    def bodies(self) -> list[bytes]:
        """All whole bodies of all connections."""
        return [body for session in self.sessions for body in session.bodies]

    @property
    def open_sessions(self) -> int:
        return sum(session.open for session in self.sessions)

    def came(self, verb: str) -> int:
        """Return how often a verb was received."""
        return sum(line.split(maxsplit=1)[0] == verb for line in self.lines)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition on what the relay saw."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session()
        self.sessions.append(session)
        self._writers.add(writer)
        try:
            await self._note()
            await self._do('GREETING', reader, writer)
            while True:
                await self._command(session, reader, writer)
        except (Gone, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            session.open = False
            self._writers.discard(writer)
            writer.close()
            await self._note()

    async def _command(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b'\r\n')).decode().removesuffix('\r\n')
        session.lines.append(line)
        await self._note()
        verb = line.split(maxsplit=1)[0].upper()
        keys = [f'RCPT {line.partition(":")[2]}', 'RCPT'] if verb == 'RCPT' else [verb]
        said = await self._do(next((key for key in keys if key in self.script), verb), reader, writer)
        if verb == 'DATA' and said.startswith('354'):
            await self._body(session, reader, writer)
        while verb == 'AUTH' and said.startswith('334'):
            await reader.readuntil(b'\r\n')
            said = await self._do('CREDENTIALS', reader, writer)
        if verb == 'QUIT':
            raise Gone

    async def _body(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = bytearray()
        while not (body.endswith(b'\r\n.\r\n') or body == b'.\r\n'):
            chunk = await reader.read(65536)
            if not chunk:
                raise Gone
            body += chunk
            session.body_bytes += len(chunk)
            await self._note()
            if 'BODY' in self.script:
                await self._do('BODY', reader, writer)
        session.bodies.append(bytes(body.removesuffix(b'.\r\n')))
        await self._note()
        await self._do('DOT', reader, writer)

    async def _do(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Take the next step for a verb. Returns the last thing said."""
        step = self.script.get(key, '250 2.0.0 ok')
        if isinstance(step, list):
            count = self._counts.get(key, 0)
            self._counts[key] = count + 1
            step = step[min(count, len(step) - 1)]
        said = ''
        for action in (step,) if isinstance(step, str) else step:
            if action == DROP:
                raise Gone
            if action == STALL:
                await self._until_gone(reader)
            writer.write(action.encode() + b'\r\n')
            await writer.drain()
            said = action
        return said

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(65536):
            pass
        raise Gone

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def commands(lines: Sequence[str]) -> list[str]:
    """Return the verbs of command lines."""
    return [line.split(maxsplit=1)[0] for line in lines]


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            with suppress(IndexError):
                await asyncio.sleep(0)
