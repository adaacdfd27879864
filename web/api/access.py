"""Who asks, and whether he may: tokens of the API."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from ipaddress import ip_address

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from actions.known_tokens import KnownTokens
from actions.tokens import ApiScope, token_digest, token_named
from reporting.servers import Servers
from web.api.problem import Refusal, RefusalError

log = structlog.get_logger()

MOST_REFUSALS, REFUSALS_WITHIN_S = 20, 60.0  # of one address
MOST_ADDRESSES = 10_000  # remembered; the one that was refused longest ago is forgotten first


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        organization_id: All that he sees and sends is this organisation's; None: of all.
        token_id: None: a proxy says who it is.
        address: Where from: the peer's, which may be a proxy's.
    """

    name: str
    scopes: frozenset[str]
    organization_id: str | None
    token_id: int | None
    address: str

    @property
    def owner(self) -> str:
        """Whose requests are his: the organisation's, or those of tokens of this name."""
        if self.organization_id is None:
            return token_named(self.name)
        return f'organization:{self.organization_id}'


class Refusals:
    """How often each address was refused lately."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, how many

    def too_many(self, address: str) -> int | None:
        """Return in how many seconds it may try again; None: now."""
        since, count = self._counts.get(address, (0.0, 0))
        left_s = since + REFUSALS_WITHIN_S - time.monotonic()
        return int(left_s) + 1 if count >= MOST_REFUSALS and left_s > 0 else None

    def count(self, address: str) -> None:
        """Count one more."""
        now = time.monotonic()
        since, count = self._counts.pop(address, (now, 0))
        if now - since > REFUSALS_WITHIN_S:
            since, count = now, 0
        self._counts[address] = (since, count + 1)
        if count + 1 == MOST_REFUSALS:
            log.warning('web.many_refused', address=address, times=count + 1)
        if len(self._counts) > MOST_ADDRESSES:
            self._counts.popitem(last=False)


@lru_cache(maxsize=1024)
def group_of(address: str) -> str:
    """Return what is counted as one address: of IPv6 the /64 that a host has to itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    mapped = found.ipv4_mapped
    return str(mapped) if mapped else f'{ip_address(int(found) >> 64 << 64)}/64'


class Access:
    """The door of the API: a token and an address in, a Principal out."""

    def __init__(self, servers: Servers) -> None:
        self.tokens = KnownTokens(servers)
        self.refusals = Refusals()

    async def identify(
        self, authorization: str, address: str, scope: ApiScope = ApiScope.READ
    ) -> Principal:
        """Return who asks.

        A token that is good is never held up by what others did from the same address, such as a
        proxy's.

        Raises:
            RefusalError: 401, or 429 for who was refused too often; ProblemError.
        """
        group = group_of(address)
        wait_s = self.refusals.too_many(group)
        scheme, _, text = authorization.partition(' ')
        digest = token_digest(text.strip()) if scheme.lower() == 'bearer' else None
        token = await self.tokens.find(digest, patient=wait_s is None) if digest else None
        if token is not None:
            return Principal(token.name, token.scopes, token.organization_id, token.id, address)
        if wait_s is not None:
            raise RefusalError(_held_up(wait_s))
        self.refusals.count(group)
        refusal = UNKNOWN_TOKEN if authorization else NO_TOKEN
        raise RefusalError(replace(refusal, remedy=_see_create(scope)))


CHALLENGE = {'WWW-Authenticate': 'Bearer realm="email"'}
NO_TOKEN = Refusal(
    HTTPStatus.UNAUTHORIZED, 'no-token', 'the header Authorization: Bearer TOKEN is missing',
    '', headers=CHALLENGE,
)  # fmt: skip
UNKNOWN_TOKEN = Refusal(
    HTTPStatus.UNAUTHORIZED, 'unknown-token', 'the token is none, has expired or was revoked',
    '', headers={'WWW-Authenticate': 'Bearer realm="email", error="invalid_token"'},
)  # fmt: skip


def _see_create(scope: ApiScope) -> str:
    return f'make one: python -m ops token create NAME --scope {scope}'


def _held_up(wait_s: int) -> Refusal:
    return Refusal(
        HTTPStatus.TOO_MANY_REQUESTS, 'too-many-refusals',
        f'{MOST_REFUSALS} requests from this address had no token that is in use',
        f'wait {wait_s} s, and correct the token', headers={'Retry-After': str(wait_s)},
    )  # fmt: skip


def _out_of_scope(principal: Principal, scope: ApiScope) -> Refusal:
    return Refusal(
        HTTPStatus.FORBIDDEN, 'out-of-scope',
        f'the token {principal.name} is for {", ".join(sorted(principal.scopes))}, not {scope}',
        _see_create(scope),
    )  # fmt: skip


async def authorize(request: Request, scope: ApiScope) -> Principal:
    """Return who asks, if his token has this scope. Plain starlette routes call it.

    Raises:
        RefusalError: 401, 403 or 429; ProblemError: PostgreSQL does not answer.
    """
    access: Access = request.app.state.api.access
    address = request.client.host if request.client else ''
    principal = await access.identify(request.headers.get('authorization', ''), address, scope)
    if scope not in principal.scopes:
        raise RefusalError(_out_of_scope(principal, scope))
    return principal


BEARER = HTTPBearer(auto_error=False, description='`python -m ops token create NAME --scope ...`')


def require(scope: ApiScope) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency of FastAPI: who asks, if his token has this scope."""

    async def principal_of(request: Request, _: object = Depends(BEARER)) -> Principal:
        return await authorize(request, scope)

    return principal_of
