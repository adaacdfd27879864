"""Answers of the API: documents as JSON, and the problems that every path may meet."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from reporting.problems import Document, Problem
from reporting.wording import as_json
from web.api.problem import ProblemDetails

OF_EVERY_PATH: Mapping[int, str] = {
    401: 'No token, or none that is in use.',
    403: 'The token is for something else.',
    422: 'A field is wrong; `errors` names it.',
    429: 'Too many refusals of this address.',
    503: 'PostgreSQL or Redis does not answer.',
}
OF_A_BODY: Mapping[int, str] = {
    400: 'The body is no JSON.',
    408: 'The body did not come in time.',
    413: 'The body is too large.',
}
OF_ONE_EMAIL: Mapping[int, str] = {404: 'There is no such e-mail, or it is not yours.'}


def refusals(*more: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return the problems a path may answer with, for /openapi.json."""
    told: dict[int, str] = dict(OF_EVERY_PATH)
    for each in more:
        told |= each
    return {
        status: {'model': ProblemDetails, 'description': description}
        for status, description in sorted(told.items())
    }


def json_answer(document: Document, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a document that may hold what came from outside: relays' words, subjects."""
    return Response(as_json(document, None), status, media_type='application/json')


def told(problems: Iterable[Problem]) -> list[Document]:
    """Return problems for a document."""
    return [problem.as_document() for problem in problems]
