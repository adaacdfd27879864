"""A message as it is handed to a relay: what it needs there, and what differs by recipient."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mail_outbox.envelope import Envelope
from mail_outbox.mime import as_seven_bit

NOBODY: Mapping[str, bytes] = MappingProxyType({})


class Rendered(NamedTuple):
    """What SMTP transactions need.

    Attributes:
        message: CRLF line ends, not yet dot-stuffed.
        head_bytes: How much of it are the fields that may differ by recipient.
        is_international: Its header is not ASCII (RFC 6532): it needs SMTPUTF8.
        ascii_head: The same fields without such addresses, for recipients whose own address is
            ASCII: none of the servers on their way need take more. None: those of the message do.
        own_heads: The same fields for each recipient, where each gets a message of his own.
        eight_bit: Where text in 8 bits begins and ends, behind the head: it needs 8BITMIME, or is
            encoded; () for none. None: there is some, and nothing may be changed.
    """

    envelope: Envelope
    message: bytes
    head_bytes: int = 0
    is_international: bool = False
    ascii_head: bytes | None = None
    own_heads: Mapping[str, bytes] = NOBODY
    eight_bit: tuple[tuple[int, int], ...] | None = ()

    def part(self, recipients: tuple[str, ...]) -> 'Rendered':
        """Return what one transaction with these recipients carries, see alike."""
        if recipients == self.envelope.recipients and not (self.own_heads or self.ascii_head):
            return self
        envelope = self.envelope._replace(recipients=recipients)
        head = self.own_heads.get(recipients[0])
        if head is not None:
            return Rendered(
                envelope,
                head + self.message[self.head_bytes :],
                len(head),
                is_international=not head.isascii(),
                eight_bit=self.eight_bit,
            )
        if self.ascii_head is None or not all(map(str.isascii, recipients)):
            return self._replace(envelope=envelope)
        return Rendered(
            envelope,
            self.ascii_head + self.message[self.head_bytes :],
            len(self.ascii_head),
            eight_bit=self.eight_bit,
        )

    def alike(self, recipients: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Group recipients by what their transactions need, those that need less first."""
        if len(recipients) == 1:  # nearly always
            return [recipients]
        plain = tuple(r for r in recipients if r.isascii())
        if self.needs_utf8 or len(plain) in (0, len(recipients)):
            return [recipients]
        return [plain, tuple(r for r in recipients if not r.isascii())]

    @property
    def has_eight_bit(self) -> bool:
        """Whether anything in it, but its header, is in 8 bits."""
        return self.eight_bit != ()

    @property
    def is_ascii(self) -> bool:
        """Whether header and sender are ASCII, so that the recipients alone may need SMTPUTF8."""
        return not self.is_international and self.envelope.sender.isascii()

    @property
    def needs_utf8(self) -> bool:
        """Whether no recipient can get it without SMTPUTF8."""
        is_international = self.is_international and self.ascii_head is None and not self.own_heads
        return is_international or not self.envelope.sender.isascii()

    def in_seven_bits(self) -> 'Rendered | None':
        """Return it with its text encoded for a relay without 8BITMIME; None where it must not be.

        Source: RFC 6152, 3: a client must convert such a message, or return it as undeliverable.
        """
        if self.eight_bit is None:
            return None
        pieces, done = [], 0
        for begin, end in self.eight_bit:
            start, stop = self.head_bytes + begin, self.head_bytes + end
            pieces += [self.message[done:start], as_seven_bit(self.message[start:stop])]
            done = stop
        return self._replace(message=b''.join([*pieces, self.message[done:]]), eight_bit=())
