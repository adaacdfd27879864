"""What people changed: the audit, and each change with how far it is."""

from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import Response

from actions.decide import DECISION_KINDS, MailDecision
from db.audit import read_audit, read_entry
from db.email_list import LAST_ID, list_these
from reporting.problems import Document
from web.api.problem import Refusal, RefusalError
from web.auth.people import Visitor
from web.pages.desk import desk_of, page, person
from web.pages.words import EFFECTS

router = APIRouter(include_in_schema=False)

ROWS = 100
MOST_SHOWN = 50
TAKE_BACK: dict[MailDecision, str] = {
    MailDecision.HOLD: 'Hold those that have not gone out',
    MailDecision.RETRY: 'Send them after all',
    MailDecision.RELEASE: 'Release them',
}


@router.get('/changes')
async def audit_page(request: Request) -> Response:
    """Show who changed what, the newest first."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    before = request.query_params.get('before', '')
    who = ''.join(filter(str.isprintable, request.query_params.get('who', ''))).strip()[:100]
    before_id = min(int(before), LAST_ID) if before.isascii() and before.isdigit() else None
    entries = await desk.servers.ask_postgres(
        partial(read_audit, actor=who or None, limit=ROWS + 1, before_id=before_id)
    )
    more = entries[ROWS - 1]['id'] if len(entries) > ROWS else None
    return await page(request, visitor, 'audit.html', entries=entries[:ROWS], more=more, who=who)


@router.get('/changes/{entry_id:id}')
async def change_page(request: Request, entry_id: int) -> Response:
    """Show one change: what was asked, what became of it, and how to take it back."""
    visitor, desk = await person(request), desk_of(request)
    entry = None
    if entry_id <= LAST_ID:
        entry = await desk.servers.ask_postgres(partial(read_entry, entry=entry_id))
    if entry is None or not _is_visible(entry, visitor):
        raise RefusalError(
            Refusal(
                HTTPStatus.NOT_FOUND, 'no-such-change', f'there is no change {entry_id}',
                'see the audit',
            )
        )  # fmt: skip
    progress = desk.changes.find(entry_id)
    ids: Sequence[int] = entry['email_ids']
    emails = await desk.servers.ask_postgres(
        partial(list_these, email_ids=list(ids[:MOST_SHOWN]), organization_id=None)
    )
    decision = _decision_of(entry)
    undo = DECISION_KINDS[decision].takes_back if decision else None
    return await page(
        request, visitor, 'change.html', entry=entry, progress=progress, emails=emails,
        effect=EFFECTS[decision] if decision else None,
        undo=undo if undo and ids else None, undo_words=undo and TAKE_BACK[undo],
        is_under_way=progress is not None and not progress.is_over,
    )  # fmt: skip


def _is_visible(entry: Document, visitor: Visitor) -> bool:
    """Whether a visitor may see an entry: of an organisation's token, its own."""
    principal = visitor.principal
    if principal is None:
        return False
    return principal.organization_id is None or entry['token_id'] == principal.token_id


def _decision_of(entry: Document) -> MailDecision | None:
    details = entry['details']
    word = details.get('decision') if isinstance(details, dict) else None
    return MailDecision(word) if word in {decision.value for decision in MailDecision} else None
