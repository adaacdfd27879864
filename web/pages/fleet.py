"""Workers and queues, relays, duties: how they are, and what a person may do about each."""

from collections.abc import Mapping
from urllib.parse import urlencode

import asyncpg
from fastapi import APIRouter, Request
from starlette.responses import Response

from db import reports
from db.switches import Switch, SwitchKind, count_waiting_types, read_switches
from fleet.registry import WorkerRecord
from logs import hide_addresses
from mail_outbox.states import Status
from reporting.live import read_database, read_fleet_now, read_living
from reporting.overview import mark_foreign
from reporting.problems import NOBODY_REPLIED, Document, Problem, is_alive, queue_problems
from reporting.servers import answer_or_note
from reporting.slow_domains import DomainLeftAlone, left_alone
from reporting.wording import fault, length, megabytes
from web.pages.desk import Desk, desk_of, page, person
from web.pages.tables import Act, Cell, PageTable
from web.pages.words import number

router = APIRouter(include_in_schema=False)


@router.get('/workers')
async def workers_page(request: Request) -> Response:
    """Show the workers as they registered, and the queues."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    problems: list[Problem] = []
    fleet = await answer_or_note(desk.servers.ask_redis(read_fleet_now), problems)
    switches = await desk.paused()
    tables = []
    if fleet is not None:
        mark_foreign(fleet['workers'], await read_database(desk.servers))
        problems += [] if is_alive(fleet) else [NOBODY_REPLIED]
        problems += queue_problems(fleet)
        tables = [_workers(fleet['workers']), _queues(fleet['queues'], switches)]
    types = await answer_or_note(_types(desk), problems)
    if types is not None:
        tables.append(_type_table(types, switches))
    return await page(
        request, visitor, 'tables.html', title='Workers', tables=tables, problems=problems,
        live=True,
    )  # fmt: skip


def _workers(workers: list[Document]) -> PageTable:
    table = PageTable(
        'Workers',
        ('worker', 'state', 'sending', 'e-mails/s', 'at most', 'attempts', 'up', 'memory', 'seen'),
        'No worker has registered: start one with `email-worker run`.',
    )
    for worker in workers:
        name = worker['worker']
        is_running = worker['state'] == 'running'
        acts = [] if worker.get('foreign') else [
            Act('pause-worker' if is_running else 'resume-worker',
                'Pause' if is_running else 'Resume', name),
            Act('stop-worker', 'Stop', name),
        ]  # fmt: skip
        state = '; '.join(worker['paused']) if worker['paused'] else worker['state']
        if worker.get('foreign'):
            state = f'{state}, of another application'
        concurrency = worker['concurrency'] if isinstance(worker['concurrency'], dict) else {}
        table.add(
            [
                Cell(name, note=f'{worker["queue"]}, version {worker["version"] or "unknown"}'),
                Cell(state, tone='fine' if is_running else 'look'),
                Cell(worker['sending'], is_number=True),
                Cell(worker['emails_per_s'], is_number=True),
                Cell(concurrency.get('emails'), is_number=True),
                Cell(', '.join(f'{k} {n}' for k, n in sorted(worker['outcomes'].items()) if n)),
                Cell(length(worker['uptime_s']), is_number=True),
                Cell(megabytes(worker['rss_bytes']), is_number=True),
                Cell(f'{length(worker["seen_ago_s"])} ago', is_number=True),
            ],
            acts,
        )
    return table


def _queues(queues: list[Document], switches: object) -> PageTable:
    paused = _paused_names(switches, SwitchKind.QUEUE)
    table = PageTable(
        'Queues',
        ('queue', 'state', 'ready', 'deferred', 'running', 'oldest'),
        'There is no queue in Redis.',
    )
    for queue in queues:
        switch = paused.get(queue['name'])
        jobs = queue['ready'] + queue['deferred']
        served = (
            Cell('served', tone='fine')
            if queue['served']
            else Cell('not served', tone='act' if jobs else 'over')
        )
        table.add(
            [
                Cell(queue['name']),
                _paused_cell(switch) if switch else served,
                Cell(queue['ready'], is_number=True),
                Cell(queue['deferred'], is_number=True),
                Cell(queue['running'], is_number=True),
                Cell(length(queue['oldest_ready_s']), is_number=True),
            ],
            [switch_act(SwitchKind.QUEUE, queue['name'], is_paused=switch is not None)],
        )
    return table


async def _types(desk: Desk) -> dict[str, str]:
    """Return the e-mail types in use, with how many e-mails of each wait."""
    names = await desk.email_types()
    found, is_at_least = await desk.servers.ask_postgres(count_waiting_types)
    more = '+' if is_at_least else ''
    return {name: f'{number(found.get(name, 0))}{more}' for name in sorted({*names, *found})[:50]}


def _type_table(types: Mapping[str, str], switches: object) -> PageTable:
    paused = _paused_names(switches, SwitchKind.EMAIL_TYPE)
    table = PageTable('E-mail types', ('type', 'state', 'waiting'), 'No e-mail has a type.')
    for name in sorted({*types, *paused}):
        switch = paused.get(name)
        table.add(
            [
                Cell(name, href=f'/mail?{urlencode({"type": name, "status": Status.PENDING})}'),
                _paused_cell(switch) if switch else Cell('running', tone='fine'),
                Cell(types.get(name), is_number=True),
            ],
            [switch_act(SwitchKind.EMAIL_TYPE, name, is_paused=switch is not None)],
        )
    return table


@router.get('/relays')
async def relays_page(request: Request) -> Response:
    """Show the relays as the workers tell of them."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    problems: list[Problem] = []
    workers = await answer_or_note(desk.servers.ask_redis(read_living), problems)
    paused = _paused_names(await desk.paused(), SwitchKind.RELAY)
    table = PageTable(
        'Relays',
        ('relay', 'state', 'place', 'TLS', 'worker', 'at most', 'last error'),
        'No worker tells of a relay.',
    )
    told = [(worker, relay) for worker in workers or () for relay in worker.relays]
    for worker, relay in sorted(told, key=lambda pair: str(pair[1].get('name'))):
        _add_relay(table, worker, relay, paused)
    known = {str(relay.get('name')) for _, relay in told}
    for name in sorted(paused.keys() - known):
        act = switch_act(SwitchKind.RELAY, name, is_paused=True)
        table.add([Cell(name), _paused_cell(paused[name]), *[Cell(None)] * 5], [act])
    tables = [table]
    if slow := left_alone(workers or ()):
        tables.append(_slow_table(slow))
    return await page(
        request, visitor, 'tables.html', title='Relays', tables=tables, problems=problems,
        live=True,
    )  # fmt: skip


