"""The desk's door: who asks for a page, logging in and out."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import structlog
from starlette.requests import Request
from starlette.responses import Response

from actions.audit import audited
from db.audit import Actor
from db.desk_sessions import NamedPerson
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.api.access import Access, Principal
from web.api.problem import Refusal, RefusalError
from web.auth.people import Role, Visitor
from web.auth.provider import IdentityProvider
from web.auth.proxy import NO_PROXY, TrustedProxy
from web.auth.sessions import SESSION_S, KnownSessions, new_secret
from web.place import NOWHERE, PublicPlace, root_of

log = structlog.get_logger()

# Behind TLS the browser takes the cookie from nobody else, such as a neighbour under the same
# domain (RFC 6265bis, __Host-).
COOKIE, COOKIE_OVER_TLS = 'desk', '__Host-desk'
COOKIE_BELOW_A_PATH = '__Secure-desk'  # a neighbour below another path is not sent it
LONGEST_SECRET = 64

NOT_TO_LOOK = Refusal(
    HTTPStatus.FORBIDDEN, 'out-of-scope', 'the token is not for looking at mail',
    'make one that is: python -m ops token create NAME --scope read,operate',
)  # fmt: skip


OTHER_TOKEN = Refusal(
    HTTPStatus.FORBIDDEN, 'other-token', 'this is not the token you logged in with',
    'give that one, or log out first',
)  # fmt: skip
CANNOT_CONFIRM = Refusal(
    HTTPStatus.FORBIDDEN, 'cannot-confirm',
    'a proxy names you, so nobody can be asked here again whether it is you',
    'do it in a terminal: `email-worker ops erase`, `email-worker ops export`',
)  # fmt: skip


class ConfirmationNeededError(Exception):
    """The person is to show again who it is."""


class LoginNeededError(Exception):
    """Nobody has logged in, and the page is for people who have."""


@dataclass(frozen=True, slots=True)
class DeskDoor:
    """Tells who a visitor is.

    Attributes:
        access: Knows the API's tokens, and who was refused too often.
        provider: Who asks people who they are, besides tokens.
        place: Where people reach the desk.
    """

    servers: Servers
    access: Access
    sessions: KnownSessions
    proxy: TrustedProxy = NO_PROXY
    provider: IdentityProvider | None = None
    place: PublicPlace = NOWHERE

    async def visitor(self, request: Request) -> Visitor:
        """Return who asks for a page.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        secret = cookie_of(request)
        named = self.proxy.named_by(request)
        if named is not None:
            return Visitor(named, secret or new_secret(), is_new=secret is None, by_proxy=True)
        if secret is None:
            return Visitor(None, new_secret(), is_new=True)
        session = await self.sessions.find(secret)
        if session is None:
            return Visitor(None, secret)
        principal = Principal(
            session.name, session.scopes, session.organization_id, session.token_id,
            self.proxy.address_of(request),
        )  # fmt: skip
        return Visitor(principal, secret, confirmed_at=session.confirmed_at)

    async def visitor_or_nobody(self, request: Request) -> Visitor:
        """Return who asks for a page that also shows what is away: nobody, when it is PostgreSQL.

        Its cookie stays, for when PostgreSQL is back.
        """
        try:
            return await self.visitor(request)
        except ProblemError:
            return Visitor(None, cookie_of(request) or new_secret())

    async def log_in(self, request: Request, token: str) -> str:
        """Open a session for who has this token. Returns what the cookie is to hold.

        Raises:
            RefusalError: 401, 403 or 429 for who was refused too often.
            ProblemError: PostgreSQL does not answer.
        """
        address = self.proxy.address_of(request)
        principal = await self.access.identify(f'Bearer {token.strip()}', address)
        if not Visitor(principal, '').may(Role.LOOK) or principal.token_id is None:
            raise RefusalError(NOT_TO_LOOK)
        who = Actor(principal.name, address, principal.token_id)
        return await self._open(who, principal.token_id)

    async def let_in(self, request: Request, person: NamedPerson) -> str:
        """Open a session for whom the provider names. Returns what the cookie is to hold.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        return await self._open(Actor(person.name, self.proxy.address_of(request)), person)

    async def _open(self, who: Actor, of: int | NamedPerson) -> str:
        details = {} if isinstance(of, int) else {'scopes': list(of.scopes)}
        async with audited(self.servers, who, 'desk.login', details):
            secret = await self.sessions.open(of, who.origin)
        log.info('web.logged_in', actor=who.name, address=who.origin)
        return secret

    def address(self, request: Request, path: str) -> str:
        """Return a path of ours as other sites are told it."""
        return f'{self.place.origin}{root_of(request.scope)}{path}'

    async def confirm(self, request: Request, visitor: Visitor, token: str) -> None:
        """Note that a visitor has shown again that the session is his, by its token.

        Raises:
            RefusalError: 401, 403 or 429; ProblemError: PostgreSQL does not answer.
        """
        address = self.proxy.address_of(request)
        principal = await self.access.identify(f'Bearer {token.strip()}', address)
        known = visitor.principal
        if known is None or known.token_id is None or principal.token_id != known.token_id:
            raise RefusalError(OTHER_TOKEN)
        await self.sessions.confirm(visitor.secret)

    async def log_out(self, visitor: Visitor) -> None:
        """End the visitor's session.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        await self.sessions.close(visitor.secret)


def cookie_of(request: Request) -> str | None:
    """Return what the desk's cookie holds."""
    over_tls = request.cookies.get(_secure_cookie(request))
    held = over_tls or request.cookies.get(COOKIE)
    return held if held and len(held) <= LONGEST_SECRET else None


def set_cookie(request: Request, response: Response, secret: str) -> None:
    """Give the browser the cookie: no script reads it, and no form of another site sends it.

    Lax and not Strict: a link in an alert opens the page, and no GET changes anything.
    """
    over_tls = is_over_tls(request)
    response.set_cookie(
        _secure_cookie(request) if over_tls else COOKIE, secret, max_age=SESSION_S,
        path=_cookie_path(request),
        secure=over_tls, httponly=True, samesite='lax',
    )  # fmt: skip


def forget_cookie(request: Request, response: Response) -> None:
    """Have the browser forget it."""
    for name, secure in ((COOKIE, False), (_secure_cookie(request), True)):
        response.delete_cookie(
            name, path=_cookie_path(request), secure=secure, httponly=True, samesite='lax'
        )


def _secure_cookie(request: Request) -> str:
    return COOKIE_BELOW_A_PATH if root_of(request.scope) else COOKIE_OVER_TLS


def _cookie_path(request: Request) -> str:
    return root_of(request.scope) or '/'


def is_over_tls(request: Request) -> bool:
    """Whether the browser speaks TLS: a form's Origin tells, also through a proxy."""
    origin = request.headers.get('origin', '')
    return request.url.scheme == 'https' or urlsplit(origin).scheme == 'https'
