"""The relays as the workers see them, which of them are paused, and a dialogue with one of them."""

import argparse
from functools import partial

from arq.connections import ArqRedis
from rich.console import Console

from db.switches import Switch, SwitchKind, read_switches
from fleet.registry import WorkerRecord
from logs import hide_addresses
from ops import relay_test
from ops.answer import Answer
from ops.arguments import add_json, add_workers
from ops.connect import Connections
from ops.output import print_table
from ops.switching import add_pause, render_switch, render_switches, switch
from reporting.live import Audience, has_health_key, no_such_worker, read_live, read_living
from reporting.overview import as_rows
from reporting.problems import NOBODY_REPLIED, Document, Problem
from reporting.servers import answer_or_note
from reporting.wording import length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    words = parser.add_subparsers(dest='word', required=True, metavar='ls|test|pause|resume')
    listing = words.add_parser('ls', help='relays and their health, by worker')
    add_workers(listing)
    add_json(listing)
    test = words.add_parser('test', help='a dialogue with a relay, step by step, without mail')
    test.add_argument('name', metavar='RELAY', help='its name, as the settings have it')
    test.add_argument('--from', dest='sender', metavar='ADDRESS', help='for MAIL FROM')
    add_json(test)
    for word in ('pause', 'resume'):
        sub = words.add_parser(word, help=f'{word} a relay for all workers, over restarts')
        sub.add_argument('name', metavar='RELAY', help='its name, as `relay ls` prints it')
        add_pause(sub)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """List them, talk to one, or switch one."""
    if options.word == 'test':
        return await relay_test.talk(connections.settings, options.name, options.sender)
    if options.word != 'ls':
        return await switch(
            connections, options.word, SwitchKind.RELAY, options.name, reason=options.reason,
            force=options.force, dry_run=options.dry_run, yes=options.yes,
        )  # fmt: skip
    problems: list[Problem] = []
    workers = await answer_or_note(
        read_live(connections, Audience(options.workers, options.timeout)), problems
    )
    switches = await answer_or_note(connections.ask_postgres(read_switches), problems)
    paused = [s for s in switches or () if s.kind is SwitchKind.RELAY]
    relays = None if workers is None else [row for worker in workers for row in relays_of(worker)]
    document: Document = {
        'relays': relays,
        'switches': None if switches is None else as_rows(paused),
    }
    if relays == []:
        document['relays'] = own_relays(connections, paused)
        problems += (
            await answer_or_note(
                connections.ask_redis(partial(_silence, asked=options.workers)), problems
            )
            or []
        )
    return Answer(document, problems + relay_problems(document['relays'] or []))


async def _silence(redis: ArqRedis, asked: list[str] | None) -> list[Problem]:
    known = [worker.worker for worker in await read_living(redis)]
    if asked and known:
        return [no_such_worker(known)]
    return [] if known or await has_health_key(redis) else [NOBODY_REPLIED]


def relays_of(worker: WorkerRecord) -> list[Document]:
    """Return what a worker tells of its relays."""
    parts = ('name', 'place', 'tls', 'state', 'retry_in_s', 'most_per_s', 'last_error')
    return [
        {'worker': worker.worker} | {part: relay.get(part) for part in parts}
        for relay in worker.relays
    ]


def own_relays(connections: Connections, paused: list[Switch]) -> list[Document]:
    """Return what our own settings say, when no worker is there to tell."""
    addresses = {
        relay.name: f'{relay.host}:{relay.port}' for relay in connections.settings.all_relays
    }
    names = {s.name for s in paused}
    unknown: Document = dict.fromkeys(('worker', 'tls', 'retry_in_s', 'most_per_s', 'last_error'))
    return [
        {'name': name, 'place': place, 'state': 'paused' if name in names else 'no worker'}
        | unknown
        for name, place in addresses.items()
    ]


def relay_problems(relays: list[Document]) -> list[Problem]:
    """Name the relays that workers leave alone, and workers that have none left."""
    found = [
        Problem(
            f'{relay["worker"]} leaves {relay["name"]} alone: '
            f'{hide_addresses(relay["last_error"]) or "not reported why"}',
            '`python -m ops relay test` shows where; correct its settings and `control reload`, '
            'or see to the relay',
        )
        for relay in relays
        if relay['state'] == 'cooling down'
    ]
    if relays and all(relay['state'] == 'paused' for relay in relays):
        found.append(
            Problem('every relay is paused: no mail is sent', '`python -m ops relay resume NAME`')
        )
    return found


def render(document: Document, console: Console) -> None:
    """Print the tables."""
    if 'switch' in document:
        render_switch(document, console)
        return
    if 'steps' in document:
        relay_test.render_steps(document, console)
        return
    if document['relays'] is not None:
        print_table(
            console,
            'Relays',
            ('relay', 'place', 'tls', 'worker', 'state', 'tried again in', 'at most', 'last error'),
            (
                (r['name'], r['place'], r['tls'], r['worker'], r['state'],
                 length(r['retry_in_s']) if r['state'] == 'cooling down' else None,
                 f'{r["most_per_s"]:g}/s' if r['most_per_s'] else None,
                 hide_addresses(r['last_error']))
                for r in document['relays']
            ),
        )  # fmt: skip
    if document['switches'] is not None:
        render_switches(document['switches'], console)
