"""DKIM signatures on a message as it travels (RFC 6376).

The fields of the list h= are signed as often as the message has them, and those that readers act on
once more (RFC 6376, 5.4.2 and 8.15): a second From, or an unsubscribe link of somebody else's,
that is put into a signed message breaks its signature.
"""

import base64
import functools
import hashlib
import time
from collections.abc import Iterable, Sequence

from mail.signing.canonical import body_hash, relaxed_field, split_fields
from mail.signing.keys import SigningKey
from mail_outbox.envelope import InvalidEmailError, parse_addresses
from mail_outbox.rendered import Rendered

# Signed once more than they are there, also where they are not.
OVERSIGNED = (
    'from', 'to', 'cc', 'reply-to', 'subject', 'date', 'message-id', 'mime-version', 'content-type',
    'content-transfer-encoding', 'list-unsubscribe', 'list-unsubscribe-post',
)  # fmt: skip
# Signed where they are; relays and mailing lists add them (RFC 6376, 5.4.1).
SIGNED = (
    'sender', 'in-reply-to', 'references', 'auto-submitted', 'content-id', 'content-description',
    'content-disposition', 'content-language', 'list-id', 'list-help', 'list-subscribe',
    'list-post', 'list-owner', 'list-archive', 'feedback-id',
)  # fmt: skip
LINE_CHARS = 72
LONGEST_KNOWN_BYTES = 500  # a From field whose keys are remembered
HEAD_END = b'\r\n\r\n'


class Signing:
    """The keys of an installation, and the signatures they make."""

    def __init__(self, keys: Iterable[SigningKey]) -> None:
        self.keys = tuple(keys)
        self._by_domain: dict[str, list[SigningKey]] = {}
        for key in self.keys:
            self._by_domain.setdefault(key.domain, []).append(key)
        # An installation sends from a few addresses; a From may name any.
        self._known_keys = functools.lru_cache(maxsize=256)(self._find_keys)

    def keys_for(self, domain: str) -> Sequence[SigningKey]:
        """Return a domain's keys, else those of the nearest domain above it."""
        labels = domain.lower().split('.')
        for start in range(len(labels)):
            if keys := self._by_domain.get('.'.join(labels[start:])):
                return keys
        return ()

    def sign(self, rendered: Rendered) -> Rendered:
        """Return the message with a signature by each key of its From's domain.

        It is in seven bits then, where that can be (RFC 6376, 5.3): a relay without 8BITMIME gets
        what was signed.
        """
        head_end = rendered.message.index(HEAD_END)
        keys = self._keys_of(split_fields(rendered.message[:head_end]))
        if not keys:
            return rendered
        rendered = rendered.in_seven_bits() or rendered
        message, head_bytes = rendered.message, rendered.head_bytes
        head_end = message.index(HEAD_END)  # encoding may have changed the field that says how
        bodies = body_hash(message, head_end + len(HEAD_END))
        shared = split_fields(message[head_bytes:head_end])
        now = int(time.time())

        def signed(head: bytes) -> bytes:
            fields = [*split_fields(head.removesuffix(b'\r\n')), *shared]
            return b''.join(_signature(key, fields, bodies, now) for key in keys) + head

        head = signed(message[:head_bytes])
        return rendered._replace(
            message=head + message[head_bytes:],
            head_bytes=len(head),
            ascii_head=None if rendered.ascii_head is None else signed(rendered.ascii_head),
            own_heads={to: signed(own) for to, own in rendered.own_heads.items()}
            if rendered.own_heads
            else rendered.own_heads,
        )

    def _keys_of(self, fields: Iterable[tuple[str, bytes]]) -> Sequence[SigningKey]:
        from_field = next((field for name, field in fields if name == 'from'), b'')
        known = len(from_field) <= LONGEST_KNOWN_BYTES
        return self._known_keys(from_field) if known else self._find_keys(from_field)

    def _find_keys(self, from_field: bytes) -> Sequence[SigningKey]:
        text = from_field.partition(b':')[2].replace(b'\r\n', b'').decode('utf-8', 'replace')
        try:
            writers = parse_addresses('from', text.strip())
        except InvalidEmailError:  # not of ours: it was read before
            return ()
        return self.keys_for(writers[0].address.rpartition('@')[2])


def _signature(
    key: SigningKey, fields: Sequence[tuple[str, bytes]], bodies: bytes, now: int
) -> bytes:
    """Return a DKIM-Signature field.

    Args:
        fields: Of the message, each with its name in lower case, from the top.
        bodies: The body's hash, see canonical.body_hash.
        now: Seconds since 1970.
    """
    names, chosen = choose_fields(fields, key.unsigned)
    before = (
        f'DKIM-Signature: v=1; a={key.algorithm}-sha256; c=relaxed/relaxed; d={key.domain};\r\n'
        f' s={key.selector}; t={now}; bh={bodies.decode()};\r\n'
        f' h={_folded_names(names)};\r\n b='
    ).encode()
    digest = hashlib.sha256()
    for field in chosen:
        digest.update(relaxed_field(field))
        digest.update(b'\r\n')
    digest.update(relaxed_field(before))
    made = base64.b64encode(key.sign(digest.digest()))
    lines = (made[at : at + LINE_CHARS] for at in range(0, len(made), LINE_CHARS))
    return before + b'\r\n '.join(lines) + b'\r\n'


def choose_fields(
    fields: Sequence[tuple[str, bytes]], unsigned: frozenset[str]
) -> tuple[list[str], list[bytes]]:
    """Return the names for h=, and the fields that they stand for, in that order.

    Of several fields with one name the last is taken first (RFC 6376, 5.4.2).
    """
    there: dict[str, list[bytes]] = {}
    for name, field in fields:
        there.setdefault(name, []).append(field)
    names: list[str] = []
    chosen: list[bytes] = []
    for wanted, more in ((OVERSIGNED, 1), (SIGNED, 0)):
        for name in wanted:
            if name not in unsigned:
                found = there.get(name, [])
                names += [name] * (len(found) + more)
                chosen += reversed(found)
    return names, chosen


def _folded_names(names: Sequence[str]) -> str:
    lines = ['']
    for name in names:
        if len(lines[-1]) + len(name) > LINE_CHARS:
            lines.append('')
        lines[-1] += f'{name}:'
    return '\r\n  '.join(lines).removesuffix(':')