def _slow_table(slow: list[DomainLeftAlone]) -> PageTable:
    names = ('recipient domain', 'left alone for', 'workers', 'because')
    table = PageTable('Domains that deferred several e-mails in a row', names, '')
    for found in slow:
        table.add(
            [Cell(found.domain), Cell(length(found.left_s)), Cell(found.workers, is_number=True),
             Cell(found.reason)],
            [],
        )  # fmt: skip
    return table


def _add_relay(
    table: PageTable, worker: WorkerRecord, relay: Document, paused: Mapping[str, Switch]
) -> None:
    name, state = str(relay.get('name')), str(relay.get('state'))
    switch = paused.get(name)
    if state == 'cooling down':
        state = f'cools down, again in {length(relay.get("retry_in_s"))}'
    most = relay.get('most_per_s')
    table.add(
        [
            Cell(name, href=f'/mail?{urlencode({"relay": name})}'),
            _paused_cell(switch)
            if switch
            else Cell(state, tone='fine' if state == 'ready' else 'act'),
            Cell(relay.get('place')),
            Cell(relay.get('tls')),
            Cell(worker.worker),
            Cell(f'{most:g}/s' if isinstance(most, int | float) and most else None, is_number=True),
            Cell(hide_addresses(relay.get('last_error'))),
        ],
        [switch_act(SwitchKind.RELAY, name, is_paused=switch is not None)],
    )


@router.get('/duties')
async def duties_page(request: Request) -> Response:
    """Show the last run of each duty."""
    visitor, desk = await person(request, of_all=True), desk_of(request)
    problems: list[Problem] = []
    runs, switches = await desk.servers.ask_postgres(_read_duties)
    workers = await answer_or_note(desk.servers.ask_redis(read_living), problems)
    every = {str(d.get('name')): d.get('every_s') for w in workers or () for d in w.duties}
    paused = _paused_names(switches, SwitchKind.CRON)
    table = PageTable(
        'Duties',
        ('duty', 'state', 'every', 'last run', 'affected', 'last success', 'worker'),
        'No duty has run yet.',
    )
    by_name = {run['duty']: run for run in runs}
    for name in sorted({*by_name, *every, *paused}):
        run = by_name.get(name) or dict.fromkeys(
            ('outcome', 'started_at', 'affected', 'succeeded_at', 'worker', 'detail')
        )
        switch = paused.get(name)
        state = Cell(
            run['outcome'] or 'not run yet',
            tone='act' if run['outcome'] == 'error' else 'fine',
            note=fault(run['detail']) if run['outcome'] == 'error' else None,
        )
        seconds = every.get(name)
        table.add(
            [
                Cell(name),
                _paused_cell(switch) if switch else state,
                Cell(length(seconds) if isinstance(seconds, int) else None, is_number=True),
                Cell(run['started_at'], is_number=True),
                Cell(run['affected'], is_number=True),
                Cell(run['succeeded_at'], is_number=True),
                Cell(run['worker']),
            ],
            [
                Act('run-duty', 'Run now', name),
                switch_act(SwitchKind.CRON, name, is_paused=switch is not None),
            ],
        )
    return await page(
        request, visitor, 'tables.html', title='Duties', tables=[table], problems=problems,
        live=True,
    )  # fmt: skip


async def _read_duties(pool: asyncpg.Pool) -> tuple[list[Document], list[Switch]]:
    return await reports.read_duties(pool), await read_switches(pool)


def _paused_names(switches: object, kind: SwitchKind) -> dict[str, Switch]:
    found = switches if isinstance(switches, list | tuple) else ()
    return {s.name: s for s in found if s.kind is kind}


def _paused_cell(switch: Switch) -> Cell:
    why = f': {switch.reason}' if switch.reason else ''
    return Cell(
        'paused', tone='look', note=f'by {switch.paused_by} {switch.paused_at:%Y-%m-%d %H:%M}Z{why}'
    )


def switch_act(kind: SwitchKind, name: str, *, is_paused: bool) -> Act:
    """Return the link that pauses or resumes something."""
    word = 'resume' if is_paused else 'pause'
    return Act(word, word.capitalize(), name, kind.value)
