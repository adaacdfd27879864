"""A message of Django's as the outbox has it."""

from email.mime.base import MIMEBase
from email.utils import parseaddr
from typing import Any

from django.conf import global_settings, settings
from django.core.mail import EmailMessage, EmailMultiAlternatives

from mail_outbox.envelope import Attachment

# Header fields that have an argument of their own.
BY_NAME = {'sender': 'sender_address', 'message-id': 'message_id', 'reply-to': 'reply_to'}
# Those that the worker makes of other values: only in a message as given can they be otherwise.
MADE = frozenset({
    'to', 'cc', 'bcc', 'subject', 'date', 'mime-version', 'content-type', 'content-disposition',
    'content-transfer-encoding',
})  # fmt: skip
PLAIN_MESSAGES = (EmailMessage.message, EmailMultiAlternatives.message)


def email_values(message: EmailMessage) -> dict[str, Any]:
    """Return what queue_email takes, for a message with at least one recipient.

    What the outbox has no words for (a part of the application's own making, another alternative
    than HTML and a calendar, a header like Date, nobody in To) goes as the message that Django
    makes of it.
    """
    alternatives = _alternatives(message)
    if _is_special(message, alternatives):
        return _as_given(message)
    plain = message.content_subtype == 'plain'
    headers, named = _headers(message)
    values: dict[str, Any] = {
        'recipient': _texts(message.to),
        'cc': _texts(message.cc) or None,
        'bcc': _texts(message.bcc) or None,
        'reply_to': _texts(message.reply_to) or None,
        'from_address': _sender(message),
        'subject': str(message.subject),
        'body_text' if plain else 'body_html': str(message.body),
        'headers': headers or None,
        'attachments': [_attachment(*parts) for parts in message.attachments] or None,
    }
    for mimetype, content in alternatives.items():
        values['body_html' if mimetype == 'text/html' else 'calendar'] = str(content)
    return values | named


def _sender(message: EmailMessage) -> str | None:
    """Return From; None where nobody has chosen one: then it is the workers'."""
    sender = str(message.from_email)
    for name in ('DEFAULT_FROM_EMAIL', 'SERVER_EMAIL'):  # webmaster@localhost, root@localhost
        if sender == getattr(global_settings, name) == getattr(settings, name):
            return None
    return sender


def _texts(addresses: Any) -> list[str]:
    return [str(address) for address in addresses if address]  # lazy texts among them


def _alternatives(message: EmailMessage) -> dict[str, Any]:
    found = getattr(message, 'alternatives', None) or ()
    return {mimetype.partition(';')[0].strip().lower(): content for content, mimetype in found}


def _is_special(message: EmailMessage, alternatives: dict[str, Any]) -> bool:
    return (
        not _texts(message.to)
        or type(message).message not in PLAIN_MESSAGES
        or message.content_subtype not in ('plain', 'html')
        or message.mixed_subtype != 'mixed'
        or (message.encoding or 'utf-8').lower() not in ('utf-8', 'utf8')
        or len(alternatives) < len(getattr(message, 'alternatives', None) or ())
        or not alternatives.keys() <= {'text/html', 'text/calendar'}
        or (message.content_subtype == 'html' and 'text/html' in alternatives)
        or any(isinstance(parts, MIMEBase) for parts in message.attachments)
        or any(name.lower() in MADE for name in message.extra_headers)
    )


def _headers(message: EmailMessage) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the extra fields, and those that have arguments of their own, by these."""
    headers: dict[str, str] = {}
    named: dict[str, Any] = {}
    for name, value in message.extra_headers.items():
        if name.lower() == 'from':  # From is another than who sends, as Django has it
            named |= {'from_address': str(value), 'envelope_from': _address(message.from_email)}
        elif argument := BY_NAME.get(name.lower()):
            named[argument] = str(value)
        else:
            headers[name] = str(value)
    return headers, named


def _address(mailbox: Any) -> str:
    return parseaddr(str(mailbox))[1]


def _attachment(filename: str | None, content: Any, mimetype: str | None) -> Attachment:
    if isinstance(content, EmailMessage):
        content = content.message()
    if hasattr(content, 'as_bytes'):
        content = content.as_bytes()
    if isinstance(content, str):
        content = content.encode()
        if mimetype and mimetype.startswith('text/') and 'charset' not in mimetype:
            mimetype = f'{mimetype}; charset=utf-8'
    return Attachment(filename or None, mimetype, bytes(content))


def _as_given(message: EmailMessage) -> dict[str, Any]:
    """Return a message as Django makes it, and whom it goes to."""
    return {
        'recipient': _texts(message.recipients()),
        'envelope_from': _address(message.from_email) if _sender(message) else None,
        'raw': message.message().as_bytes(linesep='\r\n'),
    }
