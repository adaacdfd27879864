"""One e-mail: its way, why it is as it is, what it says, and what can be done about it."""

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import Any

import asyncpg
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from actions.audit import audited
from actions.decide import DECISION_KINDS
from db import reports
from db.audit import read_audit
from db.email_list import LAST_ID
from db.feedback import read_feedback
from db.recipients import CORRECTABLE
from mail_outbox.states import Status
from reporting.explain import explain_email, read_attached
from reporting.problems import Document, Problem, ProblemError
from reporting.servers import answer_or_note
from web.api.emails import no_such, require_visible
from web.api.problem import RefusalError
from web.auth.people import Role, Visitor
from web.pages.desk import Desk, actor, desk_of, page, person
from web.pages.timeline import timeline
from web.pages.words import EFFECTS

router = APIRouter(include_in_schema=False)

MOST_ENTRIES = 50
# A message is shown in a frame of its own: no script runs, nothing is fetched from anywhere, and a
# link in it leads nowhere.
FRAME_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
# What the policy refuses to load in a frame, a browser has opened a connection for already
# (Chromium 156, 2026-11): so there are none.
FRAMES = re.compile('<(/?)(i?frame|frameset|object|embed|fencedframe|portal)', re.IGNORECASE)
FRAME_HEADERS = {'Content-Security-Policy': FRAME_POLICY, 'X-Frame-Options': 'SAMEORIGIN'}


async def read_visible(
    desk: Desk, visitor: Visitor, email_id: int, *, with_content: bool = False
) -> Document:
    """Return an e-mail that the visitor may see.

    Raises:
        RefusalError: 404; ProblemError: PostgreSQL does not answer.
    """
    if visitor.principal is None or not 0 < email_id <= LAST_ID:
        raise RefusalError(no_such(email_id))
    await require_visible(desk.servers, visitor.principal, email_id)
    reading = partial(reports.read_email, email_id=email_id, with_content=with_content)
    email = await desk.servers.ask_postgres(reading)
    if email is None:
        raise RefusalError(no_such(email_id))
    return email | {'is_final': _is_final(email)}


def _is_final(email: Document) -> bool:
    tried = email['status'] in {Status.FAILED, Status.UNCERTAIN}
    return tried and (email['next_retry_at'] is None or email['attempts'] >= email['max_attempts'])


@router.get('/mail/{email_id:id}')
async def mail_page(request: Request, email_id: int) -> Response:
    """Show everything about an e-mail but its content."""
    visitor, desk = await person(request), desk_of(request)
    email = await read_visible(desk, visitor, email_id)
    problems: list[Problem] = []
    attempts, attached, entries, reported, explained = await asyncio.gather(
        desk.servers.ask_postgres(partial(reports.read_attempts, email_id=email_id)),
        read_attached(desk.servers, email, problems),
        desk.servers.ask_postgres(partial(_entries, email_id=email_id)),
        desk.servers.ask_postgres(partial(read_feedback, email_id=email_id)),
        answer_or_note(explain_email(desk.servers, email_id), problems),
    )
    explanation, found = explained or (None, [])
    now = explanation['now'] if explanation else None
    return await page(
        request, visitor, 'one_mail.html',
        email=email, attempts=attempts, attached=attached, explanation=explanation,
        reports=reported, events=timeline(email, attempts, entries, now),
        problems=[*dict.fromkeys([*problems, *found])],
        outcomes=_outcomes(email),
        decisions=[
            (decision, EFFECTS[decision])
            for decision, kind in DECISION_KINDS.items()
            if kind.concerns(email['status'], is_final=email['is_final'])
            and not email['is_emptied']  # over for good
        ],
        is_correctable=email['status'] in CORRECTABLE and not email['is_emptied'],
        is_moving=email['status'] in {Status.SENDING, Status.PENDING},
    )  # fmt: skip


async def _entries(pool: asyncpg.Pool, email_id: int) -> list[Document]:
    return await read_audit(pool, email_id=email_id, limit=MOST_ENTRIES)


def _outcomes(email: Document) -> list[tuple[str, str, str]]:
    """Return each recipient with what became of it; who may write to the table may write more."""
    outcomes = email['recipient_outcomes']
    found = []
    for address, told in outcomes.items() if isinstance(outcomes, dict) else ():
        parts = told if isinstance(told, list) and told else [told]
        found.append((address, str(parts[0]), str(parts[1]) if len(parts) > 1 else ''))
    return found


@router.get('/mail/{email_id:id}/content')
async def content_page(request: Request, email_id: int) -> Response:
    """Show what an e-mail says; that somebody read it is written down: it may be a secret."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    async with audited(desk.servers, actor(visitor), 'email.read', {'id': email_id}) as entry:
        email = await read_visible(desk, visitor, email_id, with_content=True)
        entry.email_ids = [email_id]
    problems: list[Problem] = []
    template: Any = None
    if email['template_id'] is not None:
        reading = partial(
            reports.read_template, template_id=email['template_id'], with_content=True
        )
        template = await answer_or_note(desk.servers.ask_postgres(reading), problems)
    attached = await read_attached(desk.servers, email, problems)
    return await page(
        request, visitor, 'content.html', email=email, template=template, attached=attached,
        problems=problems,
    )  # fmt: skip


@router.get('/mail/{email_id:id}/html')
async def html_frame(request: Request, email_id: int) -> Response:
    """Give the HTML part by itself, for the frame of the content's page."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    try:
        email = await read_visible(desk, visitor, email_id, with_content=True)
    except ProblemError as error:
        return HTMLResponse(error.problem.what, HTTPStatus.SERVICE_UNAVAILABLE, FRAME_HEADERS)
    html = FRAMES.sub(r'<\1no-\2', email['body_html'] or '')
    return HTMLResponse(html, headers=FRAME_HEADERS)
