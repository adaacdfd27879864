"""From an e-mail's values to the bytes that follow DATA."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Any, NamedTuple

from mail.envelope import (
    MAX_SUBJECT_CHARS,
    Attachment,
    Content,
    Email,
    Envelope,
    InvalidEmailError,
    Recipient,
    ascii_address,
    check_headers,
    parse_recipients,
    refuse_control_characters,
    split_list,
)
from mail.mime import address, attachment_part, body_part, header, multipart


@dataclass(frozen=True, slots=True)
class Sender:
    """The From address of everything this program sends; also its envelope sender."""

    address: str
    name: str | None = None


class Rendered(NamedTuple):
    """What one SMTP transaction needs."""

    envelope: Envelope
    message: bytes  # CRLF line ends, not yet dot-stuffed


def render(email: Email, content: Content, sender: Sender, max_bytes: int) -> Rendered:
    """Render an e-mail, whose template was filled (mail/templates.py), with its attachments.

    The same row renders to the same Message-ID and Date every time, so that a duplicate can be recognised.

    Raises:
        InvalidEmailError: an address, header or size is wrong; the message says which.
    """
    recipients = parse_recipients(email.recipient)
    subject, text, html = _bodies(email)
    try:
        head = _headers(email, sender, recipients, subject)
        body = _body(email, text, html, content.attachments)
    except (ValueError, LookupError) as error:
        # A malformed content type, a header word without end, half a character (a lone surrogate).
        raise error if isinstance(error, InvalidEmailError) else InvalidEmailError(f'message: {error}') from error
    message = head + body
    if len(message) > max_bytes:
        raise InvalidEmailError(f'message: {len(message)} bytes, at most {max_bytes} are allowed (EMAIL_MAX_BYTES)')
    return Rendered(Envelope(sender.address, tuple(to.address for to in recipients)), message)


def _headers(email: Email, sender: Sender, recipients: list[Recipient], subject: str) -> bytes:
    """Return all header fields but those of the content."""
    fields = {
        'From': _from(sender),
        'To': header('To', ', '.join(address(to.name, to.address) for to in recipients)),
        'Subject': header('Subject', subject),
        'Date': _date(email.message_date) if email.message_date else b'',
        'Message-ID': header('Message-ID', email.message_id),
        # RFC 3834: nobody's out-of-office reply should answer a machine.
        'Auto-Submitted': b'Auto-Submitted: auto-generated\r\n',
        'MIME-Version': b'MIME-Version: 1.0\r\n',
    }
    if email.headers is not None:
        extra = _json_object('headers', email.headers)
        check_headers(extra)
        replaced = {name.lower() for name in extra}
        fields = {name: field for name, field in fields.items() if name.lower() not in replaced}
        for name, value in extra.items():
            fields[name] = header(name, _with_addresses(value) if name.lower() in ADDRESS_FIELDS else value)
    return b''.join(fields.values())


@functools.lru_cache(maxsize=16)
def _from(sender: Sender) -> bytes:
    return header('From', address(sender.name or '', sender.address))


@functools.lru_cache(maxsize=16)  # the e-mails of a batch were claimed at one moment
def _date(date: datetime) -> bytes:
    return header('Date', format_datetime(date))


# Extra fields whose value is an address list: only the names in it may be encoded.
ADDRESS_FIELDS = frozenset({'reply-to', 'errors-to', 'disposition-notification-to', 'return-receipt-to'})


def _with_addresses(value: str) -> str:
    return (
        value if value.isascii() else ', '.join(address(name, ascii_address(spec)) for name, spec in split_list(value))
    )


def _body(email: Email, text: str | None, html: str | None, attachments: Sequence[Attachment]) -> bytes:
    """Return the content's header fields, an empty line and the content."""
    bodies = [body_part(body, subtype) for body, subtype in ((text, 'plain'), (html, 'html')) if body is not None]
    if not bodies:
        raise InvalidEmailError('body: there is neither a text nor an HTML body')
    body = bodies[0] if len(bodies) == 1 else multipart('alternative', bodies, email.message_id)
    if not attachments:
        return body
    return multipart('mixed', [body, *(attachment_part(a) for a in attachments)], email.message_id)


def _bodies(email: Email) -> tuple[str, str | None, str | None]:
    """Return subject, text and HTML. A template was filled before, see mail/templates.py."""
    subject, text, html = email.subject or '', email.body_text, email.body_html
    refuse_control_characters('subject', subject)
    if len(subject) > MAX_SUBJECT_CHARS:
        raise InvalidEmailError(f'subject: {len(subject)} characters, at most {MAX_SUBJECT_CHARS} are allowed')
    return subject, text, html


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
        if isinstance(value, str):  # adopted tables hold JSON inside JSON strings
            value = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidEmailError(f'{name}: is not JSON: {error}') from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidEmailError(f'{name}: must be a JSON object, not {type(value).__name__}')
    return value
