"""The list of e-mails: find any, select some or all that fit, and decide about them."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import Response

from db.email_list import LAST_ID
from reporting.found_mail import FoundMail, find_emails
from reporting.mail_filter import STATE_WORDS
from reporting.problems import Problem, ProblemError
from web.auth.people import Visitor
from web.pages.desk import Desk, desk_of, page, person, see_other
from web.pages.mail_query import WITHIN, MailQuery
from web.pages.words import EFFECTS

router = APIRouter(include_in_schema=False)

ROWS = 50


@router.get('/mail')
async def mail_list(request: Request) -> Response:
    """Show the e-mails that fit, the newest first."""
    visitor, desk = await person(request), desk_of(request)
    query = MailQuery.of(request.query_params)
    if query.email_id is not None:
        return see_other(request, f'/mail/{query.email_id}')
    before = request.query_params.get('before', '')
    before_id = min(int(before), LAST_ID) if before.isascii() and before.isdigit() else LAST_ID
    found, problem = await _look(desk, visitor, query, before_id)
    more = found.next_before
    return await page(
        request, visitor, 'mail.html',
        status=HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE,
        query=query, emails=found.emails, problem=problem, is_whole=found.is_whole,
        looked_back_to=more,
        next_page=more and query.address(before=more),
        is_first=before_id == LAST_ID,
        states=STATE_WORDS, within=WITHIN, decisions=EFFECTS,
        types=await desk.email_types(),
    )  # fmt: skip


async def _look(
    desk: Desk, visitor: Visitor, query: MailQuery, before_id: int
) -> tuple[FoundMail, Problem | None]:
    if visitor.principal is None:
        return FoundMail([]), None
    conditions = query.conditions(visitor.principal)
    try:
        found = await find_emails(
            desk.servers, conditions, query.status, before_id=before_id, limit=ROWS
        )
    except ProblemError as error:
        return FoundMail([]), error.problem
    return found, None
