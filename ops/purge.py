"""Empty the queues, or cancel what waits in the outbox, which would refill the queues."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict

from rich.console import Console

from actions.purge import LOOK_AT, QueuePlan, cancel_emails, purge_queues
from db.states import CANCELLABLE
from engine.queues import QUEUES
from ops.answer import Answer
from ops.arguments import add_change, add_json, confirm, duration_s
from ops.connect import Connections
from ops.mail_filter import add_filters, filter_of
from ops.output import print_table, say
from reporting.mail_filter import MailFilter, described_selection
from reporting.problems import Document
from reporting.wording import counted


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
    if options.level == 'queue':
        return await _purge_queues(
            connections, options.queue, dry_run=options.dry_run, yes=options.yes
        )
    return await _cancel(
        connections, options.status, filter_of(vars(options)), options.older_than,
        with_final=options.dead, dry_run=options.dry_run, yes=options.yes,
    )  # fmt: skip


async def _purge_queues(
    connections: Connections, name: str | None, *, dry_run: bool, yes: bool
) -> Answer:
    def ask(plan: QueuePlan) -> None:
        jobs = f'{counted(plan.jobs, "job")} from {", ".join(plan.names)}'
        question = f'Remove {jobs}? The mail stays due.{_others(plan.other_functions)}'
        confirm(question, yes=yes, nothing='removed')

    purged = await purge_queues(connections, name, dry_run=dry_run, confirm=ask)
    document: Document = {
        'purge': 'queue', 'dry_run': dry_run, 'other_functions': purged.other_functions
    }  # fmt: skip
    if not dry_run:
        queues = [asdict(queue) for queue in purged.queues]
        return Answer(document | {'removed': purged.jobs, 'queues': queues}, purged.problems)
    would = [
        {'name': q.name, 'would_remove': q.removed, 'running': q.running} for q in purged.queues
    ]
    return Answer(document | {'would_remove': purged.jobs, 'queues': would})


async def _cancel(
    connections: Connections,
    status: str,
    conditions: MailFilter,
    older_than_s: float,
    *,
    with_final: bool,
    dry_run: bool,
    yes: bool,
) -> Answer:
    def ask(number: int) -> None:
        confirm(f'Cancel {_emails(number, status)}?', yes=yes, nothing='cancelled')

    done = await cancel_emails(
        connections, status, conditions, older_than_s=older_than_s, with_final=with_final,
        dry_run=dry_run, confirm=ask,
    )  # fmt: skip
    document: Document = {
        'purge': 'outbox',
        'dry_run': dry_run,
        'status': status,
        'selection': described_selection(done.selection),
        'created_until': done.created_until,
        'final_left': done.final_left,
    }
    document['would_cancel' if dry_run else 'cancelled'] = done.emails
    return Answer(document, done.problems, email_ids=done.ids)


def _others(functions: Mapping[str, int]) -> str:
    """Name the jobs that are not about mail."""
    if not functions:
        return ''
    listed = ', '.join(f'{count} {function}' for function, count in sorted(functions.items()))
    return (
        f' Other jobs (among the first {LOOK_AT} of each queue), which nothing brings back: '
        f'{listed}.'
    )


def _emails(number: int, status: str) -> str:
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
            f'{verb} {counted(document[done], "job")}. '
            'The mail they were about stays due: the next sweep sends it.'
            f'{_others(document["other_functions"])}',
        )
        return
    if document['dry_run']:
        say(
            console,
            f'Would cancel {_emails(document["would_cancel"], document["status"])}; '
            'nothing was changed.',
        )
    else:
        say(console, f'Cancelled {_emails(document["cancelled"], document["status"])}.')
    if document['final_left'] and document['status'] != 'pending':
        say(
            console,
            f'Left alone: {_emails(document["final_left"], document["status"])} '
            'that nothing would send; --dead cancels them too.',
        )
