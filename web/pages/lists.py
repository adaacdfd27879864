"""Who gets no mail, who may be a sender, and who has a token."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from db.api_tokens import read_tokens
from db.senders import read_senders
from db.suppressions import read_suppressions
from reporting.wording import counted
from web.auth.people import Role
from web.pages.desk import desk_of, page, person
from web.pages.tables import Act, Cell, PageTable

router = APIRouter(include_in_schema=False)

MOST = 500


@router.get('/suppressions')
async def suppressions_page(request: Request) -> Response:
    """Show who gets no mail."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    total, rows = await desk.servers.ask_postgres(partial(read_suppressions, limit=MOST))
    table = PageTable(
        'Suppressions',
        ('address', 'type', 'reason', 'source', 'since', 'by', 'until'),
        'Everybody gets mail: nobody is on the list.',
        note=_of(total, len(rows)),
    )
    for row in rows:
        until = Cell('for good') if row['expires_at'] is None else Cell(row['expires_at'])
        table.add(
            [
                Cell(row['address']), Cell(row['email_type'] or 'every'), Cell(row['reason']),
                Cell(row['source']), Cell(row['created_at']), Cell(row['created_by']), until,
            ],
            [Act('unsuppress', 'Take off', row['address'], row['email_type'] or '')],
        )  # fmt: skip
    return await page(
        request, visitor, 'tables.html', title='Suppressions', tables=[table], problems=[],
        form=('suppress', 'Address, or @domain', 'Suppress', 'Type; empty: every'),
        form_role=Role.OPERATE,
    )  # fmt: skip


@router.get('/senders')
async def senders_page(request: Request) -> Response:
    """Show who may stand in From."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    total, rows = await desk.servers.ask_postgres(partial(read_senders, limit=MOST))
    table = PageTable(
        'Senders',
        ('sender', 'organisation', 'source', 'since', 'by'),
        'E-mails name no sender of their own.',
        note=_of(total, len(rows)),
    )
    for row in rows:
        acts = [Act('disallow-sender', 'Disallow', row['pattern'])]
        table.add(
            [
                Cell(row['pattern']), Cell(row['organization_id'] or 'every'),
                Cell(row['source']), Cell(row['created_at']), Cell(row['created_by']),
            ],
            acts if row['organization_id'] is None and visitor.may(Role.ADMINISTER) else [],
        )  # fmt: skip
    return await page(
        request, visitor, 'tables.html', title='Senders', tables=[table], problems=[],
        form=('allow-sender', 'Address, or @domain', 'Allow'), form_role=Role.ADMINISTER,
    )  # fmt: skip


@router.get('/tokens')
async def tokens_page(request: Request) -> Response:
    """Show who has a token; nobody sees the tokens themselves, nor makes one here."""
    visitor, desk = await person(request, Role.ADMINISTER, of_all=True), desk_of(request)
    rows = await desk.servers.ask_postgres(partial(read_tokens, with_revoked=False))
    table = PageTable(
        'Tokens',
        ('name', 'for', 'organisation', 'made', 'by', 'last used', 'until'),
        'There is no token.',
        note='`email-worker ops token create NAME --scope read,operate` makes one',
    )
    for row in rows:
        expired = row['is_expired']
        table.add(
            [
                Cell(row['name']), Cell(', '.join(row['scopes'])),
                Cell(row['organization_id'] or 'every'), Cell(row['created_at']),
                Cell(row['created_by']), Cell(row['last_used_at']),
                Cell(row['expires_at'], tone='over' if expired else None)
                if row['expires_at'] else Cell('for good'),
            ],
            [Act('revoke-token', 'Revoke', row['name'])],
        )  # fmt: skip
    return await page(request, visitor, 'tables.html', title='Tokens', tables=[table], problems=[])


def _of(total: int, shown: int) -> str | None:
    return None if total <= shown else f'the newest {shown} of {counted(total, "entry", "entries")}'
