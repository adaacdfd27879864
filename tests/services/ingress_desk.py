"""The SMTP ingress for tests, in this process, and clients of it."""

import asyncio
import contextlib
import smtplib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ingress.door import Door, IngressRules
from ingress.listener import Listener
from mail_outbox.envelope import MAX_MESSAGE_BYTES
from reporting.servers import ServerAddresses
from reporting.within_deadline import DeadlineServers
from tests.conftest import DEADLINE_S

OWN_ADDRESS = 'noreply@example.com'
MESSAGE = (
    b'From: Shop <noreply@example.com>\r\nTo: anna@example.com\r\nSubject: Hello\r\n'
    b'Date: Mon, 30 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\nHello, Anna.\r\n'
)
RULES = {
    'host_name': 'ingress.example.com', 'is_local': True, 'needs_token': False,
    'certificate': None, 'max_message_bytes': MAX_MESSAGE_BYTES, 'max_bytes_in_flight': 64 << 20,
    'max_connections': 1000, 'timeout_s': DEADLINE_S, 'own_address': OWN_ADDRESS,
    'expiry_hours': 24, 'message_id_is_key': False,
}  # fmt: skip


@dataclass
class RawClient:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: str = field(default='')

    async def reply(self) -> str:
        """The next reply, all of its lines; '' when the connection has ended."""
        lines = []
        while True:
            async with asyncio.timeout(DEADLINE_S):
                line = (await self.reader.readline()).decode(errors='replace')
            lines.append(line)
            if line[3:4] != '-':
                return ''.join(lines)

    async def says(self, data: bytes) -> str:
        self.writer.write(data)
        return await self.reply()

    async def all_replies(self) -> list[str]:
        """The codes of every reply until the connection ends.

        The kernel drops what was not yet read when somebody hangs up on a client that still talks.
        """
        text = b''
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_S):
                while chunk := await self.reader.read(65536):
                    text += chunk
        return [line[:3].decode() for line in text.splitlines() if line[3:4] != b'-']

    async def begins(self, sender: bytes = b'noreply@example.com', *recipients: bytes) -> str:
        """EHLO to DATA; returns the reply to DATA."""
        await self.says(b'EHLO client.example.com\r\n')
        await self.says(b'MAIL FROM:<%b>\r\n' % sender)
        for recipient in recipients or (b'anna@example.com',):
            await self.says(b'RCPT TO:<%b>\r\n' % recipient)
        return await self.says(b'DATA\r\n')


class IngressDesk:
    """A listener, and what it was asked."""

    def __init__(self, door: Door, listener: Listener, port: int) -> None:
        self.door, self.listener, self.port = door, listener, port
        self._clients: list[RawClient] = []

    async def connect(self) -> RawClient:
        reader, writer = await asyncio.open_connection('127.0.0.1', self.port, limit=1 << 20)
        client = RawClient(reader, writer)
        self._clients.append(client)
        client.greeting = await client.reply()
        return client

    async def smtplib(self, talk: Callable[[smtplib.SMTP], Any]) -> Any:
        """What talk(client) returns, in a thread."""

        def run() -> Any:
            with smtplib.SMTP('127.0.0.1', self.port, timeout=DEADLINE_S) as client:
                return talk(client)

        return await asyncio.to_thread(run)

    def close(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()


@contextlib.asynccontextmanager
async def open_ingress(
    dsn: str, *, deadline_s: float = 5.0, port: int = 0, **rules: Any
) -> AsyncIterator[Any]:
    """Open a listener; rules are those that differ from RULES."""
    servers = DeadlineServers(
        ServerAddresses(dsn, 'redis://nobody.invalid:1/1'), deadline_s, pool_size=4,
        application_name='tests',
    )  # fmt: skip
    door = Door(IngressRules(**(RULES | rules)), servers)
    listener = Listener(door)
    desk = IngressDesk(door, listener, await listener.open('127.0.0.1', port))
    try:
        yield desk
    finally:
        desk.close()
        await listener.close(0.1)
        await door.close()
