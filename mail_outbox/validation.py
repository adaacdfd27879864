"""What an application may give for an e-mail, and the checks before its row is inserted."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Required, TypedDict

from mail_outbox import field_checks
from mail_outbox.address_fields import EXTRA_ADDRESSES
from mail_outbox.digest import content_digest
from mail_outbox.envelope import (
    BY_LIFE,
    MAX_MESSAGE_BYTES,
    NO_EXTRAS,
    Attachment,
    Email,
    InvalidEmailError,
)
from mail_outbox.field_checks import PRIORITIES, Priority, checked_address_list, json_text
from mail_outbox.locales import checked_locale
from mail_outbox.raw_message import HEAD_BYTE_BYTES, check_raw, own_senders
from mail_outbox.render import check
from mail_outbox.senders import WantedSender
from mail_outbox.traces import current_traceparent

if TYPE_CHECKING:
    from uuid import UUID

    Identifier = int | str | UUID
else:
    Identifier = Any  # uuid takes its time, and PostgreSQL knows what its columns take

EXPIRY_HOURS = 24


AddressList = str | Sequence[str]
HeaderFields = Mapping[str, str] | Sequence[tuple[str, str]]


class EmailAddresses(TypedDict, total=False):
    """Who an e-mail is from and to."""

    # One address, several separated by commas, or a list of such; names are allowed.
    recipient: Required[AddressList]
    cc: AddressList | None
    bcc: AddressList | None  # gets the e-mail, and stands in no header
    reply_to: AddressList | None
    # From, with or without a name, see `python -m ops sender`; by default the workers'
    # SMTP_FROM_EMAIL. MAIL FROM is envelope_from, else the sender's address, else that of From.
    from_address: str | None
    sender_address: str | None  # Sender, where another one sends than wrote it
    envelope_from: str | None  # where bounces go; '<>' for nowhere
    one_copy_each: bool | None  # each recipient gets a message of his own, and sees no other


class EmailContent(EmailAddresses, total=False):
    """What an e-mail says."""

    subject: str | None
    body_text: str | None
    body_html: str | None
    template_id: Identifier | None  # an email_templates id; its parts replace subject and bodies
    template: str | None  # the same by its name
    template_data: Mapping[str, Any] | None
    locale: str | None  # a language tag such as de-AT: which of the template's texts
    template_version: int | None  # of a pushed template; by default the newest when it is sent
    # Extra fields such as List-Unsubscribe; as pairs where one stands more than once.
    headers: HeaderFields | None
    # Of the caller's, '<something@domain>'; else the worker makes one.
    message_id: str | None
    calendar: str | None  # an invite: iCalendar with its METHOD, shown beside the body
    # MIME as given, instead of all that is content; recipient may be '': those of its own fields.
    raw: bytes | None
    # Files that are stored in PostgreSQL in the same transaction.
    attachments: Sequence[Attachment] | None
    content_id: str | None  # files in MongoDB, from store_attachments
    # The most that workers send as one message: their EMAIL_MAX_BYTES, if that was changed.
    max_bytes: int


class EmailValues(EmailContent, total=False):
    """One e-mail, by the names of queue_email's arguments; all but recipient have a default."""

    email_type: str | None  # a word of the application's, such as 'password-reset'
    priority: Priority  # 'normal' by default
    # How many attempts that count are made; by default EMAIL_MAX_ATTEMPTS of the workers, or as
    # many as fit before expires_at where that is not set.
    max_attempts: int | None
    send_at: datetime | None  # not before this time (aware); now by default
    expires_at: datetime | None  # not after it (aware); send_at plus expiry_hours by default
    expiry_hours: float  # EXPIRY_HOURS by default
    user_id: Identifier | None
    organization_id: Identifier | None
    tags: Mapping[str, str] | None  # words to find e-mails by; they are not sent
    metadata: Mapping[str, Any] | None  # JSON that is kept with the e-mail, and not sent
    # The same key in the same organisation returns the first e-mail's id, as long as its row is
    # there; with other content it is refused.
    idempotency_key: str | None
    # Whether it is refused where one of its recipients gets no mail, or none of its type: raises
    # SuppressedRecipientsError. Without it the row says so once it is to be sent.
    refuse_suppressed: bool | None


