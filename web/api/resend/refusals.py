"""Refusals as Resend's API tells them: {"statusCode", "name", "message"}, with the names it has."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse, Response

from web.api.problem import Refusal, RefusalError

MISSING_FIELD = 'missing_required_field'
INVALID = 'validation_error'
INVALID_FROM = 'invalid_from_address'
INVALID_ATTACHMENT = 'invalid_attachment'
INVALID_PARAMETER = 'invalid_parameter'
INVALID_KEY = 'invalid_idempotency_key'
OTHER_BODY = 'invalid_idempotent_request'
SAME_TIME = 'concurrent_idempotent_requests'
UNKNOWN = 'not_found'
TOO_MANY = 'rate_limit_exceeded'
QUOTA = 'daily_quota_exceeded'

# Refusals of the frame: kind -> the status and the name that Resend's clients know.
KNOWN: Mapping[str, tuple[HTTPStatus, str]] = {
    'no-token': (HTTPStatus.UNAUTHORIZED, 'missing_api_key'),
    'unknown-token': (HTTPStatus.FORBIDDEN, 'invalid_api_key'),
    'out-of-scope': (HTTPStatus.UNAUTHORIZED, 'restricted_api_key'),
    'too-many-refusals': (HTTPStatus.TOO_MANY_REQUESTS, TOO_MANY),
    'no-such-path': (HTTPStatus.NOT_FOUND, UNKNOWN),
    'no-such-method': (HTTPStatus.METHOD_NOT_ALLOWED, 'method_not_allowed'),
    'too-slow-body': (HTTPStatus.REQUEST_TIMEOUT, INVALID),
    'too-large': (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, INVALID),
    'unreadable': (HTTPStatus.BAD_REQUEST, INVALID),
    'invalid': (HTTPStatus.UNPROCESSABLE_ENTITY, INVALID),
    'unavailable': (HTTPStatus.SERVICE_UNAVAILABLE, 'application_error'),
    'internal': (HTTPStatus.INTERNAL_SERVER_ERROR, 'internal_server_error'),
}


def refused(
    name: str,
    detail: str,
    remedy: str,
    status: HTTPStatus = HTTPStatus.UNPROCESSABLE_ENTITY,
    *,
    retry_after_s: int | None = None,
) -> RefusalError:
    """Return a refusal of ours to raise, under one of Resend's names."""
    headers = {} if retry_after_s is None else {'Retry-After': str(retry_after_s)}
    return RefusalError(Refusal(status, name, detail, remedy, headers=headers))


def as_resend_error(refusal: Refusal) -> Response:
    """Tell a refusal as Resend's clients expect it."""
    status, name = KNOWN.get(refusal.kind, (refusal.status, refusal.kind))
    document = {
        'statusCode': status.value,
        'name': name,
        'message': f'{refusal.detail}; {refusal.remedy}' if refusal.remedy else refusal.detail,
    }
    return JSONResponse(document, status, dict(refusal.headers) or None)
