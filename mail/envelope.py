"""What an e-mail is before it becomes bytes: its values, its addresses and who they are given to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import HeaderRegistry
from typing import Any, NamedTuple

HEADERS = HeaderRegistry()
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
MAX_RECIPIENT_CHARS = MAX_RECIPIENTS * 320  # and names
MAX_SUBJECT_CHARS = 988  # RFC 5322, 2.1.1: a line of 998 less the header's name


class InvalidEmailError(ValueError):
    """The e-mail can never be sent as it is; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with an e-mail."""

    filename: str
    content_type: str  # 'application/pdf'
    data: bytes
    cid: str | None = None  # Content-ID for HTML to refer to, without angle brackets


@dataclass(frozen=True, slots=True)
class Template:
    """A stored template: Jinja2 source for each part it has."""

    subject: str | None
    body_text: str | None
    body_html: str | None


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
    headers: str | None = None  # JSON object of extra header fields, not yet parsed
    content_id: str | None = None
    message_id: str = ''
    message_date: datetime | None = None


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
    address: str  # RFC 5321, 4.1.2: local part, quoted where it has to be, and domain in ASCII


def parse_recipients(recipient: str) -> list[Recipient]:
    """Read a recipient field: one address or several, with or without names.

    Returns:
        The addresses, normalised: international domains in their ASCII form, duplicates dropped.
    Raises:
        InvalidEmailError: names the part that is no address.
    """
    if len(recipient) > MAX_RECIPIENT_CHARS:
        raise InvalidEmailError(f'recipient: {len(recipient)} characters, at most {MAX_RECIPIENT_CHARS} are allowed')
    if PLAIN_ADDRESS.fullmatch(recipient):  # nearly always
        return [Recipient('', recipient)]
    refuse_control_characters('recipient', recipient)
    found: dict[str, Recipient] = {}
    for name, address in split_list(recipient):
        refuse_control_characters('recipient', name)  # RFC 2047 can hide them
        checked = ascii_address(address)
        found.setdefault(checked.casefold(), Recipient(name, checked))
    if len(found) > MAX_RECIPIENTS:
        raise InvalidEmailError(f'recipient: {len(found)} addresses, at most {MAX_RECIPIENTS} are allowed')
    return list(found.values())


def split_list(recipient: str) -> list[tuple[str, str]]:
    """Split an RFC 5322 address list into names and addresses, unchecked."""
    if not any(c in recipient for c in ',<>"();:'):
        return [('', recipient.strip())]
    try:
        header: Any = HEADERS('To', recipient)  # its class is made at run time
    except ValueError as error:
        raise InvalidEmailError(f'recipient: {recipient[:80]!r}: {error}') from error
    if header.defects or not header.addresses:
        why = '; '.join(str(defect) for defect in header.defects) or 'no address found'
        raise InvalidEmailError(f'recipient: {recipient[:80]!r} is not a list of e-mail addresses: {why}')
    return [(address.display_name, address.addr_spec) for address in header.addresses]


def ascii_address(address: str) -> str:
    """Check one address and return it in the form that travels in the envelope.

    Raises:
        InvalidEmailError: with email-validator's explanation.
    """
    if PLAIN_ADDRESS.fullmatch(address):
        return address
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - hardly any address needs it

    try:
        # Asked about a subdomain of example.com, email-validator checks the syntax of private domains (.local,
        # localhost) like any other; whether they can be delivered to is for the relay to say.
        checked = validate_email(
            address + PUBLIC_SUFFIX, check_deliverability=False, allow_quoted_local=True, allow_smtputf8=False
        )
    except EmailNotValidError as error:
        raise InvalidEmailError(f'recipient: {address[:80]!r} is not an e-mail address: {error}') from error
    return f'{checked.ascii_email}'.removesuffix(PUBLIC_SUFFIX)


def refuse_control_characters(name: str, value: str) -> None:
    """Refuse CR, LF and NUL, with which a value could end its header and begin another, and what no encoding has.

    Raises:
        InvalidEmailError: names the field.
    """
    if LINE_ENDS.search(value):
        raise InvalidEmailError(f'{name}: must not contain CR, LF or NUL')
    if not value.isascii() and LONE_SURROGATE.search(value):
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)')


# Header fields that this program makes itself; an extra header must not contradict them.
OWN_HEADERS = frozenset({
    'from', 'to', 'cc', 'bcc', 'sender', 'subject', 'date', 'message-id', 'mime-version', 'content-type',
    'content-transfer-encoding', 'return-path', 'received', 'dkim-signature',
})  # fmt: skip


def check_headers(headers: Mapping[str, Any]) -> None:
    """Check extra header fields such as Reply-To or List-Unsubscribe.

    Raises:
        InvalidEmailError: names the field that is malformed or reserved.
    """
    if len({name.lower() for name in headers}) < len(headers):
        raise InvalidEmailError('headers: a field is given twice')
    for name, value in headers.items():
        if not (name and all(33 <= ord(c) <= 126 and c != ':' for c in name)):
            raise InvalidEmailError(f'headers: {name!r} is not a header field name')
        if name.lower() in OWN_HEADERS:
            raise InvalidEmailError(f'headers: {name} is made by the worker and cannot be set')
        if not isinstance(value, str):
            raise InvalidEmailError(f'headers: the value of {name} must be text')
        refuse_control_characters(f'headers: {name}', value)
