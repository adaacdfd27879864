"""The paths of Resend's e-mail API."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from actions.audit import audited
from actions.cancel import cancel_ids
from actions.tokens import ApiScope, token_named
from db.queued_emails import Whose, list_queued, own_status, read_queued, reschedule
from mail_outbox.address_fields import Sender
from reporting.problems import Document
from reporting.servers import Servers
from web.api.access import Principal, authorize
from web.api.decisions import actor_of
from web.api.problem import phrase_of
from web.api.resend.answers import email_document
from web.api.resend.body import MAX_BYTES
from web.api.resend.model import moment_from
from web.api.resend.refusals import INVALID, INVALID_PARAMETER, UNKNOWN, refused
from web.api.resend.schemas import (
    BATCH,
    MOMENT,
    ONE_EMAIL,
    ChangedEmail,
    ClientError,
    EmailList,
    SentBatch,
    SentEmail,
    ShownEmail,
)
from web.api.resend.sending import Sending

T = TypeVar('T')

MOST_LISTED, LISTED = 100, 20
LONGEST_ID = 18  # digits: what a bigint takes

# Whoever may send sees what has become of it: Resend's clients have one token for both.
SENDS: dict[str, Any] = {'security': [{'HTTPBearer': []}]}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {'model': ClientError, 'description': phrase_of(status)}
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
}
IDEMPOTENCY = {
    'name': 'Idempotency-Key', 'in': 'header', 'required': False,
    'schema': {'type': 'string', 'minLength': 1, 'maxLength': 256},
    'description': 'The same key with the same body gets the first answer again, for 24 hours.',
}  # fmt: skip
VALIDATION = {
    'name': 'x-batch-validation', 'in': 'header', 'required': False,
    'schema': {'type': 'string', 'enum': ['strict', 'permissive']},
    'description': 'permissive: those that are sound are queued, the others are listed.',
}  # fmt: skip

# Only described: what does not fit is refused in the words of Resend.
ID: dict[str, Any] = {'json_schema_extra': {'pattern': f'^[0-9]{{1,{LONGEST_ID}}}$'}}
OwnId = Annotated[str, Path(description='As it was answered.', **ID)]

router = APIRouter(tags=['Sending'], responses=REFUSALS)


@router.post(
    '/emails', response_model=SentEmail, max_body_size=MAX_BYTES,
    operation_id='send_email', openapi_extra=SENDS | ONE_EMAIL | {'parameters': [IDEMPOTENCY]},
)  # fmt: skip
async def send_one(request: Request) -> Response:
    """Queue one e-mail."""
    principal = await authorize(request, ApiScope.SEND)
    return _json(await _sending(request).send(request, principal))


@router.post(
    '/emails/batch', response_model=SentBatch, max_body_size=MAX_BYTES,
    operation_id='send_batch',
    openapi_extra=SENDS | BATCH | {'parameters': [IDEMPOTENCY, VALIDATION]},
)  # fmt: skip
async def send_batch(request: Request) -> Response:
    """Queue up to 100 e-mails at once: all of them, or none."""
    principal = await authorize(request, ApiScope.SEND)
    return _json(await _sending(request).send_batch(request, principal))


@router.get(
    '/emails', response_model=EmailList, operation_id='list_sent_emails', openapi_extra=SENDS
)
async def list_sent(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = LISTED,
    after: Annotated[str | None, Query(description='An id: those queued before it.', **ID)] = None,
    before: Annotated[str | None, Query(description='An id: those queued after it.', **ID)] = None,
) -> Response:
    """List e-mails, the newest first."""
    principal = await authorize(request, ApiScope.SEND)
    if after is not None and before is not None:
        raise refused(INVALID, '`after` and `before` are given both', 'give one of them')
    asking = partial(
        list_queued,
        whose=_seen_by(principal),
        limit=limit,
        older_than=None if after is None else _id_of(after, 'after'),
        newer_than=None if before is None else _id_of(before, 'before'),
    )
    rows, has_more = await _servers(request).ask_postgres(asking)
    found = []
    for row in rows:
        found.append(_document(request, principal, row))
        await asyncio.sleep(0)  # an address list may be long
    return _json({'object': 'list', 'has_more': has_more, 'data': found})


@router.get(
    '/emails/{email_id}',
    response_model=ShownEmail,
    operation_id='show_sent_email',
    openapi_extra=SENDS,
)
async def show_email(request: Request, email_id: OwnId) -> Response:
    """Show one e-mail and what has become of it."""
    principal = await authorize(request, ApiScope.SEND)
    wanted = _id_of(email_id, 'id')
    row = await _found(read_queued, _servers(request), wanted, _seen_by(principal))
    return _json(_document(request, principal, row))


@router.patch(
    '/emails/{email_id}',
    response_model=ChangedEmail,
    operation_id='reschedule_email',
    openapi_extra=SENDS | MOMENT,
)
async def reschedule_email(request: Request, email_id: OwnId) -> Response:
    """Have an e-mail that was not tried yet sent at another time."""
    principal = await authorize(request, ApiScope.SEND)
    _id_of(email_id, 'id')  # refused first
    async with _sending(request).bodies.read(request, principal.owner) as body:
        moment = moment_from(body.document)
    servers = _servers(request)

    async def change(own_id: int) -> bool:
        changing = partial(
            reschedule,
            email_id=own_id,
            whose=_changed_by(principal),
            moment=moment,
        )
        return await servers.ask_postgres(changing)

    asked = {'scheduled_at': moment.isoformat()}
    return await _changed(request, principal, email_id, 'email.reschedule', change, asked)


@router.post(
    '/emails/{email_id}/cancel',
    response_model=ChangedEmail,
    operation_id='cancel_sent_email',
    openapi_extra=SENDS,
)
async def cancel_email(request: Request, email_id: OwnId) -> Response:
    """Cancel an e-mail that was not sent yet."""
    principal = await authorize(request, ApiScope.SEND)
    servers = _servers(request)

    async def cancel(own_id: int) -> bool:
        return bool((await cancel_ids(servers, [own_id])).cancelled)

    return await _changed(request, principal, email_id, 'email.cancel', cancel, {})


async def _changed(
    request: Request,
    principal: Principal,
    email_id: str,
    action: str,
    change: Callable[[int], Awaitable[bool]],
    asked: Mapping[str, str],
) -> Response:
    wanted, servers = _id_of(email_id, 'id'), _servers(request)
    whose = _changed_by(principal)
    await _found(own_status, servers, wanted, whose)  # else there is nothing to write down
    async with audited(servers, actor_of(principal), action, {'id': wanted, **asked}) as entry:
        if await change(wanted):
            entry.email_ids = [wanted]
    if not entry.email_ids:
        status = await _found(own_status, servers, wanted, whose)
        raise refused(
            INVALID, f'e-mail {wanted} is {status}',
            'only one that waits can be changed: look at it with GET /emails/{id}',
        )  # fmt: skip
    return _json({'object': 'email', 'id': str(wanted)})


async def _found(
    read: Callable[..., Awaitable[T | None]], servers: Servers, email_id: int, whose: Whose
) -> T:
    """Return what `read` says of an e-mail of these.

    Raises:
        RefusalError: there is none.
    """
    reading = partial(read, email_id=email_id, whose=whose)
    found = await servers.ask_postgres(reading)
    if found is None:
        raise refused(UNKNOWN, 'Email not found', 'look for the id', HTTPStatus.NOT_FOUND)
    return found


def _seen_by(principal: Principal) -> Whose:
    """Return whose e-mails he may look at: who may only send, at those of tokens of this name."""
    may_read = ApiScope.READ in principal.scopes
    return Whose(principal.organization_id, None if may_read else token_named(principal.name))


def _changed_by(principal: Principal) -> Whose:
    """Return whose e-mails he may reschedule and cancel."""
    may_operate = ApiScope.OPERATE in principal.scopes
    return Whose(principal.organization_id, None if may_operate else token_named(principal.name))


def _id_of(text: str, name: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= LONGEST_ID:
        return int(text)
    if text == 'batch':  # another path, which takes POST alone
        raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED)
    raise refused(
        INVALID_PARAMETER,
        f'`{name}` is {text[:80]!r}',
        'give the id of an e-mail: a number as text',
    )


def _sending(request: Request) -> Sending:
    sending: Sending = request.app.state.api.sending
    return sending


def _document(request: Request, principal: Principal, row: Document) -> Document:
    """Return an e-mail as its client sees it: what it says, only with the scope to read."""
    sender: Sender = request.app.state.api.sender
    default_from = f'{sender.name} <{sender.address}>' if sender.name else sender.address
    return email_document(row, default_from, with_content=ApiScope.READ in principal.scopes)


def _servers(request: Request) -> Servers:
    servers: Servers = request.app.state.api.servers
    return servers


def _json(content: str | Mapping[str, Any]) -> Response:
    data = content if isinstance(content, str) else orjson.dumps(content)
    return Response(data, media_type='application/json')
