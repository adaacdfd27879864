"""URLs of servers: an ambiguous one is refused, and no message has a piece of a password."""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

PERCENT_ENCODE = (
    'percent-encode / ? # @ : [ ] % and spaces in a password, for example %2F for a slash'
)
# RFC 3986, 3.2.2, without the sub-delims, which no name of a host has.
HOST = re.compile(
    r"""(\[[0-9A-Fa-f:.]+(%25[\w.-]+)?\]|[^\s\[\]:!$&'()*+;="<>\\^`{|}]*)(:[0-9]{0,5})?"""
)
STRAY_PERCENT = re.compile('%(?![0-9A-Fa-f]{2})')


def read_url(url: str, *schemes: str) -> SplitResult:
    """Take an address apart, when there is one way only to do so.

    An unquoted / ? or # in a password ends the host's part early: user and password would be taken
    for host and port.

    Raises:
        ValueError: it is not a URL of these schemes, or ambiguous; the message has no piece of it.
    """
    ambiguous = f'cannot be understood; {PERCENT_ENCODE}'
    try:
        parts = urlsplit(url)
    except ValueError:  # its message may quote a piece of the password
        raise ValueError(f'{ambiguous}; an IPv6 address stands in [ ]') from None
    if parts.scheme not in schemes:
        raise ValueError(f'must start with {" or ".join(f"{scheme}://" for scheme in schemes)}')
    userinfo, _, hosts = parts.netloc.rpartition('@')
    if (
        any(char.isspace() or not char.isprintable() for char in url)
        or '#' in url
        or '@' in userinfo + parts.path + parts.query
        or STRAY_PERCENT.search(url)
        or not all(HOST.fullmatch(host) for host in hosts.split(','))
    ):
        raise ValueError(ambiguous)
    return parts


def place_of(url: str, default_port: int) -> str | None:
    """Return host:port/database of a URL, or None when a piece of the password may be in it."""
    scheme = url.partition(':')[0]
    try:
        parts = read_url(url, scheme)
    except ValueError:
        return None
    hosts = parts.netloc.rpartition('@')[2]
    if parts.scheme == 'unix':
        return parts.path
    if not hosts and (named := parse_qs(parts.query).get('host')):
        hosts = named[-1]
    several = ',' in hosts
    has_port = several or re.search(r':[0-9]+$', hosts)
    return (
        unquote(hosts) if has_port else f'{unquote(hosts) or "localhost"}:{default_port}'
    ) + parts.path


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on host.

    A name other than localhost may mean anything.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'
