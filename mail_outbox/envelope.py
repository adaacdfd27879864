"""What an e-mail is before it becomes bytes: its values, and its addresses, which are checked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

PUBLIC_SUFFIX = '.example.com'
# Nearly every address; email-validator takes 0.1 ms to say the same.
PLAIN_ADDRESS = re.compile(
    r"(?=.{1,64}@.{1,190}$)[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@"
    r'([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}',
    re.ASCII | re.IGNORECASE,
)
LINE_ENDS = re.compile('[\r\n\0]')
LONE_SURROGATE = re.compile('[\ud800-\udfff]')
MAX_RECIPIENTS = 100  # RFC 5321, 4.5.3.1.8: the number every relay must take
MAX_REPEATED = 1000  # addresses in a list, when the same come again and again
MAX_RECIPIENT_CHARS = MAX_RECIPIENTS * 320  # and names
MAX_ADDRESS_CHARS = 1000  # as it is written; what it comes to is at most 254 (RFC 5321, 4.5.3.1.3)
# max_attempts of a row that has no number of its own: the settings of the worker that sends it
# decide, and without one there either, the time the e-mail has. The largest smallint: adopted
# tables may have a column of that type.
BY_LIFE = 32767
MAX_MESSAGE_BYTES = 25 * 1024 * 1024  # a whole message, encoded; EMAIL_MAX_BYTES says otherwise
MAX_SUBJECT_CHARS = 988  # RFC 5322, 2.1.1: a line of 998 less the header's name


class InvalidEmailError(ValueError):
    """The e-mail can never be sent as it is; the message says which part is wrong."""


class IdempotencyConflictError(ValueError):
    """An e-mail with this idempotency key was queued before, and said something else.

    Attributes:
        email_id: The id of that e-mail.
    """

    def __init__(self, key: str, email_id: int) -> None:
        super().__init__(
            f'idempotency_key: {key!r} was given to e-mail {email_id}, which says something else:'
            ' give each e-mail a key of its own'
        )
        self.email_id = email_id


class ContentUnavailableError(Exception):
    """What holds the content does not answer: nothing is wrong with the e-mail."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with an e-mail."""

    filename: str | None  # None: it has none
    # 'application/pdf', 'text/csv; charset=utf-8'; None: by the ending of the file's name.
    content_type: str | None
    data: bytes
    cid: str | None = None  # Content-ID for HTML to refer to, with or without angle brackets


@dataclass(frozen=True, slots=True)
class Template:
    """A stored template: Jinja2 source for each part it has, or all of what was pushed."""

    subject: str | None
    body_text: str | None
    body_html: str | None
    pushed: str | None = None  # JSON, see mail/template/pushed.py; then the parts above are None


class Extras(NamedTuple):
    """What few e-mails have: addresses beside recipient, and what is fetched from elsewhere.

    The addresses are as the columns have them, unchecked; an empty one is none.
    """

    from_address: str | None = None  # with or without a name; None: the installation's
    sender_address: str | None = None  # Sender (RFC 5322, 3.6.2)
    envelope_from: str | None = None  # MAIL FROM; '<>' for none
    reply_to: str | None = None
    cc: str | None = None
    bcc: str | None = None
    one_copy_each: bool = False  # each recipient gets a message of his own
    has_attachments: bool = False  # in PostgreSQL
    organization_id: str | None = None
    locale: str | None = None  # a language tag, for the template
    template_version: int | None = None  # None: the newest when it is sent
    traceparent: str | None = None  # of the span it was queued in, unchecked


NO_EXTRAS = Extras()


class Email(NamedTuple):
    """One outbox row's content, as it is to be rendered."""

    id: int
    recipient: str  # one address or several, comma separated (RFC 5322 address list)
    subject: str | None = None
    body_text: str | None = None
    body_html: str | None = None
    email_type: str | None = None
    template_id: str | None = None
    template_data: str | None = None  # JSON object, not yet parsed
    headers: str | None = None  # JSON, an object or pairs: extra header fields, not yet parsed
    content_id: str | None = None
    message_id: str = ''
    message_date: datetime | None = None
    extras: Extras = NO_EXTRAS
    calendar: str | None = None  # iCalendar, with its METHOD
    raw_message: bytes | None = None  # MIME as given, instead of all content above


class Envelope(NamedTuple):
    """MAIL FROM and RCPT TO, which is not what the headers say."""

    sender: str
    recipients: tuple[str, ...]


class Content(NamedTuple):
    """What is fetched from elsewhere for one e-mail."""

    template: Template | None = None
    attachments: Sequence[Attachment] = ()


class Recipient(NamedTuple):
    """One address out of a recipient field, checked."""

    name: str
    # RFC 5321, 4.1.2: local part, quoted where it has to be, and domain in its ASCII form. The
    # local part may be beyond ASCII (RFC 6531): then only some relays take it.
    address: str


