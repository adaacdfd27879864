"""Where events may go: addresses that everybody can reach, and networks that an operator allows.

An endpoint's address is written by people who may not be those that run the servers, so a name
must not lead to what only the servers can reach: loopback, the local network, the cloud's metadata.
"""

import asyncio
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2000
# IPv6 addresses that stand for one of IPv4: RFC 6052 (NAT64), RFC 4291 2.5.5.1 (compatible),
# RFC 2765 (SIIT). ipaddress knows the mapped ones, 6to4 and Teredo.
EMBEDDING = tuple(ip_network(text) for text in ('64:ff9b::/96', '::/96', '::ffff:0:0:0/96'))
REFUSED = tuple(
    ip_network(text)
    for text in (
        '64:ff9b:1::/48',  # RFC 8215: NAT64 to whatever the network likes
        '192.0.0.0/24',  # RFC 6890: of protocols; clouds have their metadata there
        '192.88.99.0/24',  # RFC 7526: relays of 6to4, which are no more
        '168.63.129.16/32',  # Azure's services for its own machines
    )
)


class TargetError(Exception):
    """An endpoint that no event may go to; its text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint's URL, read."""

    url: str
    host: str
    port: int
    is_tls: bool


def read_target(url: str) -> Target:
    """Read an endpoint's URL.

    Raises:
        TargetError: nobody could post to it.
    """
    if len(url) > LONGEST_URL:
        raise TargetError(f'the URL is longer than {LONGEST_URL} characters')
    if not url.isascii() or not url.isprintable() or any(c in url for c in ' \\"<>^`{|}'):
        raise TargetError('the URL has characters that must be encoded')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetError(f'this is no URL: {error}') from error
    if parts.scheme not in {'http', 'https'}:
        raise TargetError('the URL must begin with https:// (http:// within allowed networks)')
    if parts.username is not None or parts.password is not None:
        raise TargetError('the URL must not have a password: the signature says who sends')
    if not parts.hostname or port == 0:
        raise TargetError('the URL names no host')
    if parts.fragment:
        raise TargetError('the URL must not have a #fragment')
    is_tls = parts.scheme == 'https'
    return Target(url, parts.hostname, port or (443 if is_tls else 80), is_tls)


def stands_for(address: Address) -> Iterable[Address]:
    """Yield an address, and those of IPv4 that a packet to it may reach."""
    yield address
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if any(address in network for network in EMBEDDING):
        yield IPv4Address(int(address) & 0xFFFFFFFF)


def is_public(address: Address) -> bool:
    """Whether everybody can reach an address.

    Of one that stands for another only the other counts: what embeds is reserved as a whole.
    """
    first, *embedded = stands_for(address)
    return all(
        found.is_global
        and not found.is_multicast
        and not found.is_reserved
        and not (isinstance(found, IPv6Address) and found.is_site_local)
        and not any(found in network for network in REFUSED)
        for found in embedded or [first]
    )


def check_address(text: str, allowed: Sequence[Network], *, is_tls: bool) -> None:
    """Refuse an address that a name stands for.

    Raises:
        TargetError.
    """
    address = ip_address(text.partition('%')[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if any((mapped or address) in network for network in allowed):
        return
    if not is_public(address):
        raise TargetError(f'{text} is not a public address, and not in WEBHOOK_ALLOWED_NETWORKS')
    if not is_tls:
        raise TargetError('http:// is for WEBHOOK_ALLOWED_NETWORKS: use https://')


class Resolver:
    """Names to addresses, in threads of its own: a slow name server holds up nobody else's."""

    def __init__(self, threads: int = 8) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix='webhook-names')

    async def checked(
        self, host: str, port: int, allowed: Sequence[Network], *, is_tls: bool
    ) -> list[str]:
        """Return the addresses of a host, every one of them checked.

        Raises:
            TargetError: one of them is refused; OSError: the name has none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        for address in found:
            check_address(address, allowed, is_tls=is_tls)
        return found

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
