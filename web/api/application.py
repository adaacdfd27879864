"""The API put together: what its handlers get, how errors are told, which paths there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from actions.retry import RetryTerms
from reporting.problems import ProblemError
from reporting.servers import Servers
from web.access import is_api_path
from web.api.access import Access
from web.api.problem import Form, RefusalError, problem_response, refusal_of

LARGEST_BODY_BYTES = 64 * 1024  # where a route does not say another limit

# Whoever asks below one of these paths knows the errors of another API: path -> how they are told.
FORMS: Mapping[str, Form] = {}


@dataclass(slots=True)
class Api:
    """What handlers get, as request.app.state.api.

    Attributes:
        servers: PostgreSQL for reading and writing, and arq's client: ask_postgres, ask_redis.
        terms: How e-mails are sent again.
    """

    servers: Servers
    terms: RetryTerms
    access: Access = field(init=False)

    def __post_init__(self) -> None:
        self.access = Access(self.servers)

    async def close(self) -> None:
        """Close what was opened."""
        await self.access.tokens.close()
        await self.servers.close()


def api_of(request: Request) -> Api:
    """Return the parts; a dependency of FastAPI."""
    api: Api = request.app.state.api
    return api


def add_api(app: FastAPI, api: Api) -> None:
    """Give an application the paths of the API and its way to tell errors."""
    app.state.api = api
    for error in (RefusalError, RequestValidationError, ProblemError, HTTPException, Exception):
        app.add_exception_handler(error, _tell)


def _form_for(path: str) -> Form:
    return next((form for prefix, form in FORMS.items() if path.startswith(prefix)),
                problem_response)  # fmt: skip


# An error that nobody foresaw is raised again by starlette after this, and logged by uvicorn.
async def _tell(request: Request, error: Exception) -> Response:
    path = request.url.path
    refusal = refusal_of(error)
    if not is_api_path(path):  # the page's own
        return PlainTextResponse(
            f'{refusal.status.phrase}\n', refusal.status, dict(refusal.headers)
        )
    return _form_for(path)(refusal)
