"""Greeting a relay: our name, EHLO or HELO, and what it offers (RFC 5321, 3.2 and 4.1.1.1)."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import aiosmtplib

from mail.outcome import Reply
from mail.relay.errors import RelayError
from mail.relay.recipients import announced_limit

LABEL = r'[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
DOMAIN = re.compile(rf'{LABEL}(?:\.{LABEL})*', re.IGNORECASE)
LITERAL = re.compile(r'\[(IPv6:)?([0-9A-Fa-f.:]+)\]')
MAX_NAME_CHARS = 253
# Names that a host gives itself when nobody gave it one; RFC 6761 and RFC 6762.
NAMES_OF_NOBODY = ('localhost', 'localdomain', 'local', 'arpa', 'invalid')
# The command is not known, or not with a parameter such as ours.
UNKNOWN_COMMAND = frozenset({500, 501, 502, 504})


def is_name(name: str) -> bool:
    """Tell whether a relay may be greeted by this name: a domain, or an address literal."""
    if len(name) <= MAX_NAME_CHARS and DOMAIN.fullmatch(name):
        return True
    match = LITERAL.fullmatch(name)
    if match is None:
        return False
    try:
        return ipaddress.ip_address(match[2]).version == (6 if match[1] else 4)
    except ValueError:
        return False


def qualified(name: str) -> str | None:
    """Return a host's own name if others may know it by that, else None."""
    name = name.rstrip('.')
    labels = name.lower().split('.')
    if (
        len(labels) < 2
        or labels[-1] in NAMES_OF_NOBODY
        or labels[-1].isdecimal()
        or not is_name(name)
    ):
        return None
    return name


def address_literal(address: str) -> str:
    """Return an IP address as RFC 5321, 4.1.3 writes it: [192.0.2.1] or [IPv6:2001:db8::1]."""
    ip = ipaddress.ip_address(address.partition('%')[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return f'[{ip}]' if ip.version == 4 else f'[IPv6:{ip}]'


async def greet(client: aiosmtplib.SMTP, name: str, needs: str | None, relay: str) -> None:
    """Say EHLO, and HELO to a relay that knows no EHLO.

    Args:
        name: Ours.
        needs: What we want that only EHLO can offer, for people; None for nothing.
        relay: Its name, for people.
    Raises:
        RelayError: it knows no EHLO, and we need more than HELO.
        aiosmtplib.SMTPException: it greets in neither way.
    """
    try:
        await client.ehlo(hostname=name)
    except aiosmtplib.SMTPHeloError as error:
        if error.code not in UNKNOWN_COMMAND:
            raise
        reply = Reply(error.code, error.message)
        if needs is not None:
            raise RelayError(
                f'{relay} knows no EHLO ({reply}), so it cannot offer {needs}', reply
            ) from error
        await client.helo(hostname=name)


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a relay offers in EHLO, as far as it matters once e-mails are sent.

    Attributes:
        size_limit_bytes: SIZE (RFC 1870), 0 for none.
        most_recipients: LIMITS RCPTMAX (RFC 9422), None for none.
        eight_bit: 8BITMIME (RFC 6152).
        utf8: SMTPUTF8 (RFC 6531).
    """

    pipelining: bool = False
    size_limit_bytes: int = 0
    most_recipients: int | None = None
    eight_bit: bool = False
    utf8: bool = False

    @classmethod
    def read(cls, keywords: Mapping[str, str]) -> Self:
        """Read EHLO's keywords, in lower case, and their parameters."""
        size = keywords.get('size', '')
        # isdecimal: '²' is a digit as well, which int() does not take.
        size_limit_bytes = int(size) if size.isdecimal() and len(size) < 20 else 0
        return cls(
            'pipelining' in keywords,
            size_limit_bytes,
            announced_limit(keywords),
            eight_bit='8bitmime' in keywords,
            utf8='smtputf8' in keywords,
        )
