"""What organisations may queue in a day, and have queued."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from db.quotas import EVERYBODY, read_quotas
from reporting.wording import counted
from web.pages.desk import desk_of, page, person
from web.pages.tables import Cell, PageTable

router = APIRouter(include_in_schema=False)

MOST_SHOWN = 500


@router.get('/quotas')
async def quotas_page(request: Request) -> Response:
    """Show quotas, the fullest first."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    total, rows = await desk.servers.ask_postgres(partial(read_quotas, limit=MOST_SHOWN))
    note = '`email-worker ops quota set ID EMAILS` sets one'
    if total > len(rows):
        note = f'{note}; the fullest {len(rows)} of {counted(total, "entry", "entries")}'
    table = PageTable(
        'Quotas',
        ('organisation', 'queued today', 'a day', 'next day begins', 'quota of'),
        'Nobody has a quota: `email-worker ops quota set ID EMAILS` sets one.',
        note=note if rows else None,
    )
    for row in rows:
        most, queued = row['emails_per_day'], row['queued']
        is_full = most is not None and queued >= most and row['organization_id'] != EVERYBODY
        table.add([
            Cell(row['organization_id']),
            Cell(queued, tone='over' if is_full else None, is_number=True),
            Cell('unlimited' if most is None else most, is_number=True),
            Cell(row['resets_at'], note=row['time_zone']),
            Cell('its own' if row['is_own'] else 'all others'),
        ])  # fmt: skip
    return await page(request, visitor, 'tables.html', title='Quotas', tables=[table], problems=[])
