"""Log in by the OIDC provider: to it, and back from it."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from web.api.problem import Refusal, RefusalError
from web.auth.door import is_over_tls, set_cookie
from web.auth.people import Visitor
from web.auth.provider import BEGUN_S, IdentityProvider
from web.pages.desk import desk_of, see_other
from web.pages.logins import ask_for_login, safe_path
from web.place import root_of

router = APIRouter(include_in_schema=False)

BACK = '/login/oidc/back'
BEGUN_COOKIE = 'desk-login'
LONGEST_GOAL = 1000  # of the page to go on to: the cookie holds it
LONGEST_ANSWER = 4000
NO_PROVIDER = Refusal(
    HTTPStatus.NOT_FOUND, 'no-provider', 'people log in with tokens here', 'see /login'
)
NOT_BEGUN = Refusal(
    HTTPStatus.FORBIDDEN, 'not-begun', 'this browser did not begin this log-in, or long ago',
    'log in again',
)  # fmt: skip


def _provider(request: Request) -> IdentityProvider:
    provider = desk_of(request).door.provider
    if provider is None:
        raise RefusalError(NO_PROVIDER)
    return provider


@router.get('/login/oidc')
async def to_provider(request: Request) -> Response:
    """Send the browser to the provider; again=1: who is logged in is asked anew."""
    provider, door = _provider(request), desk_of(request).door
    visitor = await door.visitor_or_nobody(request)
    goes_on = safe_path(request.query_params.get('next', '/'))
    goes_on = goes_on if len(goes_on) <= LONGEST_GOAL else '/'
    again = visitor.principal.name if 'again' in request.query_params and visitor.principal else ''
    try:
        url, begun = await provider.begin(door.address(request, BACK), goes_on, again=again)
    except RefusalError as error:
        return await ask_for_login(request, visitor, goes_on, error.refusal)
    response = RedirectResponse(url, HTTPStatus.SEE_OTHER)
    response.set_cookie(
        BEGUN_COOKIE, provider.seal(begun), max_age=BEGUN_S, path=_path(request),
        secure=is_over_tls(request), httponly=True, samesite='lax',
    )  # fmt: skip
    return response


@router.get(BACK)
async def from_provider(request: Request) -> Response:
    """Let in whom the provider names, if this browser began it."""
    provider, door = _provider(request), desk_of(request).door
    visitor = await door.visitor_or_nobody(request)
    answer = {name: value[:LONGEST_ANSWER] for name, value in request.query_params.items()}
    begun = provider.unseal(request.cookies.get(BEGUN_COOKIE, ''))
    if begun is None or answer.get('state') != begun.state:
        return await _outside(request, visitor, '/', NOT_BEGUN)
    try:
        person = await provider.finish(door.address(request, BACK), answer, begun)
    except RefusalError as error:
        return await _outside(request, visitor, begun.goes_on, error.refusal)
    secret = await door.let_in(request, person)
    response = see_other(request, begun.goes_on)
    set_cookie(request, response, secret)
    response.delete_cookie(BEGUN_COOKIE, path=_path(request))
    return response


async def _outside(request: Request, visitor: Visitor, goes_on: str, refusal: Refusal) -> Response:
    response = await ask_for_login(request, visitor, goes_on, refusal)
    response.delete_cookie(BEGUN_COOKIE, path=_path(request))
    return response


def _path(request: Request) -> str:
    return f'{root_of(request.scope)}/login/oidc'
