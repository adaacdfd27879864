"""An attachment of an e-mail, as a file; that somebody took it is in the audit."""

from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from actions.audit import audited
from db.attachments import fetch_stored
from mail_outbox.envelope import Attachment, ContentUnavailableError
from reporting.problems import Document, Problem, ProblemError
from web.api.problem import Refusal, RefusalError
from web.auth.people import Role
from web.pages.desk import Desk, actor, desk_of, person
from web.pages.one_mail import read_visible

router = APIRouter(include_in_schema=False)

NO_SUCH = Refusal(
    HTTPStatus.NOT_FOUND, 'no-such-attachment', 'the e-mail has no such attachment',
    'see its page; what was sent need not be kept',
)  # fmt: skip
# Whatever it is, the browser saves it: it never becomes a page of ours.
HEADERS = {'Content-Security-Policy': "sandbox; default-src 'none'"}
MEDIA_TYPE = 'application/octet-stream'


@router.get('/mail/{email_id:id}/attachments/{place:id}')
async def attachment_file(request: Request, email_id: int, place: int) -> Response:
    """Give one attachment; the first has the place 1."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    details = {'id': email_id, 'attachment': place}
    async with audited(desk.servers, actor(visitor), 'email.read', details) as entry:
        email = await read_visible(desk, visitor, email_id)
        entry.email_ids = [email_id]
        found = await _attachments(desk, email)
    if place > len(found):
        raise RefusalError(NO_SUCH)
    part = found[place - 1]
    name = part.filename or f'attachment-{place}'
    quoted = quote(name, safe='', errors='replace')
    headers = {'Content-Disposition': f"attachment; filename*=UTF-8''{quoted}"}
    return Response(part.data, media_type=MEDIA_TYPE, headers=HEADERS | headers)


async def _attachments(desk: Desk, email: Document) -> list[Attachment]:
    """Return them in the order of reporting.explain.read_attached.

    Raises:
        ProblemError: PostgreSQL or MongoDB does not answer.
    """
    found: list[Attachment] = []
    content_id = email['content_id']
    if content_id is not None:
        from db.mongo import fetch_attachments  # noqa: PLC0415 - see there

        async def fetch(mongo: Any) -> list[Attachment]:
            [parts] = await fetch_attachments(mongo, [content_id])
            return list(parts)

        try:
            found += await desk.servers.ask_mongo(fetch)
        except ContentUnavailableError as error:
            remedy = 'try again in a minute, and see whether MongoDB answers'
            raise ProblemError(Problem(str(error), remedy, 'MongoDB')) from error
    if email['has_attachments']:
        [stored] = await desk.servers.ask_postgres(partial(fetch_stored, email_ids=[email['id']]))
        found += stored
    return found
