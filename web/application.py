"""The desk, the API, and what machines ask: metrics, health and the status."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI, Response
from starlette.responses import PlainTextResponse

from reporting.problems import Problem
from reporting.wording import as_json
from web.access import Guard
from web.api.application import Application, add_api
from web.api.parts import Api
from web.auth.door import DeskDoor
from web.auth.provider import IdentityProvider
from web.auth.proxy import NO_PROXY, TrustedProxy
from web.auth.sessions import KnownSessions
from web.hooks.routes import Hooks, add_hooks
from web.metrics import CONTENT_TYPE, exposition
from web.overview import as_status
from web.pages.application import add_desk
from web.pages.desk import Desk
from web.place import NOWHERE, PublicPlace
from web.watch import Source, Watch

READ = ['GET', 'HEAD']


def make_application(
    watch: Watch,
    readiness: Watch,
    *,
    token: str | None,
    loopback_only: bool,
    api: Api,
    proxy: TrustedProxy = NO_PROXY,
    hooks: Hooks | None = None,
    place: PublicPlace = NOWHERE,
    provider: IdentityProvider | None = None,
) -> Guard:
    """Return the application; close_desk ends what the desk has under way.

    Args:
        watch: Asks web.questions.OVERVIEW.
        readiness: Asks web.questions.READINESS, on connections of its own: a slow count makes
            nobody unready.
        token: see web.access.Guard, as loopback_only.
        api: What the API and the desk work with.
        proxy: Whose word about people counts.
        hooks: What providers call; None: nothing.
        place: Where people reach it.
        provider: Who asks people who they are; None: they log in with tokens alone.
    """
    app = Application()
    if hooks is not None:
        add_hooks(app, hooks)
    _add_machines_paths(app, watch, readiness, is_open=token is None)
    add_api(app, api)
    door = DeskDoor(api.servers, api.access, KnownSessions(api.servers), proxy, provider, place)
    add_desk(app, api, watch, door)
    return Guard(app, token=token, loopback_only=loopback_only, proxy=proxy, place=place)


async def close_desk(app: Guard) -> None:
    """End the desk's streams at once, and let its changes end."""
    desk: Desk = app.app.state.desk
    await desk.close()


def _add_machines_paths(app: FastAPI, watch: Watch, readiness: Watch, *, is_open: bool) -> None:
    page = partial(app.api_route, methods=READ, include_in_schema=False)

    @page('/metrics')
    async def metrics() -> Response:
        return Response(
            exposition(await watch.look()), media_type=None, headers={'Content-Type': CONTENT_TYPE}
        )

    @page('/api/status')
    async def status() -> Response:
        return Response(as_json(as_status(await watch.look())), media_type='application/json')

    @page('/health/live')
    async def live() -> Response:
        return PlainTextResponse('alive\n')

    @page('/health/ready')
    async def ready() -> Response:
        return _readiness((await readiness.look()).problems, is_open=is_open)


def _readiness(problems: Mapping[Source, Problem], *, is_open: bool) -> Response:
    """Say who is away.

    Args:
        is_open: Everybody who reaches the page may see everything; else, as nobody needs a token
            here, it does not say where the servers are.
    """
    if not problems:
        return PlainTextResponse('ready\n')
    lines = [
        f'{source.value}: {problems[source].line if is_open else "not ready"}'
        for source in Source
        if source in problems
    ]
    return PlainTextResponse('\n'.join([*lines, '']), HTTPStatus.SERVICE_UNAVAILABLE)