def parse_recipients(recipient: str) -> list[Recipient]:
    """Read a recipient field: one address or several, with or without names.

    Returns:
        The addresses, normalised: international domains in their ASCII form, duplicates dropped.
    Raises:
        InvalidEmailError: names the part that is no address.
    """
    if len(recipient) <= MAX_ADDRESS_CHARS and PLAIN_ADDRESS.fullmatch(recipient):  # nearly always
        return [Recipient('', recipient)]
    return parse_addresses('recipient', recipient)


def parse_addresses(
    field: str, text: str, *, may_be_empty: bool = False, ascii_only: bool = False
) -> list[Recipient]:
    """Read the address list of a field, in a time that grows with its length and no faster.

    Args:
        field: What an error names.
        may_be_empty: Whether a group without members will do (RFC 5322, 3.4).
        ascii_only: Whether local parts beyond ASCII are refused.
    Raises:
        InvalidEmailError: names the part that is no address.
    """
    if len(text) > MAX_RECIPIENT_CHARS:
        raise InvalidEmailError(
            f'{field}: {len(text)} characters, at most {MAX_RECIPIENT_CHARS} are allowed'
        )
    refuse_control_characters(field, text)
    found: dict[str, Recipient] = {}
    seen = set()  # as they are written: checking one takes longer than reading it
    for place, (name, address) in enumerate(_split_list(field, text)):
        if place == MAX_REPEATED:
            raise InvalidEmailError(f'{field}: the same addresses more than {MAX_REPEATED} times')
        written = address.casefold()
        if written in seen:
            continue
        seen.add(written)
        if len(seen) > MAX_RECIPIENTS:
            raise InvalidEmailError(
                f'{field}: {len(seen)} addresses, at most {MAX_RECIPIENTS} are allowed'
            )
        refuse_control_characters(field, name)  # RFC 2047 can hide them
        checked = envelope_address(address, field, ascii_only=ascii_only)
        found.setdefault(checked.casefold(), Recipient(name, checked))
    if not (found or (may_be_empty and ':' in text)):
        raise InvalidEmailError(f'{field}: {text[:80]!r} has no address')
    return list(found.values())


def _split_list(field: str, text: str) -> Iterator[tuple[str, str]]:
    """Split an RFC 5322 address list into names and addresses, unchecked."""
    if not any(c in text for c in ',<>"();:'):
        yield '', text.strip()
        return
    from mail_outbox.address_list import read_address_list  # noqa: PLC0415 - nearly all are plain

    try:
        yield from read_address_list(text)
    except ValueError as error:
        hint = '; a name with a comma stands in quotes' if '<' in text else ''
        raise InvalidEmailError(
            f'{field}: {text[:80]!r} is not a list of e-mail addresses: {error}{hint}'
        ) from error


def ascii_address(address: str, field: str = 'recipient') -> str:
    """Check one address, which must be ASCII before the @, and return it as envelope_address does.

    Raises:
        InvalidEmailError: with email-validator's explanation.
    """
    return envelope_address(address, field, ascii_only=True)


def envelope_address(address: str, field: str = 'recipient', *, ascii_only: bool = False) -> str:
    """Check one address and return it in the form that travels in the envelope.

    Raises:
        InvalidEmailError: with email-validator's explanation.
    """
    if len(address) > MAX_ADDRESS_CHARS:
        raise InvalidEmailError(
            f'{field}: {address[:80]!r} is not an e-mail address: it is too long'
        )
    if PLAIN_ADDRESS.fullmatch(address):
        return address
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - hardly any address needs it

    try:
        # Asked about a subdomain of example.com, email-validator checks the syntax of private
        # domains (.local, localhost) like any other; whether they can be delivered to is for the
        # relay to say.
        checked = validate_email(
            address + PUBLIC_SUFFIX,
            check_deliverability=False,
            allow_quoted_local=True,
            allow_smtputf8=not ascii_only,
        )
    except (EmailNotValidError, ValueError, LookupError) as error:  # idna has errors of its own
        raise InvalidEmailError(
            f'{field}: {address[:80]!r} is not an e-mail address: {error}'
        ) from error
    done = checked.ascii_email or f'{checked.local_part}@{checked.ascii_domain}'
    return done.removesuffix(PUBLIC_SUFFIX)


def check_subject(subject: str) -> None:
    """Refuse a subject that is no header field.

    Raises:
        InvalidEmailError: says why.
    """
    if len(subject) > MAX_SUBJECT_CHARS:
        raise InvalidEmailError(
            f'subject: {len(subject)} characters, at most {MAX_SUBJECT_CHARS} are allowed'
        )
    refuse_control_characters('subject', subject)


def refuse_control_characters(name: str, value: str) -> None:
    """Refuse CR, LF and NUL, with which a value could end its header and begin another.

    Half characters are refused as well: no encoding has them.

    Raises:
        InvalidEmailError: names the field.
    """
    if LINE_ENDS.search(value):
        raise InvalidEmailError(f'{name}: must not contain CR, LF or NUL')
    if not value.isascii() and LONE_SURROGATE.search(value):
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)')
