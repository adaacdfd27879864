"""Pausing and resuming what stays so over restarts: for `control`, `relay` and `cron`."""

import argparse
import getpass
import socket
from collections.abc import Iterable
from functools import partial

from arq.connections import ArqRedis
from rich.console import Console

from db.switches import (
    Kind,
    count_waiting,
    pause,
    read_duty_names,
    read_email_types,
    read_switches,
    resume,
)
from engine.queues import QUEUES, read_queues
from fleet.registry import WorkerRecord
from ops.answer import USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed
from ops.connect import Connections, attempt
from ops.live import read_living
from ops.output import print_table, say

WORDS = {
    Kind.QUEUE: 'queue',
    Kind.RELAY: 'relay',
    Kind.EMAIL_TYPE: 'e-mail type',
    Kind.CRON: 'duty',
}
MEANING = {
    Kind.QUEUE: 'workers that serve it claim neither jobs nor e-mails',
    Kind.RELAY: 'no e-mail goes to it; without another relay e-mails wait, and lose no attempt',
    Kind.EMAIL_TYPE: 'its e-mails are not sent; they stay due, and expire as always',
    Kind.CRON: 'its slots are skipped, and recorded as skipped',
}
RESUMED = {
    Kind.QUEUE: 'workers that serve it go on',
    Kind.RELAY: 'e-mails go to it again',
    Kind.EMAIL_TYPE: 'what is due is sent now',
    Kind.CRON: 'its next slot runs',
}
RESUME_BY = {
    Kind.QUEUE: 'control resume --queue',
    Kind.RELAY: 'relay resume',
    Kind.EMAIL_TYPE: 'control resume --type',
    Kind.CRON: 'cron resume',
}


def add_pause(parser: argparse.ArgumentParser) -> None:
    """Give a command that pauses its options."""
    parser.add_argument('--reason', metavar='TEXT', help='for those who wonder later')
    parser.add_argument('--force', action='store_true', help='also a name that nobody knows yet')
    add_change(parser)
    add_json(parser)


async def switch(
    connections: Connections, options: argparse.Namespace, kind: Kind, name: str, word: str
) -> Answer:
    """Pause or resume something.

    Args:
        word: pause or resume.
    """
    pausing = word == 'pause'
    before = [s for s in await connections.ask_postgres(read_switches) if s.kind is kind]
    paused_names = {s.name for s in before}
    workers = await _workers(connections)
    if pausing:
        if not options.force:
            check_name(kind, name, await known_names(connections, kind, workers) | paused_names)
    elif name not in paused_names:
        check_name(kind, name, paused_names, 'is paused')
    document: Document = {
        'switch': word,
        'dry_run': options.dry_run,
        'kind': kind.value,
        'name': name,
        'changed': False,
        'already': pausing and name in paused_names,
        'waiting': await connections.ask_postgres(partial(count_waiting, email_type=name))
        if kind is Kind.EMAIL_TYPE
        else None,
        'workers': None if workers is None else len(workers),
    }
    if options.dry_run or document['already']:
        return Answer(document)
    if not confirmed(
        options, f'{word.capitalize()} the {WORDS[kind]} {name}: {_meaning(kind, pausing=pausing)}?'
    ):
        raise TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))
    if pausing:
        doing = partial(pause, kind=kind, name=name, reason=options.reason, by=operator())
    else:
        doing = partial(resume, kind=kind, name=name)
    document['changed'] = await connections.ask_postgres(doing)
    return Answer(document)


def _meaning(kind: Kind, *, pausing: bool) -> str:
    return MEANING[kind] if pausing else RESUMED[kind]


def operator() -> str:
    """Return who gives the command, for those who wonder later."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = 'unknown'
    return f'{user}@{socket.gethostname()}'[:200]


def check_name(kind: Kind, name: str, known: Iterable[str], what: str = 'is known') -> None:
    """Refuse a name that is not known.

    Raises:
        TroubleError: names the known ones.
    """
    known = sorted(known)
    if name in known:
        return
    told = f'known: {", ".join(known)}' if known else f'no {WORDS[kind]} {what}'
    more = '; --force takes a name that nobody knows yet' if what == 'is known' else ''
    raise TroubleError(Trouble(f'no {WORDS[kind]} {name!r} {what}', told + more, exit_status=USAGE))


async def known_names(
    connections: Connections, kind: Kind, workers: list[WorkerRecord] | None
) -> set[str]:
    """Return the names that can be paused, as far as the servers and the workers know."""
    told = workers or []
    match kind:
        case Kind.QUEUE:
            queues = await attempt(connections.ask_redis(_queue_names), [])
            return {*QUEUES, *(queues or ()), *(worker.queue for worker in told)}
        case Kind.RELAY:
            own = {'primary'} | ({'backup'} if connections.settings.smtp_backup_host else set())
            return own | {str(relay.get('name')) for worker in told for relay in worker.relays}
        case Kind.EMAIL_TYPE:
            return {
                *await connections.ask_postgres(read_email_types),
                *connections.settings.email_hold_types,
            }
        case Kind.CRON:
            names = {str(duty.get('name')) for worker in told for duty in worker.duties}
            return {*names, *await connections.ask_postgres(read_duty_names)}


async def _queue_names(redis: ArqRedis) -> list[str]:
    return [queue.name for queue in await read_queues(redis)]


async def _workers(connections: Connections) -> list[WorkerRecord] | None:
    """Return the workers; None when Redis is away, which keeps nobody from pausing."""
    return await attempt(connections.ask_redis(read_living), [])


def render_switch(document: Document, console: Console) -> None:
    """Print what was done, and what undoes it."""
    kind, name = Kind(document['kind']), document['name']
    pausing = document['switch'] == 'pause'
    waiting = (
        ''
        if document['waiting'] is None
        else f' E-mails of this type that wait: {document["waiting"]}.'
    )
    if document['dry_run']:
        meaning = _meaning(kind, pausing=pausing)
        say(
            console,
            f'Would {document["switch"]} the {WORDS[kind]} {name}: {meaning}.{waiting} Nothing was changed.',
        )
    elif document['already']:
        say(console, f'The {WORDS[kind]} {name} was paused already; nothing was changed.')
    elif pausing:
        say(
            console,
            f'The {WORDS[kind]} {name} is paused: {MEANING[kind]}.{waiting} '
            f'Restarts do not change that; `python -m ops {RESUME_BY[kind]} {name}` does.',
        )
    else:
        say(console, f'The {WORDS[kind]} {name} is resumed: {RESUMED[kind]}.{waiting}')
    if document['changed']:
        workers = 'nobody knows' if document['workers'] is None else document['workers']
        say(console, f'Workers that hear of it, at once or within 3 seconds: {workers}.')


def render_switches(rows: list[Document], console: Console) -> None:
    """Print what is paused."""
    print_table(
        console,
        'Paused',
        ('what', 'name', 'since', 'by', 'reason'),
        (
            (WORDS[Kind(s['kind'])], s['name'], s['paused_at'], s['paused_by'], s['reason'])
            for s in rows
        ),
    )
