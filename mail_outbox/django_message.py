"""A message of Django's as the outbox has it."""

from email.message import Message
from email.utils import parseaddr
from typing import Any

from django.conf import global_settings, settings
from django.core.mail import EmailMessage, EmailMultiAlternatives

from mail_outbox.envelope import Attachment, InvalidEmailError

# Header fields that have an argument of their own.
BY_NAME = {'sender': 'sender_address', 'message-id': 'message_id', 'reply-to': 'reply_to'}
# Those that the worker makes of other values: only in a message as given can they be otherwise.
MADE = frozenset({
    'to', 'cc', 'bcc', 'subject', 'date', 'mime-version', 'content-type', 'content-disposition',
    'content-transfer-encoding',
})  # fmt: skip
PLAIN_MESSAGES = (EmailMessage.message, EmailMultiAlternatives.message)
UTF8 = ('utf-8', 'utf8')
# Of a part that the application makes itself: what an Attachment says as well.
SAID_BY_ATTACHMENTS = frozenset({
    'content-type', 'content-transfer-encoding', 'content-disposition', 'content-id',
    'mime-version', 'x-attachment-id',
})  # fmt: skip


def email_values(message: EmailMessage) -> dict[str, Any]:
    """Return what queue_email takes, for a message with at least one recipient.

    What the outbox has no words for (a part in parts, another alternative than HTML and a calendar,
    a header like Date, nobody in To) goes as the message that Django makes of it.

    Raises:
        InvalidEmailError: it has to go so, and does not say who it is from.
    """
    alternatives = _alternatives(message)
    if peculiarity := _peculiarity(message, alternatives):
        return _as_given(message, peculiarity)
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
        'attachments': [_attachment(given) for given in message.attachments] or None,
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


def _peculiarity(message: EmailMessage, alternatives: dict[str, Any]) -> str | None:
    """Return what the outbox has no words for, if there is something."""
    has_html = 'text/html' in alternatives
    parts = [given for given in message.attachments if isinstance(given, Message)]
    # As it was in Django before 6.0: 'related' says what the outbox makes of images for the HTML.
    together = getattr(message, 'mixed_subtype', 'mixed')
    are_inline = has_html and len(parts) == len(message.attachments) and all(map(_cid, parts))
    made = next((name for name in message.extra_headers if name.lower() in MADE), None)
    others = alternatives.keys() - {'text/html', 'text/calendar'}
    twice = len(alternatives) < len(getattr(message, 'alternatives', None) or ())
    return next(
        (
            what
            for what, is_so in (
                ('has nobody in To', not _texts(message.to)),
                ('is made by a class of its own', type(message).message not in PLAIN_MESSAGES),
                ('has a body of its own type', message.content_subtype not in ('plain', 'html')),
                ('is put together otherwise', together != 'mixed' and not are_inline),
                ('has another charset', (message.encoding or 'utf-8').lower() not in UTF8),
                ('has one alternative twice', twice),
                (f'has the alternative {next(iter(others), "")}', bool(others)),
                ('has HTML twice', message.content_subtype == 'html' and has_html),
                ('has a part of its own making', not all(map(_is_file, parts))),
                (f'has the header {made}', made is not None),
            )
            if is_so
        ),
        None,
    )


def _is_file(part: Message) -> bool:
    """Tell whether an attachment that the application has made says all that is in a part."""
    return (
        part.get_content_maintype() not in ('multipart', 'message')
        and {name.lower() for name in part} <= SAID_BY_ATTACHMENTS
    )


def _cid(part: Message) -> str | None:
    found = part.get('Content-ID')
    return None if found is None else str(found).strip()


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


def _attachment(given: Any) -> Attachment:
    if isinstance(given, Message):
        return _attachment_of(given)
    filename, content, mimetype = given
    if isinstance(content, EmailMessage):
        content = content.message()
    if hasattr(content, 'as_bytes'):
        content = content.as_bytes()
    if isinstance(content, str):
        content = content.encode()
        if mimetype and mimetype.startswith('text/') and 'charset' not in mimetype:
            mimetype = f'{mimetype}; charset=utf-8'
    return Attachment(filename or None, mimetype, bytes(content))


def _attachment_of(part: Message) -> Attachment:
    charset = part.get_content_charset()
    mimetype = part.get_content_type() + (f'; charset={charset}' if charset else '')
    data = part.get_payload(decode=True)
    return Attachment(
        part.get_filename(), mimetype, data if isinstance(data, bytes) else b'', _cid(part)
    )


def _as_given(message: EmailMessage, peculiarity: str) -> dict[str, Any]:
    """Return a message as Django makes it, and whom it goes to."""
    if _sender(message) is None and 'From' not in message.extra_headers:
        raise InvalidEmailError(
            f'from_email: is missing. This message {peculiarity}, so it goes as Django makes it,'
            f' and {message.from_email} is nobody: give from_email, or set DEFAULT_FROM_EMAIL'
        )
    return {
        'recipient': _texts(message.recipients()),
        'envelope_from': _address(message.from_email) if _sender(message) else None,
        'raw': message.message().as_bytes(),
    }
