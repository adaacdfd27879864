"""Correct the recipient of an e-mail, and send it again."""

import secrets
from hashlib import sha256

from fastapi import APIRouter, Request
from starlette.responses import Response

from actions.audit import AuditEntry
from actions.readdress import Readdressed, readdress
from actions.safety import RequestError
from reporting.problems import Document, Problem
from web.auth.forms import read_form
from web.auth.people import Role, Visitor
from web.pages.changes import ChangeUnderWay
from web.pages.decisions import request_key_of
from web.pages.desk import actor, desk_of, page, person, see_other
from web.pages.one_mail import read_visible

router = APIRouter(include_in_schema=False)


@router.get('/mail/{email_id:id}/recipient')
async def recipient_page(request: Request, email_id: int) -> Response:
    """Ask for another recipient."""
    visitor = await person(request, Role.OPERATE)
    email = await read_visible(desk_of(request), visitor, email_id)
    return await _ask(request, visitor, email, email['recipient'] or '')


async def _ask(
    request: Request,
    visitor: Visitor,
    email: Document,
    recipient: str,
    *,
    problem: Problem | None = None,
    plan: Readdressed | None = None,
    reason: str = '',
) -> Response:
    return await page(
        request, visitor, 'recipient.html', email=email, recipient=recipient, problem=problem,
        plan=plan, reason=reason, request_key=secrets.token_urlsafe(16), seen=_digest(email),
    )  # fmt: skip


def _digest(email: Document) -> str:
    """Return what tells whether it still has the recipient that the person saw."""
    return sha256((email['recipient'] or '').encode('utf-8', 'surrogatepass')).hexdigest()


def _refuse_other(email: Document, seen: str) -> None:
    if _digest(email) != seen:
        raise RequestError('somebody has given it another recipient meanwhile', 'look at it again')


@router.post('/mail/{email_id:id}/recipient')
async def correct_recipient(request: Request, email_id: int) -> Response:
    """Check the new recipient, show what would happen, and do it when that was seen."""
    visitor, desk = await person(request, Role.OPERATE), desk_of(request)
    form = await read_form(request, visitor)
    email = await read_visible(desk, visitor, email_id)
    recipient, seen = form.one('recipient'), form.one('seen')
    reason = form.one('reason')[:500]
    # The second of a double click meets the new recipient: that is no error.
    is_asked = form.one('confirmed') == 'yes'
    if not is_asked:
        try:
            _refuse_other(email, seen)
            plan = await readdress(desk.servers, email_id, recipient, desk.api.terms, dry_run=True)
        except RequestError as error:
            return await _ask(
                request, visitor, email, recipient, problem=error.problem, reason=reason
            )
        return await _ask(request, visitor, email, recipient, plan=plan, reason=reason)

    async def make(entry: AuditEntry, progress: ChangeUnderWay) -> None:
        _refuse_other(email, seen)
        before = email['recipient'] or ''
        done = await readdress(desk.servers, email_id, recipient, desk.api.terms, seen=before)
        entry.email_ids = [email_id]
        progress.changed = 1
        progress.problems = done.problems

    details = {
        'id': email_id, 'before': email['recipient'], 'after': recipient,
        'reason': reason or None, 'at': 'desk',
    }  # fmt: skip
    entry_id = await desk.changes.make(
        actor(visitor), 'email.readdress', details, request_key_of(form), make
    )
    found = desk.changes.find(entry_id)
    failed = found is not None and not found.changed
    return see_other(request, f'/changes/{entry_id}' if failed else f'/mail/{email_id}')
