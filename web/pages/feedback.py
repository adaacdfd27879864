"""What came back: bounces and complaints, the newest first."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from db.email_list import LAST_ID
from db.feedback import list_feedback
from mail.bounce.report import FeedbackKind
from web.pages.desk import desk_of, page, person

router = APIRouter(include_in_schema=False)

ROWS = 100
LONGEST = 320


@router.get('/bounces')
async def feedback_page(request: Request) -> Response:
    """Show the reports, of one kind or about one address where that is asked for."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    given = request.query_params
    before, kind = given.get('before', ''), given.get('kind', '')
    kinds = [word.value for word in FeedbackKind]
    kind = kind if kind in kinds else ''
    address = ''.join(filter(str.isprintable, given.get('q', ''))).strip()[:LONGEST]
    before_id = min(int(before), LAST_ID) if before.isascii() and before.isdigit() else LAST_ID
    listing = partial(
        list_feedback, before_id=before_id, kind=kind or None, recipient=address.lower() or None,
        limit=ROWS + 1,
    )  # fmt: skip
    rows = await desk.servers.ask_postgres(listing)
    return await page(
        request, visitor, 'bounces.html', reports=rows[:ROWS], kinds=kinds, kind=kind, q=address,
        more=rows[ROWS - 1]['id'] if len(rows) > ROWS else None,
    )  # fmt: skip
