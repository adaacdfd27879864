"""The paths. All of them only read, and none waits longer than the deadline of the watch."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Response
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp

from reporting.problems import Problem
from reporting.wording import as_json
from web.access import Guard
from web.metrics import CONTENT_TYPE, exposition
from web.overview import STYLE_HASH, as_status, render_overview
from web.watch import Source, Watch

READ = ['GET', 'HEAD']


def make_application(
    watch: Watch, readiness: Watch, *, token: str | None, loopback_only: bool
) -> ASGIApp:
    """Return the application.

    Args:
        watch: Asks web.questions.OVERVIEW.
        readiness: Asks web.questions.READINESS, on connections of its own: a slow count makes
            nobody unready.
        token: see web.access.Guard, as loopback_only.
    """
    # No pages of documentation: they load scripts from elsewhere.
    app = FastAPI(
        title='e-mail workers',
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )

    @app.api_route('/', methods=READ)
    async def overview() -> Response:
        return HTMLResponse(render_overview(await watch.look()))

    @app.api_route('/metrics', methods=READ)
    async def metrics() -> Response:
        return Response(
            exposition(await watch.look()), media_type=None, headers={'Content-Type': CONTENT_TYPE}
        )

    @app.api_route('/api/status', methods=READ)
    async def status() -> Response:
        return Response(as_json(as_status(await watch.look())), media_type='application/json')

    @app.api_route('/health/live', methods=READ)
    async def live() -> Response:
        return PlainTextResponse('alive\n')

    @app.api_route('/health/ready', methods=READ)
    async def ready() -> Response:
        return _readiness((await readiness.look()).problems)

    return Guard(app, token=token, loopback_only=loopback_only, style=STYLE_HASH)


def _readiness(problems: Mapping[Source, Problem]) -> Response:
    if not problems:
        return PlainTextResponse('ready\n')
    lines = [f'{source.value}: {problems[source].line}' for source in Source if source in problems]
    return PlainTextResponse('\n'.join([*lines, '']), HTTPStatus.SERVICE_UNAVAILABLE)
