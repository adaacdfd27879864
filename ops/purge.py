"""Empty the queues, or cancel what waits in the outbox: two levels, since the outbox would refill the queues."""

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial

from arq.connections import ArqRedis
from rich.console import Console

from db.cancellation import cancel, count_cancellable
from db.states import CANCELLABLE
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import QUEUES, QueueState, read_queues
from fleet.queued_jobs import Purged, purge_queue, read_jobs
from ops.answer import USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed, duration_s
from ops.connect import Connections
from ops.mail_filter import add_filters, described, make_selection
from ops.output import counted, print_table, say

HELP = 'queue: remove waiting jobs, the mail stays due; outbox: cancel mail that waits'


LOOK_AT = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    levels = parser.add_subparsers(dest='level', required=True, metavar='queue|outbox')
    queue = levels.add_parser('queue', help='remove waiting jobs from Redis; the mail stays due')
    queue.add_argument(
        '--queue', metavar='NAME', help=f'only this one (default: {", ".join(QUEUES)})'
    )
    outbox = levels.add_parser('outbox', help='cancel e-mails; they are not sent any more')
    outbox.add_argument('--status', choices=[status.value for status in CANCELLABLE], required=True)
    outbox.add_argument(
        '--dead',
        action='store_true',
        help='also failed and uncertain ones that are not tried again',
    )
    outbox.add_argument(
        '--older-than',
        type=duration_s,
        default=0.0,
        metavar='TIME',
        help='created before 2h, 7d ...',
    )
    add_filters(outbox)
    for level in (queue, outbox):
        add_change(level)
        add_json(level)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Purge the level that was named."""
    levels: dict[str, Callable[[Connections, argparse.Namespace], Awaitable[Answer]]] = {
        'queue': purge_queues,
        'outbox': purge_outbox,
    }
    return await levels[options.level](connections, options)


async def purge_queues(connections: Connections, options: argparse.Namespace) -> Answer:
    """Remove jobs that are not running."""
    queues = chosen(await connections.ask_redis(read_queues), options.queue)
    names = [queue.name for queue in queues]
    waiting = sum(queue.ready + queue.deferred for queue in queues)
    others = await connections.ask_redis(partial(count_others, names=names))
    document: Document = {'purge': 'queue', 'dry_run': options.dry_run, 'other_functions': others}
    if options.dry_run:
        would = [
            {'name': q.name, 'would_remove': q.ready + q.deferred, 'running': q.running}
            for q in queues
        ]
        return Answer(document | {'would_remove': waiting, 'queues': would})
    asked = f'Remove {counted(waiting, "job")} from {", ".join(names)}? The mail stays due.{told_others(others)}'
    if waiting and not confirmed(options, asked):
        raise TroubleError(Trouble('not confirmed, nothing was removed', 'answer y, or give --yes'))
    purged = await connections.ask_redis(partial(purge_all, names=names))
    removed = {
        'removed': sum(queue.removed for queue in purged),
        'queues': [asdict(queue) for queue in purged],
    }
    return Answer(document | removed)


async def count_others(redis: ArqRedis, names: list[str]) -> dict[str, int]:
    """Count, among the first jobs of each queue, those that no sweep of the outbox brings back, by function."""
    jobs = await read_jobs(redis, names, LOOK_AT)
    return dict(
        Counter(
            job.function or 'unreadable'
            for job in jobs
            if job.state != 'running' and job.function not in EMAIL_JOBS
        )
    )


def told_others(others: dict[str, int]) -> str:
    """Name the jobs that are not about mail."""
    if not others:
        return ''
    listed = ', '.join(f'{count} {function}' for function, count in sorted(others.items()))
    return f' Other jobs (among the first {LOOK_AT} of each queue), which nothing brings back: {listed}.'


def chosen(queues: list[QueueState], name: str | None) -> list[QueueState]:
    """Return the queues to purge: ours, or the named one if it is a queue."""
    names = QUEUES if name is None else (name,)
    found = [queue for queue in queues if queue.name in names]
    if not found:
        raise TroubleError(
            Trouble(f'{name!r} is no queue', 'see `python -m ops queue ls`', exit_status=USAGE)
        )
    if name is not None and found[0].problem:
        raise TroubleError(Trouble(found[0].problem, 'see `python -m ops queue ls`'))
    return [queue for queue in found if not queue.problem]


async def purge_all(redis: ArqRedis, names: list[str]) -> list[Purged]:
    """Purge one queue after the other."""
    return [await purge_queue(redis, name) for name in names]


async def purge_outbox(connections: Connections, options: argparse.Namespace) -> Answer:
    """Cancel what waits; never what is being sent."""
    status, with_final = options.status, options.dead
    selection = await make_selection(connections, options, (status,))
    counting = partial(
        count_cancellable,
        selection=selection,
        older_than_s=options.older_than,
        with_final=with_final,
    )
    found = await connections.ask_postgres(counting)
    document: Document = {
        'purge': 'outbox',
        'dry_run': options.dry_run,
        'status': status,
        'selection': described(selection),
        'created_until': found.created_until,
        'final_left': 0 if with_final else found.final,
    }
    if options.dry_run:
        return Answer(document | {'would_cancel': found.emails})
    if found.emails and not confirmed(options, f'Cancel {emails(found.emails, status)}?'):
        raise TroubleError(
            Trouble('not confirmed, nothing was cancelled', 'answer y, or give --yes')
        )
    cancelling = partial(
        cancel, selection=selection, created_until=found.created_until, with_final=with_final
    )
    return Answer(document | {'cancelled': await connections.ask_postgres(cancelling)})


def emails(number: int, status: str) -> str:
    """Return `2 failed e-mails`."""
    return counted(number, f'{status} e-mail')


def render(document: Document, console: Console) -> None:
    """Print what was done, counted."""
    done = 'would_remove' if document['dry_run'] else 'removed'
    if document['purge'] == 'queue':
        print_table(
            console,
            'Queues',
            ('queue', done.replace('_', ' '), 'running, left alone'),
            ((q['name'], q[done], q['running']) for q in document['queues']),
        )
        verb = 'Would remove' if document['dry_run'] else 'Removed'
        say(
            console,
            f'{verb} {counted(document[done], "job")}. The mail they were about stays due: the next sweep sends it.'
            f'{told_others(document["other_functions"])}',
        )
        return
    if document['dry_run']:
        say(
            console,
            f'Would cancel {emails(document["would_cancel"], document["status"])}; nothing was changed.',
        )
    else:
        say(console, f'Cancelled {emails(document["cancelled"], document["status"])}.')
    if document['final_left'] and document['status'] != 'pending':
        say(
            console,
            f'Left alone: {emails(document["final_left"], document["status"])} that nothing would send; '
            '--dead cancels them too.',
        )