NAMES = frozenset(EmailValues.__annotations__)
# What is not to change under one idempotency key. Attachments in MongoDB get another content_id
# each time they are stored, as an e-mail may get another Message-ID each time it is made.
NO_CONTENT = {'content_id', 'message_id', 'max_bytes'}
CONTENT = tuple(sorted(EmailContent.__annotations__.keys() - NO_CONTENT))
# What a message as given has in itself.
NOT_WITH_RAW = (
    'subject', 'body_text', 'body_html', 'template_id', 'template', 'template_data', 'locale',
    'template_version', 'headers', 'message_id', 'calendar', 'attachments', 'content_id',
    'from_address', 'sender_address', 'reply_to', 'one_copy_each',
)  # fmt: skip
# An address, or a list of them.
ADDRESS_LISTS = ('recipient', 'cc', 'bcc', 'reply_to')
EXTRAS = (*EXTRA_ADDRESSES, 'one_copy_each')


def _each(checked: Callable[[str, Any], Any], *names: str) -> dict[str, Callable[[str, Any], Any]]:
    return dict.fromkeys(names, checked)


# How each value is checked by itself; what that returns is stored, mostly.
CHECKED_BY: Mapping[str, Callable[[str, Any], Any]] = {
    **_each(field_checks.checked_address_list, *ADDRESS_LISTS),
    **_each(field_checks.checked_address, 'from_address', 'sender_address', 'envelope_from'),
    **_each(field_checks.checked_text, 'subject', 'body_text', 'body_html', 'calendar'),
    **_each(field_checks.checked_id, 'template_id', 'user_id', 'organization_id'),
    **_each(field_checks.checked_word, 'email_type', 'idempotency_key', 'content_id', 'template'),
    **_each(field_checks.checked_flag, 'one_copy_each', 'refuse_suppressed'),
    **_each(field_checks.checked_object, 'template_data', 'metadata'),
    **_each(field_checks.checked_moment, 'send_at', 'expires_at'),
    'message_id': field_checks.checked_message_id,
    'locale': checked_locale,
    'template_version': field_checks.checked_version,
    'headers': field_checks.checked_headers,
    'tags': field_checks.checked_tags,
    'raw': field_checks.checked_bytes,
    'attachments': field_checks.checked_files,
    'priority': field_checks.checked_priority,
    'max_attempts': field_checks.checked_attempts,
    'expiry_hours': field_checks.checked_hours,
    'max_bytes': field_checks.checked_size,
}
# The values of the statement QUEUE, and some that are not stored, as they are when none is given.
NOT_GIVEN: Mapping[str, Any] = MappingProxyType({
    **dict.fromkeys(CHECKED_BY),
    **dict.fromkeys(('raw_message', 'has_attachments', 'content_digest', 'queued_by')),
    'traceparent': None,
    'priority': PRIORITIES['normal'],
    'max_attempts': BY_LIFE,
    'expiry_hours': EXPIRY_HOURS,
    'max_bytes': MAX_MESSAGE_BYTES,
    'attachments': (),
    'senders': (),
})  # fmt: skip
# More characters are checked in a thread: it takes longer than a caller's event loop should stand
# still.
LARGE_CHARS = 256 * 1024
# Addresses and headers are read, not only copied: as if they had so many times their characters.
CHARS_OF = {
    **dict.fromkeys(('body_text', 'body_html', 'calendar'), 1),
    'raw': HEAD_BYTE_BYTES,
    **dict.fromkeys((*ADDRESS_LISTS, 'headers', 'attachments'), 64),
}


