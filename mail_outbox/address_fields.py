"""Who an e-mail is from and to: address fields (RFC 5322, 3.6.2 and 3.6.3), and the envelope.

The envelope is not the header: Bcc stands in the envelope alone, and MAIL FROM may be an address
that no field has.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mail_outbox.envelope import (
    MAX_RECIPIENTS,
    NO_EXTRAS,
    Email,
    Envelope,
    InvalidEmailError,
    Recipient,
    parse_addresses,
    parse_recipients,
)
from mail_outbox.headers import address, header

# Of Extras, and of the table's columns.
EXTRA_ADDRESSES = ('from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc')
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
    """

    from_: Recipient | None
    sender: Recipient | None
    return_path: str | None
    reply_to: Sequence[Recipient]
    to: Sequence[Recipient]
    cc: Sequence[Recipient]
    bcc: Sequence[Recipient]

    def envelope(self, default: str) -> Envelope:
        """Return MAIL FROM and RCPT TO; nobody gets the e-mail twice.

        Args:
            default: The installation's envelope sender.
        """
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

    def own_senders(self) -> Iterator[tuple[str, str]]:
        """Yield the addresses that somebody has to allow, each with the name of its field."""
        if self.from_ is not None:
            yield 'from_address', self.from_.address
        if self.sender is not None:
            yield 'sender_address', self.sender.address
        if self.return_path:
            yield 'envelope_from', self.return_path


def read_address_fields(email: Email) -> AddressFields:
    """Read and check all addresses of an e-mail.

    Raises:
        InvalidEmailError: names the field that is wrong.
    """
    to, extras = parse_recipients(email.recipient), email.extras
    if extras is NO_EXTRAS:  # nearly always
        return AddressFields(None, None, None, (), to, (), ())
    cc, bcc = _addresses('cc', extras.cc), _addresses('bcc', extras.bcc)
    if extras.one_copy_each and (cc or bcc):
        raise InvalidEmailError(
            'one_copy_each: each recipient sees only himself: put the addresses of '
            f'{"cc" if cc else "bcc"} into recipient'
        )
    count = len(to) + len(cc) + len(bcc)
    if count > MAX_RECIPIENTS:
        raise InvalidEmailError(
            f'recipient, cc and bcc: {count} addresses, at most {MAX_RECIPIENTS} are allowed'
        )
    return AddressFields(
        from_=_mailbox('from_address', extras.from_address),
        sender=_mailbox('sender_address', extras.sender_address),
        return_path=_return_path(extras.envelope_from),
        reply_to=_addresses('reply_to', extras.reply_to),
        to=to,
        cc=cc,
        bcc=bcc,
    )


def _addresses(field: str, text: str | None) -> Sequence[Recipient]:
    return parse_addresses(field, text) if text else ()


def _mailbox(field: str, text: str | None) -> Recipient | None:
    if not text:
        return None
    found = parse_addresses(field, text)
    if len(found) > 1:
        raise InvalidEmailError(f'{field}: {len(found)} addresses, it must be one')
    return found[0]


def _return_path(text: str | None) -> str | None:
    if text == NO_RETURN_PATH:
        return ''
    mailbox = _mailbox('envelope_from', text)
    return None if mailbox is None else mailbox.address


def originators(fields: AddressFields, default: Sender) -> dict[str, bytes]:
    """Return From, and Sender and Reply-To where there are any."""
    found = {'From': _from(default)}
    if fields.from_ is not None:
        found['From'] = address_field('From', [fields.from_])
    if fields.sender is not None:
        found['Sender'] = address_field('Sender', [fields.sender])
    if fields.reply_to:
        found['Reply-To'] = address_field('Reply-To', fields.reply_to)
    return found


def destinations(fields: AddressFields) -> dict[str, bytes]:
    """Return To and Cc. Nobody sees Bcc."""
    found = {'To': address_field('To', fields.to)}
    if fields.cc:
        found['Cc'] = address_field('Cc', fields.cc)
    return found


def address_field(name: str, mailboxes: Sequence[Recipient]) -> bytes:
    """Return a header field with addresses."""
    return header(name, ', '.join(address(to.name, to.address) for to in mailboxes))


@functools.lru_cache(maxsize=16)
def _from(sender: Sender) -> bytes:
    return header('From', address(sender.name or '', sender.address))
