"""Saying hello to a relay: by what name, and in the old way where it knows only that (RFC 5321, 3.2 and 4.1.1.1)."""

import ipaddress
import re

import aiosmtplib

from mail.outcome import Reply
from mail.relay.transaction import RelayError

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
