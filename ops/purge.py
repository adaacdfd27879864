"""Empty the queues, or cancel what waits in the outbox: two levels, since the outbox would refill the queues."""

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial

from arq.connections import ArqRedis
from rich.console import Console

from db.cancellation import cancel, count_cancellable
from fleet.queues import QUEUES, Purged, QueueState, purge_queue, read_queues
from ops.answer import Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, confirmed, duration_s
from ops.connect import Connections
from ops.output import print_table

HELP = 'queue: remove waiting jobs, the mail stays due; outbox: cancel mail that waits'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    levels = parser.add_subparsers(dest='level', required=True, metavar='queue|outbox')
    queue = levels.add_parser('queue', help='remove waiting jobs from Redis; the mail stays due')
    queue.add_argument('--queue', metavar='NAME', help=f'only this one (default: {", ".join(QUEUES)})')
    outbox = levels.add_parser('outbox', help='cancel e-mails; they are not sent any more')
    outbox.add_argument('--status', choices=('pending', 'failed'), required=True)
    outbox.add_argument('--older-than', type=duration_s, default=0.0, metavar='TIME', help='created before 2h, 7d ...')
    outbox.add_argument('--dead', action='store_true', help='with failed: also those that are not tried again')
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
    waiting = sum(queue.ready + queue.deferred for queue in queues)
    if options.dry_run:
        would = [{'name': q.name, 'would_remove': q.ready + q.deferred, 'running': q.running} for q in queues]
        return Answer({'purge': 'queue', 'dry_run': True, 'would_remove': waiting, 'queues': would})
    names = ', '.join(queue.name for queue in queues)
    if waiting and not confirmed(options, f'Remove {waiting} jobs from {names}? The mail stays due.'):
        raise TroubleError(Trouble('not confirmed, nothing was removed', 'answer y, or give --yes'))
    purged = await connections.ask_redis(partial(purge_all, names=[queue.name for queue in queues]))
    document = {'removed': sum(queue.removed for queue in purged), 'queues': [asdict(queue) for queue in purged]}
    return Answer({'purge': 'queue', 'dry_run': False} | document)


def chosen(queues: list[QueueState], name: str | None) -> list[QueueState]:
    """Return the queues to purge: ours, or the named one if it is a queue."""
    names = QUEUES if name is None else (name,)
    found = [queue for queue in queues if queue.name in names]
    if not found:
        raise TroubleError(Trouble(f'{name!r} is no queue', 'see `python -m ops queue ls`'))
    return found


async def purge_all(redis: ArqRedis, names: list[str]) -> list[Purged]:
    """Purge one queue after the other."""
    return [await purge_queue(redis, name) for name in names]


async def purge_outbox(connections: Connections, options: argparse.Namespace) -> Answer:
    """Cancel what waits; never what is being sent."""
    status, older_than_s, with_dead = options.status, options.older_than, options.dead
    counting = partial(count_cancellable, status=status, older_than_s=older_than_s, with_dead=with_dead)
    found = await connections.ask_postgres(counting)
    document: Document = {
        'purge': 'outbox',
        'dry_run': options.dry_run,
        'status': status,
        'created_until': found.created_until,
        'dead_left': 0 if with_dead else found.dead,
    }
    if options.dry_run:
        return Answer(document | {'would_cancel': found.emails})
    if found.emails and not confirmed(options, f'Cancel {found.emails} {status} e-mails for good?'):
        raise TroubleError(Trouble('not confirmed, nothing was cancelled', 'answer y, or give --yes'))
    cancelling = partial(cancel, status=status, created_until=found.created_until, with_dead=with_dead)
    return Answer(document | {'cancelled': await connections.ask_postgres(cancelling)})


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
        console.print(f'{verb} {document[done]} jobs. The mail they were about stays due: the next sweep sends it.')
        return
    if document['dry_run']:
        console.print(f'Would cancel {document["would_cancel"]} {document["status"]} e-mails; nothing was changed.')
    else:
        console.print(f'Cancelled {document["cancelled"]} {document["status"]} e-mails.')
    if document['dead_left'] and document['status'] == 'failed':
        console.print(
            f'{document["dead_left"]} dead ones stay failed, nothing would send them; --dead cancels them too.'
        )
