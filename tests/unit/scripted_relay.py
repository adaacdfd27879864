"""A loopback SMTP relay that follows a script, declared on the test that needs it.

    async with ScriptedRelay({'RCPT': '451 4.2.1 later'}) as relay: ...

A script maps a verb to a step: a reply such as '250 ok' (its lines joined by CRLF), one of the
actions below, or a tuple of both, done in order. A list holds one step for each time the verb
comes; its last one stays. The verbs are those of SMTP, 'RCPT <anna@example.com>' for one recipient
alone, and

    GREETING     a connection was made
    CREDENTIALS  a line came after a 334 reply to AUTH
    BODY         a part of the body came; without a step it is read on
    DOT          the final dot came
    OUT OF ORDER RCPT came after MAIL was refused, or DATA when every recipient was
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from mail.deliver import deliver
from mail.outcome import Delivery
from mail.progress import Progress
from mail.relay.options import RelayOptions, Timeouts, Tls
from mail.relay.pool import Relay
from mail.route import Relays
from mail_outbox.envelope import Envelope
from mail_outbox.rendered import Rendered

DEADLINE_S = 30.0
SHORT_S = 0.25  # for a timeout that the test wants to see; all that comes before it must be faster

DROP = 'drop'  # close the connection
STALL = 'stall'  # say nothing more, but read on until the client goes
FREEZE = 'freeze'  # say nothing more and read nothing more
START_TLS = 'start-tls'

Step = str | tuple[str, ...]
Script = Mapping[str, Step | list[Step]]

POLITE: Script = {
    'GREETING': '220 relay.test ESMTP',
    'EHLO': '250-relay.test\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES',
    'AUTH': '235 2.7.0 welcome',
    'CREDENTIALS': '235 2.7.0 welcome',
    'DATA': '354 go ahead',
    'OUT OF ORDER': '503 5.5.1 bad sequence of commands',
    'DOT': '250 2.0.0 queued',
}
OFFERS_AUTH = '250-relay.test\r\n250 AUTH PLAIN LOGIN'

ANNA, BOB, CARL = 'anna@example.com', 'bob@example.com', 'carl@example.com'
MESSAGE = b'Subject: Hello\r\n\r\nHello.\r\n'


class _EndedError(Exception):
    """The script, or the client, ended the connection."""


@dataclass
class Session:
    """One connection, as the relay saw it."""

    lines: list[str] = field(default_factory=list)  # the commands, in order
    bodies: list[bytes] = field(
        default_factory=list
    )  # whole ones, still dot-stuffed, without the final dot
    body_bytes: int = 0  # read so far
    tls: bool = False
    open: bool = True
    sender_accepted: bool = False
    recipients_accepted: int = 0

    @property
    def verbs(self) -> list[str]:
        return [line.split(maxsplit=1)[0].upper() for line in self.lines]


class ScriptedRelay:
    """The server. `sessions` grows by one with every connection.

    The script may be changed while it runs.
    """

    offers_pipelining = False

    def __init__(
        self,
        script: Script | None = None,
        name: str = 'primary',
        tls_context: ssl.SSLContext | None = None,
        *,
        tls_at_once: bool = False,
    ) -> None:
        self.name = name
        self.script: dict[str, Step | list[Step]] = {**POLITE, **(script or {})}
        self.sessions: list[Session] = []
        self._tls_context = tls_context
        self._tls_at_once = tls_at_once
        self._counts: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        implicit_tls = self._tls_context if self._tls_at_once else None
        self._server = await asyncio.start_server(self._serve, '127.0.0.1', 0, ssl=implicit_tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._ended.set()
        for task in self._tasks:
            task.cancel()
        await self.until(lambda: not self.open_sessions)

    def options(self, **changes: Any) -> RelayOptions:
        """Return how to reach this relay, with times below the test's own deadline."""
        times = dict.fromkeys(('connect_s', 'command_s', 'body_s', 'reply_s'), 20.0)
        for name in [name for name in changes if name.endswith('_timeout_s')]:
            times[name.replace('_timeout', '')] = changes.pop(name)
        place = {
            'name': self.name,
            'host': '127.0.0.1',
            'port': self.port,
            'tls': Tls.NONE,
            'local_hostname': 'test',
        }
        return RelayOptions(**{**place, 'timeouts': Timeouts(**times), **changes})

    def relay(self, **changes: Any) -> Relay:
        return Relay(self.options(**changes))

    @property
    def verbs(self) -> list[str]:
        """All commands of all connections."""
        return [verb for session in self.sessions for verb in session.verbs]

    @property
    def bodies(self) -> list[bytes]:
        """All whole bodies of all connections."""
        return [body for session in self.sessions for body in session.bodies]

    @property
    def recipients(self) -> list[str]:
        """Who was named in RCPT TO."""
        lines = [line for session in self.sessions for line in session.lines]
        return [line[len('RCPT TO:<') : -1] for line in lines if line.startswith('RCPT')]

    @property
    def open_sessions(self) -> int:
        return sum(session.open for session in self.sessions)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a condition on what the relay saw."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(condition)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session()
        self.sessions.append(session)
        task = cast('asyncio.Task[Any]', asyncio.current_task())
        self._tasks.add(task)
        try:
            await self._note()
            await self._do('GREETING', session, reader, writer)
            while True:
                await self._command(session, reader, writer)
        except (_EndedError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # not raised on: the caller is asyncio's server, which would log it
        finally:
            session.open = False
            self._tasks.discard(task)
            writer.close()
            await self._note()

    async def _command(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = (await reader.readuntil(b'\r\n')).decode().removesuffix('\r\n')
        session.lines.append(line)
        await self._note()
        verb = session.verbs[-1]
        recipient = f'RCPT {line.partition(":")[2]}'
        key = recipient if verb == 'RCPT' and recipient in self.script else verb
        if (verb == 'RCPT' and not session.sender_accepted) or (
            verb == 'DATA' and not session.recipients_accepted
        ):
            key = 'OUT OF ORDER'
        said = await self._do(key, session, reader, writer)
        if verb in ('MAIL', 'RSET', 'DATA'):
            session.sender_accepted = verb == 'MAIL' and said.startswith('250')
            session.recipients_accepted = 0
        elif verb == 'RCPT':
            session.recipients_accepted += said.startswith('250')
        if verb == 'DATA' and said.startswith('354'):
            await self._body(session, reader, writer)
        while verb == 'AUTH' and said.startswith('334'):
            await reader.readuntil(b'\r\n')
            said = await self._do('CREDENTIALS', session, reader, writer)
        if verb == 'QUIT':
            raise _EndedError

    async def _body(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        body = bytearray(b'\r\n')
        while (end := body.find(b'\r\n.\r\n')) < 0:
            part = await reader.read(65536)
            if not part:
                raise _EndedError
            body += part
            session.body_bytes += len(part)
            await self._note()
            if 'BODY' in self.script:
                await self._do('BODY', session, reader, writer)
        session.bodies.append(bytes(body[2 : end + 2]))
        reader._buffer[:0] = body[end + 5 :]  # the next envelope came with it
        await self._note()
        await self._do('DOT', session, reader, writer)

    async def _do(
        self, key: str, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str:
        """Take the next step for a verb. Returns the last thing said."""
        said = ''
        for action in self._next_step(key):
            match action:
                case 'drop':
                    raise _EndedError
                case 'stall':
                    while await reader.read(65536):
                        pass
                    raise _EndedError
                case 'freeze':
                    await self._ended.wait()
                    raise _EndedError
                case 'start-tls':
                    await writer.start_tls(self._tls_context)
                    session.tls = True
                case said:
                    if key == 'EHLO' and self.offers_pipelining and said.startswith('250'):
                        writer.write(b'250-relay.test\r\n250-PIPELINING\r\n')
                    writer.write(said.encode() + b'\r\n')
                    await writer.drain()
        return said

    def _next_step(self, key: str) -> tuple[str, ...]:
        step = self.script.get(key, '250 2.0.0 ok')
        if isinstance(step, list):
            self._counts[key] = self._counts.get(key, -1) + 1
            step = step[min(self._counts[key], len(step) - 1)]
        return (step,) if isinstance(step, str) else step

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def rendered(*recipients: str, message: bytes = MESSAGE) -> Rendered:
    return Rendered(Envelope('shop@example.com', recipients or (ANNA,)), message)


async def send(
    *relays: Relay, mail: Rendered | None = None, settled: Any = None, progress: Any = None
) -> Delivery:
    """Deliver one e-mail to one recipient, when nothing else is asked for."""
    return await deliver(Relays(relays), mail or rendered(), settled or {}, progress or Progress())


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


class Clock:
    """Stands in for the module `time` where a test decides how late it is."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    CLOCK_BOOTTIME = 7

    def clock_gettime(self, _: int) -> float:
        return self.now_s