async def checked_row(email: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same as checked_row_sync; what takes its time is checked in a thread."""
    chars = 0
    for name in CHARS_OF.keys() & email:
        chars += CHARS_OF[name] * _length(email[name])
    if chars > LARGE_CHARS:
        import asyncio  # noqa: PLC0415 - who awaits this has loaded it; others need not

        return await asyncio.to_thread(checked_row_sync, email)
    return checked_row_sync(email)


def _length(value: Any, depth: int = 2) -> int:
    """Return how many characters a text has, or those in a list, in pairs, in a mapping."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Attachment):  # its name and type are read, its data is not
        value = value.filename, value.content_type
    parts = value.items() if isinstance(value, Mapping) else value
    if not depth or not isinstance(value, Mapping | list | tuple):
        return 0
    return sum(_length(part, depth - 1) for part in parts)


def checked_row_sync(email: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the statement QUEUE by name; also `senders` and `attachments`.

    Args:
        email: See EmailValues; None counts as not given.
    Raises:
        InvalidEmailError: a value can never be sent; the message names it.
        TypeError: the recipient is missing, or an argument is unknown.
    """
    row = dict(NOT_GIVEN, traceparent=current_traceparent())
    for name, value in email.items():
        if (checked := CHECKED_BY.get(name)) is None:
            raise TypeError(f'got an unexpected keyword argument {name!r}')
        if value is not None:
            row[name] = checked(name, value)
    if row['recipient'] is None and row['raw'] is None:
        if 'recipient' in email:
            raise InvalidEmailError('recipient: must be text, not None')
        raise TypeError("missing 1 required keyword-only argument: 'recipient'")
    if row['expires_at'] is not None:
        _check_life(row['send_at'], row['expires_at'])
    _check_content(row, email)
    if row['attachments']:
        from mail_outbox.attachment_parts import check_attachments  # noqa: PLC0415 - few have any

        check_attachments(row['attachments'], row['max_bytes'])
        row['has_attachments'] = True
    if row['headers'] is not None:
        row['headers'] = json_text('headers', row['headers'])
    if row['idempotency_key'] is not None:
        row['content_digest'] = _digest(email)
    return row


def _check_life(send_at: datetime | None, expires_at: datetime) -> None:
    if expires_at <= (send_at or datetime.now(UTC)):
        raise InvalidEmailError('expires_at: is over before the e-mail could be sent')


def _check_content(row: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what content and addresses together cannot be; put into the row what they come to."""
    extras = {name: row[name] for name in EXTRAS if row[name] is not None}
    email = Email(
        0,
        row['recipient'] or '',
        row['subject'],
        row['body_text'],
        row['body_html'],
        template_id=row['template'] if row['template_id'] is None else row['template_id'],
        message_id=row['message_id'] or '',
        extras=NO_EXTRAS._replace(**extras) if extras else NO_EXTRAS,
        calendar=row['calendar'],
    )
    if row['raw'] is not None:
        for name in NOT_WITH_RAW:
            if given.get(name) not in (None, False, [], ()):
                raise InvalidEmailError(f'{name}: cannot be given with raw, which is all of it')
        email = check_raw(email, row['raw'], row['max_bytes'])
        row['recipient'], row['raw_message'] = email.recipient, email.raw_message
        row['subject'], row['message_id'] = email.subject, email.message_id or None
    elif row['template'] is not None and row['template_id'] is not None:
        raise InvalidEmailError('template: give template or template_id, not both')
    elif row['subject'] is None and email.template_id is None:
        raise InvalidEmailError('subject: give subject or template_id')
    else:
        check(email, row['headers'], row['max_bytes'])
    if extras or row['raw'] is not None:
        row['senders'] = _wanted_senders(email, row['organization_id'])


def _wanted_senders(email: Email, organization_id: Any) -> tuple[WantedSender, ...]:
    organization = None if organization_id is None else str(organization_id)
    return tuple(
        WantedSender(field, address, organization) for field, address in own_senders(email)
    )


def _digest(email: Mapping[str, Any]) -> bytes:
    lists = {
        name: checked_address_list(name, email[name])
        for name in ADDRESS_LISTS
        if email.get(name) is not None
    }
    return content_digest({**email, **lists}, CONTENT)
