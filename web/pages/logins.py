"""Log in with a token, show again who one is, and log out."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import Response

from web.api.problem import Refusal, RefusalError
from web.auth.door import CANNOT_CONFIRM, forget_cookie, set_cookie
from web.auth.forms import read_form
from web.auth.people import Visitor
from web.pages.desk import desk_of, page, person, see_other

router = APIRouter(include_in_schema=False)

LONGEST_PATH = 2000


def safe_path(path: str) -> str:
    """Return a path of ours to go on to; another site's address becomes the overview."""
    is_ours = path.startswith('/') and not path.startswith(('//', '/\\')) and path.isprintable()
    return path if is_ours and len(path) <= LONGEST_PATH else '/'


@router.get('/login')
async def login_page(request: Request) -> Response:
    """Ask for a token."""
    visitor = await desk_of(request).door.visitor(request)
    goes_on = safe_path(request.query_params.get('next', '/'))
    if visitor.principal is not None:
        return see_other(request, goes_on)
    return await ask_for_login(request, visitor, goes_on)


async def ask_for_login(
    request: Request, visitor: Visitor, goes_on: str, refusal: Refusal | None = None
) -> Response:
    """Show the page on which one logs in, and why one is not."""
    status = refusal.status if refusal else HTTPStatus.OK
    provider, out = desk_of(request).door.provider, None
    if provider is not None and 'out' in request.query_params:
        out = await provider.logout_url(desk_of(request).door.address(request, '/login'))
    return await page(
        request, visitor, 'login.html', status=status, goes_on=goes_on, refusal=refusal,
        provider=provider and provider.name, out=out,
    )  # fmt: skip


@router.post('/login')
async def log_in(request: Request) -> Response:
    """Open a session, and go on to where the visitor wanted to go."""
    door = desk_of(request).door
    visitor = await door.visitor(request)
    form = await read_form(request, visitor)
    goes_on = safe_path(form.one('next', '/'))
    try:
        secret = await door.log_in(request, form.one('token'))
    except RefusalError as error:
        return await ask_for_login(request, visitor, goes_on, error.refusal)
    response = see_other(request, goes_on)
    set_cookie(request, response, secret)
    return response


@router.get('/confirm')
async def confirm_page(request: Request) -> Response:
    """Ask again who it is, before what cannot be taken back."""
    visitor = await person(request)
    if visitor.by_proxy:
        raise RefusalError(CANNOT_CONFIRM)
    return await _ask_again(request, visitor, safe_path(request.query_params.get('next', '/')))


async def _ask_again(
    request: Request, visitor: Visitor, goes_on: str, refusal: Refusal | None = None
) -> Response:
    status = refusal.status if refusal else HTTPStatus.OK
    return await page(
        request, visitor, 'confirm.html', status=status, goes_on=goes_on, refusal=refusal,
        has_token=visitor.principal is not None and visitor.principal.token_id is not None,
    )  # fmt: skip


@router.post('/confirm')
async def confirm_person(request: Request) -> Response:
    """Note that it is the person, and go on."""
    visitor = await person(request)
    form = await read_form(request, visitor)
    goes_on = safe_path(form.one('next', '/'))
    try:
        await desk_of(request).door.confirm(request, visitor, form.one('token'))
    except RefusalError as error:
        return await _ask_again(request, visitor, goes_on, error.refusal)
    return see_other(request, goes_on)


@router.post('/logout')
async def log_out(request: Request) -> Response:
    """End the session."""
    door = desk_of(request).door
    visitor = await door.visitor(request)
    await read_form(request, visitor)
    await door.log_out(visitor)
    is_named = visitor.principal is not None and visitor.principal.token_id is None
    response = see_other(request, '/login?out=1' if is_named else '/login')
    forget_cookie(request, response)
    return response
