"""Refusals of the API, and how they are told: RFC 9457 problem details.

Whatever goes wrong becomes a Refusal first. Which form it is told in depends on the path: a client
of another API than ours (web.api.application.FORMS) gets the errors that it knows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from actions.safety import MoreThanExpectedError, RequestError
from reporting.problems import Problem, ProblemError

PROBLEM_TYPE = 'application/problem+json'
KIND_PREFIX = 'urn:arq-mail-worker:problem:'
MOST_FAULTS = 20
LONGEST_WORD = 200  # of a name that a client chose, shown again


@dataclass(frozen=True, slots=True)
class Fault:
    """One field of a request that is wrong."""

    field: str  # such as query.limit, or body.filter.status
    detail: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered as asked.

    Attributes:
        kind: Its name in docs/api.md, such as not-retryable.
        remedy: What the client, or an operator, can do.
    """

    status: HTTPStatus
    kind: str
    detail: str
    remedy: str
    faults: tuple[Fault, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """A handler refuses."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


Form = Callable[[Refusal], Response]  # how a refusal is told


class ProblemFault(BaseModel):
    """A field that is wrong."""

    field: str = Field(description='Where it is: query.limit, path.email_id, body.filter.status.')
    detail: str


class ProblemDetails(BaseModel):
    """RFC 9457, with `remedy` and `errors` beside its own members."""

    type: str = Field(description='Stays the same for one kind of problem; see docs/api.md.')
    title: str
    status: int
    detail: str
    remedy: str = Field(description='What to do.')
    errors: list[ProblemFault] = Field(default=[], description='The fields that are wrong.')


# Python 3.13 calls these by other names; what clients read stays the same.
RENAMED = {413: 'Request Entity Too Large', 422: 'Unprocessable Entity'}


def phrase_of(status: int) -> str:
    """Return what a status is called."""
    return RENAMED.get(status) or HTTPStatus(status).phrase


def problem_response(refusal: Refusal) -> Response:
    """Tell a refusal as problem details."""
    document = {
        'type': f'{KIND_PREFIX}{refusal.kind}',
        'title': phrase_of(refusal.status),
        'status': refusal.status.value,
        'detail': refusal.detail,
        'remedy': refusal.remedy,
        'errors': [{'field': fault.field, 'detail': fault.detail} for fault in refusal.faults],
    }
    return JSONResponse(
        document, refusal.status, dict(refusal.headers) or None, media_type=PROBLEM_TYPE
    )


INTERNAL = Refusal(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    'internal',
    'a fault of this program',
    "look into the web server's log, and report it",
)

# Of starlette and FastAPI, which know nothing of remedies.
BY_STATUS: Mapping[int, tuple[str, str, str]] = {
    400: ('unreadable', 'the request cannot be read', 'send JSON in UTF-8'),
    404: ('no-such-path', 'there is no such path', 'see /openapi.json for those there are'),
    405: ('no-such-method', 'the path has no such method', 'see the header Allow'),
    408: ('too-slow-body', 'the body did not come in time', 'send it at once'),
    413: ('too-large', 'the body is too large', 'send less at once; docs/api.md has the limits'),
}


def refusal_of(error: Exception) -> Refusal:
    """Return what a client is told of an error; INTERNAL of one that nobody foresaw."""
    match error:
        case RefusalError():
            return error.refusal
        case RequestValidationError():
            return _invalid(error)
        case MoreThanExpectedError():
            return _told(HTTPStatus.CONFLICT, 'more-than-expected', error.problem)
        case RequestError():
            return _told(HTTPStatus.UNPROCESSABLE_ENTITY, 'invalid', error.problem)
        case ProblemError():
            return unavailable(error.problem)
        case HTTPException():
            return _of_status(error)
    return INTERNAL


def _told(status: HTTPStatus, kind: str, problem: Problem) -> Refusal:
    return Refusal(status, kind, problem.what, problem.remedy)


def unavailable(problem: Problem) -> Refusal:
    """Say that a server does not answer; where it is stays inside."""
    what = f'{problem.service}: {problem.what}' if problem.service else problem.what
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        'unavailable',
        ' '.join(what.split()),
        problem.remedy,
        headers={'Retry-After': '5'},
    )


def _of_status(error: HTTPException) -> Refusal:
    status = HTTPStatus(error.status_code)
    kind, detail, remedy = BY_STATUS.get(status, ('refused', phrase_of(status), 'see docs/api.md'))
    return Refusal(status, kind, detail, remedy, headers=error.headers or {})


def _invalid(error: RequestValidationError) -> Refusal:
    if error.errors() and error.errors()[0]['type'] == 'json_invalid':
        return _no_json(error.errors()[0])
    faults = tuple(
        Fault('.'.join(str(part)[:LONGEST_WORD] for part in fault['loc']), _words(fault))
        for fault in error.errors()[:MOST_FAULTS]
    )
    first = faults[0] if faults else Fault('body', 'it is missing')
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        'invalid',
        f'{first.field}: {first.detail}',
        'correct the fields in errors; /openapi.json says what each takes',
        faults,
    )


def _no_json(fault: Mapping[str, Any]) -> Refusal:
    kind, _, remedy = BY_STATUS[400]
    detail = f'the body is no JSON: {fault["ctx"]["error"]} at character {fault["loc"][-1]}'
    return Refusal(HTTPStatus.BAD_REQUEST, kind, detail, remedy)


# Where pydantic's words say little to who wrote the request.
_OBJECT = 'must be an object, sent with Content-Type: application/json'
_WORDS: Mapping[str, str] = {
    'extra_forbidden': 'there is no such field',
    'missing': 'it is missing',
    'model_attributes_type': _OBJECT,
    'model_type': _OBJECT,
    'string_pattern_mismatch': 'has characters that it may not have',
}


def _words(fault: Mapping[str, str]) -> str:
    return _WORDS.get(fault['type']) or fault['msg'].removeprefix('Value error, ')[:500]
