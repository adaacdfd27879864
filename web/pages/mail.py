"""The list of e-mails: find any, select some or all that fit, and decide about them."""

from functools import partial
from http import HTTPStatus

import asyncpg
from fastapi import APIRouter, Request
from starlette.responses import Response

from db.email_list import LAST_ID, list_emails
from reporting.mail_filter import make_selection
from reporting.problems import Document, Problem, ProblemError
from web.auth.people import Visitor
from web.pages.desk import Desk, desk_of, page, person, see_other
from web.pages.mail_query import STATES, WITHIN, MailQuery
from web.pages.words import EFFECTS

router = APIRouter(include_in_schema=False)

ROWS = 50
TOO_SLOW = Problem(
    'so few e-mails fit that too many had to be looked at',
    'narrow it down: a time, or a state that few are in',
)


@router.get('/mail')
async def mail_list(request: Request) -> Response:
    """Show the e-mails that fit, the newest first."""
    visitor, desk = await person(request), desk_of(request)
    query = MailQuery.of(request.query_params)
    if query.email_id is not None:
        return see_other(f'/mail/{query.email_id}')
    before = request.query_params.get('before', '')
    before_id = min(int(before), LAST_ID) if before.isascii() and before.isdigit() else LAST_ID
    emails, problem = await _look(desk, visitor, query, before_id)
    more = emails[ROWS - 1]['id'] if len(emails) > ROWS else None
    return await page(
        request, visitor, 'mail.html',
        status=HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE,
        query=query, emails=emails[:ROWS], problem=problem,
        next_page=more and query.address(before=more),
        is_first=before_id == LAST_ID,
        states=STATES, within=WITHIN, decisions=EFFECTS,
        types=await desk.email_types(),
    )  # fmt: skip


async def _look(
    desk: Desk, visitor: Visitor, query: MailQuery, before_id: int
) -> tuple[list[Document], Problem | None]:
    if visitor.principal is None:
        return [], None
    try:
        selection = await make_selection(
            desk.servers, query.conditions(visitor.principal),
            tuple(query.status) or None,
        )  # fmt: skip
        listing = partial(list_emails, selection=selection, before_id=before_id, limit=ROWS + 1)
        return await desk.servers.ask_postgres(listing), None
    except ProblemError as error:
        if isinstance(error.__cause__, asyncpg.QueryCanceledError):
            return [], TOO_SLOW
        return [], error.problem
