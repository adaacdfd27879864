"""The kinds of e-mail the demo sends, and what must become of each."""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from mail_outbox.envelope import Attachment

DORA = {'name': 'Dora'}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of e-mail: how it is queued, and what must become of it."""

    name: str
    recipient: str
    status: str = 'sent'
    attempts: int = 1
    relay: str | None = 'primary'
    parts: dict[str, Any] = field(default_factory=dict)
    send_in_s: float | None = None
    expires_in_s: float | None = None
    job_delay_s: float = 0.0
    primary_down: bool = False
    attachments: tuple[Attachment, ...] = ()
    in_mongo: bool = False  # its attachments

    def times(self) -> dict[str, datetime]:
        """Return when it may go and when it expires, counted from now: the moment it is queued."""
        wanted = {'send_at': self.send_in_s, 'expires_at': self.expires_in_s}
        return {
            name: datetime.now(UTC) + timedelta(seconds=s)
            for name, s in wanted.items()
            if s is not None
        }


def kinds(template_id: int) -> list[Kind]:
    """Return every kind the demo shows."""
    pdf = Attachment('receipt.pdf', 'application/pdf', b'%PDF-1.4 ' + os.urandom(40_000))
    picture = Attachment('Grüße.png', 'image/png', b'\x89PNG\r\n' + os.urandom(2_000))
    return [
        Kind('text', 'anna@example.com'),
        Kind('HTML and text', 'ben@example.com', parts={'body_html': '<p>Hello, <b>Ben</b>.</p>'}),
        Kind(
            'non-ASCII subject and name',
            'Çağla Öz <cagla@example.com>',
            parts={'subject': 'Grüße aus Köln ☃'},
        ),
        Kind(
            'from a template',
            'dora@example.com',
            parts={'template_id': template_id, 'template_data': DORA},
        ),
        Kind(
            'attachments, Cc and Bcc',
            'emma@example.com',
            parts={'cc': 'Eric <eric@example.com>', 'bcc': 'eve@example.com'},
            attachments=(pdf, picture),
        ),
        Kind(
            'attachments from MongoDB',
            'emil@example.com',
            attachments=(pdf, picture),
            in_mongo=True,
        ),
        Kind('scheduled for later', 'fay@example.com', send_in_s=2),
        Kind('4xx twice, then accepted', 'gus+4xx-twice@example.com', attempts=3),
        Kind('5xx', 'hal+5xx-rcpt@example.com', status='failed'),
        Kind('primary down, backup up', 'ida@example.com', relay='backup', primary_down=True),
        Kind(
            'expired before it could go',
            'jon@example.com',
            status='expired',
            attempts=0,
            relay=None,
            # Due only when it is over: a sweep that somebody wakes meanwhile must not send it.
            send_in_s=1,
            expires_in_s=1,
            job_delay_s=1.5,
        ),
    ]  # fmt: skip
