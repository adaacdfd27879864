"""Send e-mails again that ended: failed, expired, uncertain, cancelled; by id, or all that fit."""

import argparse
from dataclasses import asdict

from rich.console import Console

from actions.call import queue_for
from actions.retry import (
    WAYS,
    RetriedIds,
    RetriedSelection,
    RetryPlan,
    RetryTerms,
    retry_ids,
    retry_selected,
)
from actions.safety import RequestError
from logs import hide_addresses
from ops.answer import Answer, unchanged_problems
from ops.arguments import add_change, add_json, add_limit, but_not, confirm, email_id
from ops.connect import Connections
from ops.mail_filter import add_filters, filter_of
from ops.output import print_table, print_unchanged, say
from reporting.mail_filter import described_selection
from reporting.problems import Document
from reporting.wording import counted, hide_recipient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('ids', type=email_id, nargs='*', metavar='ID')
    parser.add_argument(
        '--status',
        choices=WAYS,
        help='all of these, instead of ids; see below',
    )
    add_filters(parser)
    add_limit(parser, 1000)
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Retry ids, or what the conditions say."""
    conditions = filter_of(vars(options))
    by_filter = options.status is not None or not conditions.is_empty
    if by_filter == bool(options.ids):
        raise RequestError('give either ids or --status', 'see `python -m ops retry --help`')
    if by_filter and options.status is None:
        raise RequestError('--status is missing', f'give one of {", ".join(WAYS)}')

    def ask(plan: RetryPlan) -> None:
        of = f' of {plan.matched}' if plan.matched > plan.emails else ''
        question = f'Send {counted(plan.emails)}{of} again{but_not(plan.left)}?'
        confirm(' '.join((question, *plan.warnings)), yes=options.yes)

    settings = connections.settings
    queue = queue_for('send_email', routed=settings.queue_routing)
    terms = RetryTerms(settings.email_expiry_hours, queue)
    if not by_filter:
        retried = await retry_ids(
            connections, options.ids, terms, dry_run=options.dry_run, confirm=ask
        )
        return Answer(
            _ids_document(retried),
            [*unchanged_problems(retried.unchanged), *retried.problems],
            email_ids=retried.retried,
        )
    selected = await retry_selected(
        connections, options.status, conditions, terms, limit=options.limit,
        dry_run=options.dry_run, confirm=ask,
    )  # fmt: skip
    return Answer(
        _selection_document(selected, options.limit),
        selected.problems,
        email_ids=selected.retried,
    )


def _ids_document(done: RetriedIds) -> Document:
    document: Document = {
        'dry_run': done.dry_run,
        'retried': [] if done.dry_run else done.retried,
        'unchanged': [asdict(email) for email in done.unchanged],
    }
    if done.dry_run:
        return document | {'would_retry': done.retried}
    return document | {'enqueued': done.enqueued}


def _selection_document(done: RetriedSelection, limit: int) -> Document:
    document: Document = {
        'dry_run': done.dry_run,
        'selection': described_selection(done.selection),
        'matched': done.matched,
        'counts': done.counts,
        'limit': limit,
        'warnings': done.warnings,
    }
    if done.dry_run or not done.matched:
        for email in done.sample:
            email['recipient'] = hide_recipient(email['recipient'])
            email['error'] = hide_addresses(email['error'])
        would_retry = min(done.matched, limit)
        return document | {'would_retry': would_retry, 'retried': [], 'sample': done.sample}
    return document | {
        'retried': done.retried,
        'left': done.left,
        'passed_over': done.passed_over,
    }


def render(document: Document, console: Console) -> None:
    """Print what was done, counted, and the reasons."""
    if 'matched' in document:
        _render_selected(document, console)
    elif document['dry_run']:
        say(
            console,
            f'Would send {counted(len(document["would_retry"]))} again; nothing was changed.',
        )
    else:
        missed = len(document['retried']) - document['enqueued']
        more = f'; {missed} without a job: workers were told through PostgreSQL' if missed else ''
        say(
            console,
            f'{counted(len(document["retried"]))} due now, {document["enqueued"]} queued{more}.',
        )
    print_unchanged(console, document.get('unchanged', ()))


def by_itself(final_because: str | None) -> str:
    """Say whether an attempt follows anyway."""
    if final_because is None:
        return 'yes'
    return f'no: {final_because}' if final_because else 'no'


def _render_selected(document: Document, console: Console) -> None:
    if not document['matched']:
        say(console, 'No e-mail fits; nothing was changed.')
    elif document['dry_run']:
        print_table(
            console,
            counted(document['matched'], 'e-mail fits', 'e-mails fit'),
            ('status', 'tried again by itself', 'e-mails'),
            ((c['status'], by_itself(c['final_because']), c['emails']) for c in document['counts']),
        )
        print_table(
            console,
            f'The newest {len(document["sample"])}',
            ('id', 'recipient', 'type', 'since', 'relay', 'error'),
            (
                (
                    e['id'],
                    e['recipient'],
                    e['email_type'],
                    e['since'],
                    e['relay'],
                    e['error'] or e['dead_reason'],
                )
                for e in document['sample']
            ),
        )
        say(
            console,
            *document['warnings'],
            f'Would send {document["would_retry"]} of {counted(document["matched"])} again, '
            'the oldest first; nothing was changed.',
        )
    else:
        passed = document['passed_over']
        say(
            console,
            f'{counted(len(document["retried"]))} due now; workers were told through PostgreSQL.',
        )
        if passed:
            say(
                console, f'{counted(passed)} left alone: changed meanwhile, or without the content.'
            )
        if document['left']:
            more = counted(document['left'], 'more e-mail fits', 'more e-mails fit')
            say(console, f'{more}: run it again, or raise --limit.')
