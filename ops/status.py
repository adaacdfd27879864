"""Is everything all right? Workers, queues, ingresses, outbox, duties, services; what is wrong."""

import argparse
import asyncio

from rich.console import Console

from ops.answer import Answer
from ops.arguments import add_json, add_workers
from ops.connect import Connections
from ops.fleet_tables import render_ingresses, render_queues, render_workers
from ops.output import print_table
from ops.switching import render_switches
from reporting.judge import judge, level_of
from reporting.live import Audience, read_living_fleet
from reporting.overview import FLEET, STORED, mark_foreign, read_stored
from reporting.problems import Document, Problem
from reporting.servers import answer_or_note
from reporting.wording import counted_when, length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_workers(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask PostgreSQL and Redis at the same time; one of them is enough for half the answer."""
    problems: list[Problem] = []
    stored, fleet = await asyncio.gather(
        answer_or_note(connections.ask_postgres(read_stored), problems),
        read_living_fleet(connections, Audience(options.workers, options.timeout), problems),
    )
    if fleet:
        for part in ('workers', 'ingresses'):
            mark_foreign(fleet[part], stored['database'] if stored else None)
    problems = [*dict.fromkeys(problems), *judge(fleet, stored)]
    document: Document = {'level': level_of(problems).value}
    document |= (fleet or dict.fromkeys(FLEET)) | (stored or dict.fromkeys(STORED))
    return Answer(document, problems)


def render(document: Document, console: Console) -> None:
    """Print the tables."""
    if document['workers'] is not None:
        render_workers(document, console)
        render_queues(document, console)
        render_ingresses(document, console)
    if document['outbox'] is not None:
        _render_stored(document, console)


def _render_stored(document: Document, console: Console) -> None:
    if document['workers'] is None:
        print_table(
            console,
            'Workers seen in PostgreSQL within the hour',
            ('worker', 'seen', 'sending'),
            (
                (w['worker'], f'{length(w["last_seen_s"])} ago', w['sending'])
                for w in document['seen_workers']
            ),
        )
    if document['switches']:
        render_switches(document['switches'], console)
    outbox = document['outbox'] | {'oldest_due_s': length(document['outbox']['oldest_due_s'])}
    outbox |= {'counted': counted_when(outbox)}
    del outbox['counted_s'], outbox['is_at_least']
    names = [name.removesuffix('_s').replace('_', ' ') for name in outbox]
    print_table(console, 'Outbox', names, [list(outbox.values())])
    print_table(
        console,
        'Duties',
        ('duty', 'slot', 'started', 'outcome', 'affected', 'worker'),
        (
            (d['duty'], d['slot'], f'{length(d["started_s"])} ago', d['outcome'], d['affected'],
             d['worker'])
            for d in document['duties']
        ),
    )  # fmt: skip
    if document['webhooks']:
        _render_webhooks(document, console)
    print_table(
        console,
        'Services',
        ('service', 'status', 'checked', 'ms', 'error'),
        (
            (s['service'], s['status'], f'{length(s["checked_s"])} ago', s['response_time_ms'],
             s['error'])
            for s in document['services']
        ),
    )  # fmt: skip


def _render_webhooks(document: Document, console: Console) -> None:
    print_table(
        console,
        'Webhooks',
        ('webhook', 'host', 'enabled', 'fails for', 'waiting', 'oldest', 'given up'),
        (
            (w['id'], w['host'], w['enabled'], length(w['failing_s']), w['waiting'],
             length(w['oldest_waiting_s']), w['given_up'])
            for w in document['webhooks']
        ),
    )  # fmt: skip
