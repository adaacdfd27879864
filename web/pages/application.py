"""The desk put together: its paths, and how it tells errors to people."""

from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from mail.unsubscribe import PATH as UNSUBSCRIBE_PATH
from web.api.parts import Api
from web.api.problem import Refusal
from web.auth.door import ConfirmationNeededError, DeskDoor, LoginNeededError
from web.pages import (
    acts,
    attachments,
    audit,
    decisions,
    feedback,
    fleet,
    lists,
    logins,
    mail,
    oidc_login,
    one_mail,
    overview,
    personal,
    quotas,
    readdressing,
    static,
    templates,
    webhooks,
)
from web.pages.changes import Changes
from web.pages.desk import Desk, desk_of, page, see_other
from web.pages.trends import KnownTrends
from web.place import path_of
from web.watch import Watch

ROUTERS: tuple[APIRouter, ...] = (
    templates.router, static.router, overview.router, logins.router, oidc_login.router,
    mail.router, one_mail.router, attachments.router, feedback.router,
    readdressing.router, decisions.router, audit.router, fleet.router,
    lists.router, acts.router, webhooks.router, quotas.router, personal.router,
)  # fmt: skip


def add_desk(app: FastAPI, api: Api, watch: Watch, door: DeskDoor) -> None:
    """Give an application the desk's paths."""
    servers = api.servers
    app.state.desk = Desk(api, watch, door, Changes(servers), KnownTrends(servers))
    app.state.tell_person = tell_person
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(LoginNeededError, _lead_to_login)
    app.add_exception_handler(ConfirmationNeededError, _lead_to_confirmation)


async def _lead_to_login(request: Request, _: Exception) -> Response:
    path = path_of(request.scope)
    if request.url.query:
        path = f'{path}?{request.url.query}'
    # What was sent by a form is not sent again by itself.
    goes_on = path if request.method in {'GET', 'HEAD'} else '/'
    login = f'/login?next={quote(goes_on, safe="")}' if goes_on != '/' else '/login'
    return see_other(request, login)


async def _lead_to_confirmation(request: Request, _: Exception) -> Response:
    return see_other(request, f'/confirm?next={quote(path_of(request.scope), safe="")}')


async def tell_person(request: Request, refusal: Refusal) -> Response:
    """Tell a refusal as a page; to programs, which want no HTML, as text."""
    headers = dict(refusal.headers)
    # Who has a link of an e-mail knows nothing of a desk.
    is_public = path_of(request.scope).startswith(UNSUBSCRIBE_PATH)
    if is_public or 'text/html' not in request.headers.get('accept', ''):
        return PlainTextResponse(f'{refusal.status.phrase}\n', refusal.status, headers)
    visitor = await desk_of(request).door.visitor_or_nobody(request)
    response = await page(request, visitor, 'refusal.html', status=refusal.status, refusal=refusal)
    response.headers.update(headers)
    return response
