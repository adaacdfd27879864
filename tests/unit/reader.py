"""Renders an e-mail and reads it back as a recipient's program does."""

import email
import email.policy
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

from mail.template.asking import with_parts
from mail.template.jinja import fill_parts
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import Attachment, Content, Email, Template
from mail_outbox.render import render
from mail_outbox.rendered import Rendered

SENDER = Sender('shop@example.com', 'The Shop')
DATE = datetime(2026, 11, 5, 9, 30, tzinfo=UTC)
TEXT = Template('Hello {{ name }}', 'Dear {{ name }},\n', '<p>Dear {{ name }},</p>')


def an_email(**parts: Any) -> Email:
    values = {
        'id': 1,
        'recipient': 'anna@example.com',
        'subject': 'Hello',
        'body_text': 'Hello, Anna.\n',
    }
    return Email(**{**values, 'message_id': '<1@example.com>', 'message_date': DATE, **parts})


def rendered(
    *attachments: Attachment,
    template: Template | None = None,
    sender: Sender = SENDER,
    **parts: Any,
) -> Rendered:
    row = an_email(**parts)
    if template is not None:
        subject, text, html = fill_parts(
            (template.subject, template.body_text, template.body_html),
            row.template_data,
            10_000_000,
        )
        row = with_parts(row, (subject, text, html))
    return render(row, Content(None, attachments), sender, 10_000_000)


def read(*attachments: Attachment, **parts: Any) -> EmailMessage:
    """Render and parse, as it travels to a relay that takes seven bits only."""
    done = rendered(*attachments, **parts)
    in_seven_bits = done.in_seven_bits()
    assert in_seven_bits is not None
    parsed = parse(in_seven_bits.message)
    assert in_seven_bits.message.isascii() or done.is_international
    if done.has_eight_bit:  # for relays that take it, the same
        in_eight_bits = parse(done.message)
        for kind in ('plain', 'html'):
            if parsed.get_body((kind,)) is not None:
                assert content_of(in_eight_bits, kind) == content_of(parsed, kind)
    return parsed


def parse(message: bytes) -> EmailMessage:
    """Parse, having checked what every relay insists on."""
    assert b'\n' not in message.replace(b'\r\n', b'')
    assert b'\r' not in message.replace(b'\r\n', b'')
    assert max(map(len, message.split(b'\r\n'))) <= 998
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    assert not parsed.defects
    return parsed


def content_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content.replace('\r\n', '\n')
