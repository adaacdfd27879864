"""An SMTP connection without a network: what a session writes is kept, replies are handed in."""

import asyncio
from typing import Any

from mail.progress import Progress
from mail.relay.greeting import Extensions
from mail.relay.options import Timeouts
from mail.relay.session import Session
from mail.relay.transaction import Transaction
from mail_outbox.envelope import Envelope
from mail_outbox.rendered import Rendered

ENVELOPE_REPLIES = b'250 ok\r\n250 ok\r\n354 go\r\n'
MESSAGE = b'Subject: Hello\r\n\r\nHello.\r\n'


class Transport(asyncio.Transport):
    """Keeps what was written; closes as a real one does, without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.ended: str | None = None
        self.limits: dict[str, Any] = {}

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.ended is not None

    def close(self) -> None:
        self.ended = self.ended or 'closed'

    def abort(self) -> None:
        self.ended = 'aborted'

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = {'high': high, 'low': low}


class Pool:
    """What a session asks of whoever owns it."""

    def __init__(self) -> None:
        self.waiting: list[Transaction] = []
        self.freed = 0

    def on_free(self, _: Session) -> None:
        self.freed += 1

    def next_waiting(self, _: Session) -> Transaction | None:
        return self.waiting.pop(0) if self.waiting else None


def open_session(
    transport: Transport,
    pool: Pool,
    *,
    pipelining: bool = True,
    command_s: float = 5.0,
    reply_s: float = 5.0,
) -> Session:
    extensions = Extensions(pipelining=pipelining)
    timeouts = Timeouts(command_s=command_s, body_s=5.0, reply_s=reply_s)
    return Session(transport, extensions, timeouts, pool.on_free, pool.next_waiting)


def transaction(
    recipient: str = 'anna@example.com', message: bytes = MESSAGE, progress: Any = None
) -> Transaction:
    return Transaction(
        'primary',
        Rendered(Envelope('shop@example.com', (recipient,)), message),
        progress or Progress(),
    )


def envelope_of(recipient: str) -> bytes:
    return b'MAIL FROM:<shop@example.com>\r\nRCPT TO:<%s>\r\nDATA\r\n' % recipient.encode()
