"""Who an e-mail is from and to: address fields (RFC 5322, 3.6.2 and 3.6.3), and the envelope.

The envelope is not the header: Bcc stands in the envelope alone, and MAIL FROM may be an address
that no field has.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mail_outbox.envelope import (
    MAX_RECIPIENTS,
    NO_EXTRAS,
    Email,
    Envelope,
    Extras,
    InvalidEmailError,
    Recipient,
    parse_addresses,
    parse_recipients,
)
from mail_outbox.headers import address, encoded_words, header
from mail_outbox.rendered import NOBODY

# Of Extras, and of the table's columns.
EXTRA_ADDRESSES = ('from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc')
LONGEST_KNOWN = 320  # characters of an address whose reading is kept
NO_RETURN_PATH = '<>'  # MAIL FROM:<> (RFC 5321, 4.5.5): nobody wants to hear of a failure


@dataclass(frozen=True, slots=True)
class Sender:
    """The From address of what does not name its own; also its envelope sender."""

    address: str
    name: str | None = None


class AddressFields(NamedTuple):
    """Who an e-mail is from and to, checked.

    Attributes:
        from_, sender, return_path: None where the e-mail has none of its own.
        return_path: The address for MAIL FROM, '' for none.
        is_plain: There is one recipient and nothing else, as nearly always; False where that is
            not known.
    """

    from_: Recipient | None
    sender: Recipient | None
    return_path: str | None
    reply_to: Sequence[Recipient]
    to: Sequence[Recipient]
    cc: Sequence[Recipient]
    bcc: Sequence[Recipient]
    is_plain: bool = False

    def envelope(self, default: str) -> Envelope:
        """Return MAIL FROM and RCPT TO; nobody gets the e-mail twice.

        Args:
            default: The installation's envelope sender.
        """
        if self.is_plain:
            return Envelope(default, (self.to[0].address,))
        return_path = self.return_path
        if return_path is None:
            writer = self.sender or self.from_
            return_path = default if writer is None else writer.address
        if not (self.cc or self.bcc):
            return Envelope(return_path, tuple(to.address for to in self.to))
        everybody: dict[str, str] = {}
        for to in (*self.to, *self.cc, *self.bcc):
            everybody.setdefault(to.address.casefold(), to.address)
        return Envelope(return_path, tuple(everybody.values()))

    def check_count(self) -> None:
        """Refuse more recipients than every relay takes in one transaction.

        Raises:
            InvalidEmailError: says how many there are.
        """
        count = len(self.to) + len(self.cc) + len(self.bcc)
        if count > MAX_RECIPIENTS:
            raise InvalidEmailError(
                f'recipient, cc and bcc: {count} addresses, at most {MAX_RECIPIENTS} are allowed'
            )


def read_address_fields(email: Email) -> AddressFields:
    """Read and check all addresses of an e-mail.

    Raises:
        InvalidEmailError: names the field that is wrong.
    """
    to, extras = parse_recipients(email.recipient), email.extras
    if extras is NO_EXTRAS:  # nearly always
        return AddressFields(None, None, None, (), to, (), (), len(to) == 1)
    cc, bcc = _addresses('cc', extras.cc), _addresses('bcc', extras.bcc)
    if extras.one_copy_each and (cc or bcc):
        raise InvalidEmailError(
            'one_copy_each: each recipient sees only himself: put the addresses of '
            f'{"cc" if cc else "bcc"} into recipient'
        )
    fields = AddressFields(
        from_=_mailbox('from_address', extras.from_address),
        sender=_mailbox('sender_address', extras.sender_address),
        return_path=_return_path(extras.envelope_from),
        reply_to=_addresses('reply_to', extras.reply_to),
        to=to,
        cc=cc,
        bcc=bcc,
    )
    fields.check_count()
    return fields


def _addresses(field: str, text: str | None) -> Sequence[Recipient]:
    return parse_addresses(field, text) if text else ()


def _mailbox(field: str, text: str | None) -> Recipient | None:
    if not text:
        return None
    return (_known_mailbox if len(text) <= LONGEST_KNOWN else _read_mailbox)(field, text)


def _read_mailbox(field: str, text: str) -> Recipient:
    found = parse_addresses(field, text)
    if len(found) > 1:
        raise InvalidEmailError(f'{field}: {len(found)} addresses, it must be one')
    return found[0]


# An application sends from a few addresses: reading one again took a third of what an e-mail costs
# the HTTP API (2026-11).
_known_mailbox = functools.lru_cache(maxsize=256)(_read_mailbox)


def _return_path(text: str | None) -> str | None:
    if text == NO_RETURN_PATH:
        return ''
    mailbox = _mailbox('envelope_from', text)
    return None if mailbox is None else mailbox.address


def named_senders(extras: Extras) -> Iterator[tuple[str, str]]:
    """Yield the addresses that a row names its e-mail to be from, each with its field's name.

    Raises:
        InvalidEmailError: one is no address.
    """
    for field in ('from_address', 'sender_address'):
        if (mailbox := _mailbox(field, getattr(extras, field))) is not None:
            yield field, mailbox.address
    if return_path := _return_path(extras.envelope_from):
        yield 'envelope_from', return_path


class Heads(NamedTuple):
    """The address fields as they stand in a message, one behind the other; see Rendered."""

    head: bytes
    ascii_head: bytes | None = None
    own_heads: Mapping[str, bytes] = NOBODY

    @property
    def is_plain(self) -> bool:
        """Whether every recipient gets the same, and every relay takes it."""
        return self.own_heads is NOBODY and self.head.isascii()


def heads_of(fields: AddressFields, default: Sender, *, one_copy_each: bool = False) -> Heads:
    """Return From, To and the other address fields. Nobody sees Bcc."""
    if fields.is_plain and fields.to[0].address.isascii():  # nearly always
        (to,) = fields.to
        return Heads(_from(default) + header('To', address(to.name, to.address)))
    writers = _from(default) if fields.from_ is None else address_field('From', [fields.from_])
    if fields.sender is not None:
        writers += address_field('Sender', [fields.sender])
    if fields.reply_to:
        writers += address_field('Reply-To', fields.reply_to)
    if one_copy_each:
        own = {to.address: writers + address_field('To', [to]) for to in fields.to}
        return Heads(next(iter(own.values())), None, own)
    readers = address_field('To', fields.to)
    if fields.cc:
        readers += address_field('Cc', fields.cc)
    if readers.isascii() or not writers.isascii():
        return Heads(writers + readers)
    in_ascii = address_field('To', fields.to, ascii_only=True)
    if fields.cc:
        in_ascii += address_field('Cc', fields.cc, ascii_only=True)
    return Heads(writers + readers, writers + in_ascii)


def address_field(name: str, mailboxes: Sequence[Recipient], *, ascii_only: bool = False) -> bytes:
    """Return a header field with addresses.

    Args:
        ascii_only: An address beyond ASCII becomes the name of an empty group (RFC 6857, 3.1.6):
            it can be read, and not be written to.
    """
    texts = [
        f'{encoded_words(f"{to.name} {to.address}".strip())} :;'
        if ascii_only and not to.address.isascii()
        else address(to.name, to.address)
        for to in mailboxes
    ]
    return header(name, ', '.join(texts), as_utf8=True)


@functools.lru_cache(maxsize=16)
def _from(sender: Sender) -> bytes:
    return header('From', address(sender.name or '', sender.address))
