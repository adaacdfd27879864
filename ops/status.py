"""Is everything all right? Workers, queues, outbox, duties, services, and what is wrong with them."""

import argparse
import asyncio

import asyncpg
from rich.console import Console

from db import reports
from db.switches import Kind, read_switches
from ops.answer import Answer, Document, Trouble
from ops.arguments import add_json
from ops.asking import add_workers, read_living_fleet
from ops.connect import Connections, attempt
from ops.live import fleet_troubles, is_alive, render_queues, render_workers
from ops.output import fault, length, print_table
from ops.switching import as_rows, render_switches

HELP = 'workers, queues, outbox, duties and services at a glance; says what is wrong'

CHECK_IS_OLD_S = 180.0  # services are checked every minute
MAIL_IS_LATE_S = 600.0  # two sweeps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_workers(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask PostgreSQL and Redis at the same time; one of them is enough for half the answer."""
    troubles: list[Trouble] = []
    stored, fleet = await asyncio.gather(
        attempt(connections.ask_postgres(read_stored), troubles), read_living_fleet(connections, options, troubles)
    )
    document = (fleet or {'workers': None, 'queues': None}) | (
        stored or dict.fromkeys(('seen_workers', 'outbox', 'duties', 'services', 'switches'))
    )
    troubles = list(dict.fromkeys(troubles))
    if fleet:
        troubles += fleet_troubles(fleet)
    if stored:
        troubles += stored_troubles(stored, is_worked=not fleet or is_alive(fleet))
    return Answer(document, troubles)


async def read_stored(pool: asyncpg.Pool) -> Document:
    """Return what PostgreSQL knows."""
    return {
        'seen_workers': await reports.read_seen_workers(pool),
        'outbox': await reports.read_outbox(pool),
        'duties': await reports.read_duties(pool),
        'services': await reports.read_services(pool),
        'switches': as_rows(await read_switches(pool)),
    }


def stored_troubles(stored: Document, *, is_worked: bool) -> list[Trouble]:
    """Judge what PostgreSQL knows. Without a worker, mail that waits is no second trouble."""
    found = []
    outbox = stored['outbox']
    if is_worked and (outbox['oldest_due_s'] or 0) > MAIL_IS_LATE_S:
        late = f'{outbox["due"]} e-mails are due, the first for {length(outbox["oldest_due_s"])}'
        paused = any(switch['kind'] != Kind.CRON for switch in stored['switches'])
        why = 'see what is paused, or' if paused else 'look for'
        found.append(Trouble(late, f'{why} a relay that is down, or start more workers'))
    if is_worked and outbox['stuck']:
        found.append(
            Trouble(f'{outbox["stuck"]} e-mails are held by workers that are gone', 'see the `beat` lines in the log')
        )
    found += [
        Trouble(f'{duty["duty"]} failed: {fault(duty["detail"])}', "see `duty failed` in the worker's log")
        for duty in stored['duties']
        if duty['outcome'] == 'error'
    ]
    services = stored['services']
    fresh = [service for service in services if service['checked_s'] <= CHECK_IS_OLD_S]
    if is_worked and services and not fresh:
        age = length(min(service['checked_s'] for service in services))
        found.append(Trouble(f'services were last checked {age} ago', 'see why no worker runs check_service_health'))
    found += [
        Trouble(f'{service["service"]} is {service["status"]}: {service["error"]}', 'start it, or correct its settings')
        for service in fresh
        if service['status'] != 'up'
    ]
    return found


def render(document: Document, console: Console) -> None:
    """Print the tables."""
    if document['workers'] is not None:
        render_workers(document, console)
        render_queues(document, console)
    if document['outbox'] is not None:
        _render_stored(document, console)


def _render_stored(document: Document, console: Console) -> None:
    if document['workers'] is None:
        print_table(
            console,
            'Workers seen in PostgreSQL within the hour',
            ('worker', 'seen', 'sending'),
            ((w['worker'], f'{length(w["last_seen_s"])} ago', w['sending']) for w in document['seen_workers']),
        )
    if document['switches']:
        render_switches(document['switches'], console)
    outbox = document['outbox'] | {'oldest_due_s': length(document['outbox']['oldest_due_s'])}
    names = [name.removesuffix('_s').replace('_', ' ') for name in outbox]
    print_table(console, 'Outbox', names, [list(outbox.values())])
    print_table(
        console,
        'Duties',
        ('duty', 'slot', 'started', 'outcome', 'affected', 'worker'),
        (
            (d['duty'], d['slot'], f'{length(d["started_s"])} ago', d['outcome'], d['affected'], d['worker'])
            for d in document['duties']
        ),
    )
    print_table(
        console,
        'Services',
        ('service', 'status', 'checked', 'ms', 'error'),
        (
            (s['service'], s['status'], f'{length(s["checked_s"])} ago', s['response_time_ms'], s['error'])
            for s in document['services']
        ),
    )
