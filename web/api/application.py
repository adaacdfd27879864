"""The API put together: its paths, how errors are told, and its description."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from reporting.problems import ProblemError
from web.access import is_api_path
from web.api import decisions, emails, fleet, many, quotas, suppressions, templates, webhooks
from web.api.parts import Api
from web.api.problem import (
    INTERNAL,
    PROBLEM_TYPE,
    Form,
    RefusalError,
    problem_response,
    refusal_of,
)
from web.api.resend import routes as resend
from web.api.resend.refusals import as_resend_error
from web.place import path_of

LARGEST_BODY_BYTES = 64 * 1024  # where a route does not say another limit
BODY_WITHIN_S = 10.0
VERSION = '1.0.0'  # of what /openapi.json describes, not of the program

# `many` first: /api/emails/retry is no e-mail called retry.
ROUTERS: tuple[APIRouter, ...] = (
    resend.router, many.router, emails.router, decisions.router, fleet.router,
    webhooks.router,
    quotas.router, suppressions.router,
    templates.router,
)  # fmt: skip

# Whoever asks below one of these paths knows the errors of another API: path -> how they are told.
FORMS: Mapping[str, Form] = {'/emails': as_resend_error}


Handler = Callable[[Request], Awaitable[Response]]
DIRECTLY: Mapping[tuple[str, str], Handler] = {
    ('POST', '/emails'): resend.send_one,
    ('POST', '/emails/batch'): resend.send_batch,
}


class Application(FastAPI):
    """FastAPI's, with the page's paths beside the API's."""

    def __init__(self) -> None:
        # No pages of documentation: they load scripts from elsewhere.
        super().__init__(
            title='e-mail workers',
            version=VERSION,
            openapi_url='/openapi.json',
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            max_body_size=LARGEST_BODY_BYTES,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; a body that is too large by its own word is told in the path's form.

        starlette answers it in plain text, whatever the handlers of errors say.
        """
        handler = scope['type'] == 'http' and DIRECTLY.get((scope['method'], path_of(scope)))
        if handler:
            await self._answer_directly(handler, scope, receive, send)
            return
        is_retold = False

        async def send_told(message: Message) -> None:
            nonlocal is_retold
            if _is_plain_too_large(message):
                is_retold = True
                refusal = refusal_of(HTTPException(413))
                await _form_for(path_of(scope))(refusal)(scope, receive, send)
            elif not is_retold:
                await send(message)

        is_ours = scope['type'] == 'http' and is_api_path(path_of(scope))
        in_time = _in_time(receive) if scope['type'] == 'http' else receive
        await super().__call__(scope, in_time, send_told if is_ours else send)

    async def _answer_directly(
        self, handler: Handler, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer without FastAPI's way to the handler, a third of what queueing costs (2026-11)."""
        scope['app'] = self
        request = Request(scope, receive)
        try:
            response = await handler(request)
        except Exception as error:
            response = await _tell(request, error)
            if refusal_of(error) is INTERNAL:  # uvicorn logs it
                await response(scope, receive, send)
                raise
        await response(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Describe the API; errors of ours have a media type of their own."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, operations in document['paths'].items():
                if _form_for(path) is problem_response:
                    for operation in operations.values():
                        _mark_problems(operation)
        return super().openapi()


def _in_time(receive: Receive) -> Receive:
    """Return how a body is received that has to come within BODY_WITHIN_S."""
    is_complete = False
    deadline = asyncio.get_running_loop().time() + BODY_WITHIN_S

    async def receive_in_time() -> Message:
        nonlocal is_complete
        if is_complete:  # whoever asks now wants to know when the client goes
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT) from error
        is_complete = not message.get('more_body', False)
        return message

    return receive_in_time


def _is_plain_too_large(message: Message) -> bool:
    return (
        message['type'] == 'http.response.start'
        and message['status'] == 413
        and Headers(raw=message['headers'])['content-type'].startswith('text/plain')
    )


def _mark_problems(operation: dict[str, Any]) -> None:
    for status, answer in operation['responses'].items():
        if status >= '400' and 'application/json' in answer.get('content', {}):
            answer['content'][PROBLEM_TYPE] = answer['content'].pop('application/json')


def add_api(app: FastAPI, api: Api) -> None:
    """Give an application the paths of the API and its way to tell errors."""
    app.state.api = api
    for router in ROUTERS:
        app.include_router(router)
    for error in (RefusalError, RequestValidationError, ProblemError, HTTPException, Exception):
        app.add_exception_handler(error, _tell)


def _form_for(path: str) -> Form:
    return next(
        (form for prefix, form in FORMS.items() if path.startswith(prefix)), problem_response
    )


def _methods_of(path: str) -> str:
    """Return what a path of the API takes; starlette knows only what its first route does."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    # /emails/batch is no e-mail called batch.
    matching = [route for route in routes if route.path == path] or [
        route for route in routes if route.path_regex.match(path)
    ]
    return ', '.join(sorted({method for route in matching for method in route.methods or ()}))


# An error that nobody foresaw is raised again by starlette after this, and logged by uvicorn.
async def _tell(request: Request, error: Exception) -> Response:
    path = path_of(request.scope)
    refusal = refusal_of(error)
    if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED and is_api_path(path):
        refusal = replace(refusal, headers={**refusal.headers, 'Allow': _methods_of(path)})
    if not is_api_path(path):
        if refusal.status == HTTPStatus.NOT_FOUND and 'authorization' in request.headers:
            return as_resend_error(refusal)  # a path of Resend's that is not here
        told: Response = await request.app.state.tell_person(request, refusal)
        return told
    return _form_for(path)(refusal)
