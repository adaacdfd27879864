"""People whom a proxy before the desk has asked who they are, and names in a header."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from starlette.requests import HTTPConnection, Request

from web.api.access import Principal
from web.auth.people import ROLE_SCOPES, Role

LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class TrustedProxy:
    """Whose word counts.

    Attributes:
        networks: The proxies' addresses; what others send in these headers is not read.
        user_header: Has the person's name; None: people log in here.
        role: Of everybody whom it names.
    """

    networks: Sequence[IPv4Network | IPv6Network] = ()
    user_header: str | None = None
    role: Role = Role.LOOK

    def speaks(self, request: HTTPConnection) -> bool:
        """Whether the request comes from the proxy itself."""
        if not self.networks:
            return False
        try:
            peer = ip_address(request.client.host if request.client else '')
        except ValueError:
            return False
        mapped = getattr(peer, 'ipv4_mapped', None)
        return any((mapped or peer) in network for network in self.networks)

    def address_of(self, request: Request) -> str:
        """Return where a request comes from: of a proxy, whom it speaks for."""
        peer = request.client.host if request.client else ''
        if not self.speaks(request):
            return peer
        told = request.headers.get('x-forwarded-for', '').rpartition(',')[2].strip()
        try:
            return str(ip_address(told))
        except ValueError:
            return peer

    def named_by(self, request: Request) -> Principal | None:
        """Return the person that the proxy names."""
        if self.user_header is None or not self.speaks(request):
            return None
        names = request.headers.getlist(self.user_header)
        # Two headers: one may be the client's own.
        name = names[0].strip() if len(names) == 1 else ''
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            return None
        scopes = ROLE_SCOPES[self.role]
        return Principal(name, scopes, None, None, self.address_of(request))


NO_PROXY = TrustedProxy()
