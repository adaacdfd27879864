"""Where events go, what became of each, and posting them again."""

from functools import partial
from http import HTTPStatus
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from actions.safety import RequestError
from actions.webhooks import known_endpoint
from db.times import Row
from db.webhook_replays import read_deliveries, read_delivery
from db.webhooks import read_webhooks
from reporting.wording import as_json, cell
from web.api.problem import Refusal, RefusalError
from web.auth.people import Role, Visitor
from web.pages.desk import desk_of, page, person
from web.pages.tables import Act, Cell, PageTable
from web.pages.webhook_acts import LONGEST_ID, REPLAYED_HOURS

router = APIRouter(include_in_schema=False)

SHOWN = 50
STATUSES = ('waiting', 'delivered', 'dead')
DELIVERY_TONES = {'waiting': 'way', 'delivered': 'fine', 'dead': 'act'}


@router.get('/webhooks')
async def webhooks_page(request: Request) -> Response:
    """Show where events go, and how that goes."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    rows = await desk.servers.ask_postgres(read_webhooks)
    table = PageTable(
        'Webhooks',
        ('webhook', 'events', 'organisation', 'state', 'waiting', 'last delivered'),
        'No program is told what becomes of mail.',
        note='`email-worker ops webhook add URL` adds one, and prints its secret',
    )
    for row in rows:
        word, tone, note = _state(row)
        table.add(
            [
                Cell(row['url'], href=f'/webhooks/{row["id"]}', note=row['description']),
                Cell(', '.join(row['event_types'] or ['all'])),
                Cell(row['organization_id'] or 'every'), Cell(word, tone=tone, note=note),
                Cell(row['waiting'], is_number=True), Cell(row['last_delivered_at']),
            ],
            _acts(row, visitor),
        )  # fmt: skip
    return await page(
        request, visitor, 'tables.html', title='Webhooks', tables=[table], problems=[]
    )


def _state(row: Row) -> tuple[str, str, str | None]:
    if not row['enabled']:
        return 'disabled', 'over', row['disabled_reason']
    if row['failing_since']:
        return 'fails', 'act', f'since {cell(row["failing_since"])}: {row["last_error"]}'
    return 'ok', 'fine', None


def _acts(row: Row, visitor: Visitor) -> list[Act]:
    name = str(row['id'])
    acts = [Act('test-webhook', 'Test', name)] if row['enabled'] else []
    if visitor.may(Role.ADMINISTER):
        word = 'disable' if row['enabled'] else 'enable'
        acts += [
            Act(f'{word}-webhook', word.capitalize(), name),
            Act('remove-webhook', 'Remove', name),
        ]
    return acts


@router.get('/webhooks/{text}')
async def deliveries_page(request: Request, text: str) -> Response:
    """Show what became of one webhook's events, the newest first."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    try:
        webhook = await known_endpoint(desk.servers, _number(text))
    except RequestError as error:
        raise _nothing(error.problem.what) from error
    status = request.query_params.get('status', '')
    before = request.query_params.get('before', '')
    reading = partial(
        read_deliveries, webhook_id=webhook['id'], status=status if status in STATUSES else None,
        before_id=_number(before) if before else None, limit=SHOWN,
    )  # fmt: skip
    rows = await desk.servers.ask_postgres(reading)
    return await page(
        request, visitor, 'webhook.html', webhook=webhook, state=_state(webhook), chosen=status,
        statuses=STATUSES, tables=[_deliveries(rows)], acts=_acts(webhook, visitor),
        replays=[
            Act('replay-webhook', f'Replay what is dead of {word}', str(webhook['id']), word)
            for word in REPLAYED_HOURS
        ],
        older=_older(rows, status),
    )  # fmt: skip


def _older(rows: list[Row], status: str) -> str | None:
    if len(rows) < SHOWN:
        return None
    return '?' + urlencode({'status': status, 'before': rows[-1]['id']})


def _deliveries(rows: list[Row]) -> PageTable:
    table = PageTable(
        'Deliveries',
        ('delivery', 'event', 'e-mail', 'happened', 'status', 'tries', 'answer', 'next try'),
        'There are none.',
    )
    for row in rows:
        ended = row['status'] != 'waiting'
        acts = [Act('replay-delivery', 'Replay', str(row['id']), str(row['webhook_id']))]
        email_id = row['email_id']
        table.add(
            [
                Cell(row['id'], href=f'/deliveries/{row["id"]}'), Cell(row['event_type']),
                Cell(email_id, href=f'/mail/{email_id}' if email_id else None),
                Cell(row['occurred_at']), Cell(row['status'], tone=DELIVERY_TONES[row['status']]),
                Cell(row['attempts'], is_number=True), Cell(row['error'] or row['http_status']),
                Cell(row['next_retry_at']),
            ],
            acts if ended and email_id else [],
        )  # fmt: skip
    return table


@router.get('/deliveries/{text}')
async def delivery_page(request: Request, text: str) -> Response:
    """Show one delivery: what was posted, and what was answered."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    row = await desk.servers.ask_postgres(partial(read_delivery, delivery_id=_number(text)))
    if row is None:
        raise _nothing(f'there is no delivery {text[:LONGEST_ID]}')
    return await page(
        request, visitor, 'delivery.html', delivery=row, tone=DELIVERY_TONES[row['status']],
        payload=as_json(row['payload']),
    )  # fmt: skip


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_ID):
        raise _nothing('there is nothing here')
    return int(text)


def _nothing(what: str) -> RefusalError:
    return RefusalError(Refusal(HTTPStatus.NOT_FOUND, 'no-such-path', what, 'see the webhooks'))
