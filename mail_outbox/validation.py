"""What an application may give for an e-mail, and the checks before its row is inserted."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypedDict, get_args

from mail_outbox.address_fields import EXTRA_ADDRESSES
from mail_outbox.attachment_parts import check_attachments
from mail_outbox.digest import content_digest
from mail_outbox.envelope import (
    BY_LIFE,
    MAX_MESSAGE_BYTES,
    NO_EXTRAS,
    Attachment,
    Email,
    InvalidEmailError,
)
from mail_outbox.field_checks import (
    check_identifier,
    check_metadata,
    check_tags,
    check_text,
    check_times,
    check_word,
    json_text,
)
from mail_outbox.headers import given_message_id
from mail_outbox.raw_message import HEAD_BYTE_BYTES, check_raw, own_senders
from mail_outbox.render import check
from mail_outbox.senders import WantedSender

# More than this is checked in a thread: it takes longer than a caller's event loop should stand
# still.
LARGE_BODY_CHARS = 256 * 1024
LARGE_FIELD_CHARS = 4096  # addresses and headers are read, not only copied
Priority = Literal['high', 'normal', 'low']
PRIORITIES = {word: number for number, word in enumerate(get_args(Priority))}
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
    template_id: Any  # an email_templates id; its parts replace subject and bodies
    template_data: Mapping[str, Any] | None
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
    user_id: Any
    organization_id: Any
    tags: Mapping[str, str] | None  # words to find e-mails by; they are not sent
    metadata: Mapping[str, Any] | None  # JSON that is kept with the e-mail, and not sent
    # The same key in the same organisation returns the first e-mail's id, as long as its row is
    # there; with other content it is refused.
    idempotency_key: str | None


NAMES = frozenset(EmailValues.__annotations__)
# What is not to change under one idempotency key. Attachments in MongoDB get another content_id
# each time they are stored, as an e-mail may get another Message-ID each time it is made.
NO_CONTENT = {'content_id', 'message_id', 'max_bytes'}
CONTENT = tuple(sorted(EmailContent.__annotations__.keys() - NO_CONTENT))
# None where it is not given. What else is stored is changed or has another default.
STORED_AS_GIVEN = (
    'recipient', 'subject', 'body_text', 'body_html', 'email_type', 'template_id', 'content_id',
    'send_at', 'expires_at', 'user_id', 'organization_id', 'idempotency_key',
    'from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc', 'calendar',
)  # fmt: skip
# What a message as given has in itself.
NOT_WITH_RAW = (
    'subject', 'body_text', 'body_html', 'template_id', 'template_data', 'headers', 'message_id',
    'calendar', 'attachments', 'content_id', 'from_address', 'sender_address', 'reply_to',
    'one_copy_each',
)  # fmt: skip
# An address, or a list of them.
ADDRESS_LISTS = ('recipient', 'cc', 'bcc', 'reply_to')


async def checked_row(email: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same as checked_row_sync; what takes its time is checked in a thread."""
    bodies = map(email.get, ('body_text', 'body_html', 'calendar'))
    body_chars = sum(len(body) for body in bodies if isinstance(body, str))
    if isinstance(raw := email.get('raw'), bytes):
        body_chars += HEAD_BYTE_BYTES * len(raw)
    email = _with_lists_joined(email)
    fields = [email.get(name) for name in ADDRESS_LISTS]
    headers = email.get('headers')
    if isinstance(headers, Mapping):
        fields += headers.values()
    elif isinstance(headers, list | tuple):
        fields += [text for pair in headers if isinstance(pair, list | tuple) for text in pair]
    files = email.get('attachments')
    for file in files if isinstance(files, list | tuple) else ():
        if isinstance(file, Attachment):
            fields += (file.filename, file.content_type)
    field_chars = sum(len(field) for field in fields if isinstance(field, str))
    if body_chars > LARGE_BODY_CHARS or field_chars > LARGE_FIELD_CHARS:
        import asyncio  # noqa: PLC0415 - who awaits this has loaded it; others need not

        return await asyncio.to_thread(_row, email)
    return _row(email)


