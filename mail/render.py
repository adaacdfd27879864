"""From an e-mail's values to the bytes that follow DATA."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from mail.envelope import (
    MAX_SUBJECT_CHARS,
    Attachment,
    Content,
    Email,
    Envelope,
    InvalidEmailError,
    check_headers,
    parse_recipients,
    refuse_control_characters,
)

# Seven-bit bodies pass every relay, also one without 8BITMIME.
POLICY = SMTP.clone(cte_type='7bit')


@dataclass(frozen=True, slots=True)
class Sender:
    """The From address of everything this program sends; also its envelope sender."""

    address: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one SMTP transaction needs."""

    envelope: Envelope
    message: bytes  # CRLF line ends, not yet dot-stuffed


def render(email: Email, content: Content, sender: Sender, max_bytes: int) -> Rendered:
    """Render an e-mail with its template and attachments.

    The same row renders to the same Message-ID and Date every time, so that a duplicate can be recognised.

    Raises:
        InvalidEmailError: an address, header, template or size is wrong; the message says which.
    """
    recipients = parse_recipients(email.recipient)
    subject, text, html = _bodies(email, content)
    message = EmailMessage(policy=POLICY)
    try:
        _set_headers(message, email, sender, recipients, subject)
        _set_bodies(message, text, html)
        for attachment in content.attachments:
            _attach(message, attachment)
        as_bytes = message.as_bytes()
    except (ValueError, LookupError, UnicodeError) as error:
        # The email package's own objections: a malformed content type, a lone surrogate, an unknown charset.
        raise (error if isinstance(error, InvalidEmailError) else InvalidEmailError(f'message: {error}')) from error
    if len(as_bytes) > max_bytes:
        raise InvalidEmailError(f'message: {len(as_bytes)} bytes, at most {max_bytes} are allowed (EMAIL_MAX_BYTES)')
    return Rendered(Envelope(sender.address, tuple(address.addr_spec for address in recipients)), as_bytes)


def _set_headers(message: EmailMessage, email: Email, sender: Sender, recipients: list[Address], subject: str) -> None:
    message['From'] = Address(display_name=sender.name or '', addr_spec=sender.address)
    message['To'] = recipients
    message['Subject'] = subject
    if email.message_date is not None:
        message['Date'] = email.message_date
    message['Message-ID'] = email.message_id
    extra = _json_object('headers', email.headers)
    check_headers(extra)
    # RFC 3834: nobody's out-of-office reply should answer a machine.
    message['Auto-Submitted'] = extra.pop('Auto-Submitted', 'auto-generated')
    for name, value in extra.items():
        message[name] = value


def _set_bodies(message: EmailMessage, text: str | None, html: str | None) -> None:
    if text is None and html is None:
        raise InvalidEmailError('body: there is neither a text nor an HTML body')
    if text is not None:
        message.set_content(text)
    if html is not None:
        if text is None:
            message.set_content(html, subtype='html')
        else:
            message.add_alternative(html, subtype='html')


def _attach(message: EmailMessage, attachment: Attachment) -> None:
    maintype, slash, subtype = attachment.content_type.partition('/')
    if not (slash and maintype and subtype):
        raise InvalidEmailError(f'attachment {attachment.filename!r}: {attachment.content_type!r} is no content type')
    if maintype in ('multipart', 'message'):
        maintype, subtype = 'application', 'octet-stream'  # opaque to us, so sent as such
    refuse_control_characters(f'attachment {attachment.filename!r}', attachment.filename + (attachment.cid or ''))
    message.add_attachment(
        attachment.data,
        maintype=maintype,
        subtype=subtype,
        filename=attachment.filename,
        cid=f'<{attachment.cid}>' if attachment.cid else None,
    )


def _bodies(email: Email, content: Content) -> tuple[str, str | None, str | None]:
    """Return subject, text and HTML: the template's where it has them, the row's own otherwise."""
    subject, text, html = email.subject or '', email.body_text, email.body_html
    template = content.template
    if template is not None:
        data = _json_object('template_data', email.template_data)
        if template.subject is not None:
            subject = ' '.join(_fill('subject', template.subject, data).split())
        text = text if template.body_text is None else _fill('body_text', template.body_text, data)
        html = html if template.body_html is None else _fill('body_html', template.body_html, data)
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


# Sandboxed: whoever may edit a template must not be able to run code in the worker. Strict: a missing variable is an
# error that names it, never a blank in somebody's receipt.
_TEXT = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
_HTML = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=True)


@functools.lru_cache(maxsize=512)
def _compiled(part: str, source: str) -> jinja2.Template:
    return (_HTML if part == 'body_html' else _TEXT).from_string(source)


def _fill(part: str, source: str, data: Mapping[str, Any]) -> str:
    try:
        return _compiled(part, source).render(data)
    except Exception as error:
        # A template is a program: it can raise anything (ZeroDivisionError, OverflowError, its own filters' errors).
        raise InvalidEmailError(f'template {part}: {type(error).__name__}: {error}') from error