def checked_row_sync(email: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the statement QUEUE by name; also `senders` and `attachments`.

    Args:
        email: See EmailValues.
    Raises:
        InvalidEmailError: a value can never be sent; the message names it.
        TypeError: the recipient is missing, or an argument is unknown.
    """
    return _row(_with_lists_joined(email))


def _row(email: Mapping[str, Any]) -> dict[str, Any]:
    _check_names(email)
    get = email.get
    priority, max_attempts = get('priority', 'normal'), get('max_attempts')
    content = _check_content(email, priority)
    _check_delivery(email, priority, max_attempts)
    attachments = _attachments(get('attachments'), get('max_bytes', MAX_MESSAGE_BYTES))
    plain = {name: get(name) for name in STORED_AS_GIVEN}
    return plain | {
        'recipient': content.recipient,
        'raw_message': content.raw_message,
        'template_data': json_text('template_data', get('template_data')),
        'headers': json_text('headers', get('headers')),
        'tags': json_text('tags', get('tags')),
        'metadata': json_text('metadata', get('metadata')),
        'message_id': content.message_id or None,
        'one_copy_each': content.extras.one_copy_each or None,
        'priority': PRIORITIES[priority],
        'max_attempts': BY_LIFE if max_attempts is None else max_attempts,
        'expiry_hours': get('expiry_hours', EXPIRY_HOURS),
        'attachments': attachments,
        'has_attachments': True if attachments else None,
        'content_digest': _digest(email),
        'senders': _wanted_senders(content, get('organization_id')),
    }


def _check_names(email: Mapping[str, Any]) -> None:
    if not NAMES.issuperset(email):
        raise TypeError(f'got an unexpected keyword argument {min(email.keys() - NAMES)!r}')
    if 'recipient' not in email and email.get('raw') is None:
        raise TypeError("missing 1 required keyword-only argument: 'recipient'")


def _check_delivery(email: Mapping[str, Any], priority: Any, max_attempts: Any) -> None:
    """Refuse what is wrong beside the content: when, how often, and what it is found by."""
    get = email.get
    if priority not in PRIORITIES:
        raise InvalidEmailError(f'priority: {priority!r} is none of {", ".join(PRIORITIES)}')
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 100):
        raise InvalidEmailError(f'max_attempts: {max_attempts!r} is not a number between 1 and 100')
    check_times(get('send_at'), get('expires_at'), get('expiry_hours', EXPIRY_HOURS))
    for name in ('email_type', 'idempotency_key', 'content_id'):
        check_word(name, get(name))
    for name in ('user_id', 'organization_id', 'template_id'):
        check_identifier(name, get(name))
    check_tags(get('tags'))
    check_metadata(get('metadata'))


def _digest(email: Mapping[str, Any]) -> bytes | None:
    return None if email.get('idempotency_key') is None else content_digest(email, CONTENT)


def _with_lists_joined(email: Mapping[str, Any]) -> Mapping[str, Any]:
    lists = {
        name: email[name] for name in ADDRESS_LISTS if isinstance(email.get(name), list | tuple)
    }
    if not lists:
        return email
    for name, addresses in lists.items():
        for address in addresses:
            if not isinstance(address, str):
                raise InvalidEmailError(f'{name}: has a {type(address).__name__}, must be text')
    return {**email, **{name: ', '.join(addresses) for name, addresses in lists.items()}}


def _attachments(given: Any, max_bytes: int) -> tuple[Attachment, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise InvalidEmailError(f'attachments: must be a list, not {type(given).__name__}')
    check_attachments(given, max_bytes)
    return tuple(given)


def _wanted_senders(content: Email, organization_id: Any) -> tuple[WantedSender, ...]:
    if content.extras is NO_EXTRAS and content.raw_message is None:  # nearly always
        return ()
    organization = None if organization_id is None else str(organization_id)
    return tuple(
        WantedSender(field, address, organization) for field, address in own_senders(content)
    )


def _check_content(values: Mapping[str, Any], priority: Any) -> Email:
    """Return what it says, as far as it is stored as it is checked."""
    get = values.get
    subject, template_id = get('subject'), get('template_id')
    texts = (subject, get('body_text'), get('body_html'))
    given: dict[str, Any] = {name: get(name) for name in EXTRA_ADDRESSES if get(name) is not None}
    for name, text in given.items():
        if not isinstance(text, str):
            raise InvalidEmailError(f'{name}: must be text, not {type(text).__name__}')
    if one_copy_each := get('one_copy_each'):
        given['one_copy_each'] = bool(one_copy_each)
    email = Email(
        0,
        get('recipient', ''),
        *texts,
        template_id=template_id,
        message_id=_message_id(get('message_id')),
        extras=NO_EXTRAS._replace(**given) if given else NO_EXTRAS,
        calendar=get('calendar'),
    )
    _check_types(email, priority, get('headers'))
    max_bytes = get('max_bytes', MAX_MESSAGE_BYTES)
    if (raw := get('raw')) is not None:
        for name in NOT_WITH_RAW:
            if get(name) not in (None, False, [], ()):
                raise InvalidEmailError(f'{name}: cannot be given with raw, which is all of it')
        return check_raw(email, raw, max_bytes)
    if subject is None and template_id is None:
        raise InvalidEmailError('subject: give subject or template_id')
    check(email, get('headers'), max_bytes)
    return email


def _message_id(given: Any) -> str:
    if given is None:
        return ''
    check_word('message_id', given)
    return given_message_id(given)


def _check_types(email: Email, priority: Any, headers: Any) -> None:
    bodies = {
        'subject': email.subject or '',
        'body_text': email.body_text or '',
        'body_html': email.body_html or '',
        'calendar': email.calendar or '',
    }
    for name, text in ({'recipient': email.recipient, 'priority': priority} | bodies).items():
        if not isinstance(text, str):
            raise InvalidEmailError(f'{name}: must be text, not {type(text).__name__}')
    if headers is not None and not isinstance(headers, Mapping | list | tuple):
        raise InvalidEmailError(
            f'headers: must be a mapping, or pairs, not {type(headers).__name__}'
        )
    for name, text in bodies.items():
        check_text(name, text)
