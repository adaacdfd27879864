"""Send e-mails again that ended: failed, expired, uncertain, cancelled; by id, or all that fit."""

import argparse
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from db import reports
from db import selection as selections
from db.states import RETRYABLE
from db.transitions import retry
from mail_outbox.wake import notify
from ops.answer import NO_WORKER, USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import add_change, add_json, add_limit, confirmed, email_id
from ops.call import queue_for
from ops.connect import Connections, attempt
from ops.live import has_worker
from ops.mail_filter import add_filters, described, has_filters, make_selection
from ops.output import cell, counted, hide_addresses, hide_recipient, print_table, say

HELP = 'send failed, expired, uncertain or cancelled e-mails again: some ids, or all that fit'

RETRY_BATCH = 500
MAX_JOBS = (
    100  # more e-mails than this are not worth a job each: one NOTIFY has the workers sweep them
)
SAMPLE = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('ids', type=email_id, nargs='*', metavar='ID')
    parser.add_argument(
        '--status',
        choices=[*(status.value for status in RETRYABLE), selections.DEAD],
        help='all of these, instead of ids; see below',
    )
    add_filters(parser)
    add_limit(parser, 1000)
    add_change(parser)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Retry ids, or what the conditions say."""
    by_filter = options.status is not None or has_filters(options)
    if by_filter == bool(options.ids):
        raise TroubleError(
            Trouble(
                'give either ids or --status', 'see `python -m ops retry --help`', exit_status=USAGE
            )
        )
    if by_filter and options.status is None:
        raise TroubleError(
            Trouble(
                '--status is missing',
                f'give one of {", ".join((*RETRYABLE, selections.DEAD))}',
                exit_status=USAGE,
            )
        )
    return await (retry_selected if by_filter else retry_ids)(connections, options)


async def retry_ids(connections: Connections, options: argparse.Namespace) -> Answer:
    """Make these due, wake a worker for each, and say why not for the others."""
    ids = list(dict.fromkeys(options.ids))
    states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    wanted = [i for i in ids if i in states and states[i]['status'] in RETRYABLE]
    if options.dry_run:
        return _answer(ids, states, [], would_retry=wanted)
    if wanted and not confirmed(
        options, question(wanted, states, left=[i for i in ids if i not in wanted])
    ):
        raise not_confirmed()
    troubles: list[Trouble] = []
    made_due, _ = await make_due(connections, wanted, RETRYABLE, troubles)
    changed = set(made_due)
    if troubles and not changed:
        return Answer({}, troubles)
    enqueued = await wake(connections, sorted(changed), troubles) if changed else 0
    if len(changed) < len(wanted):  # somebody was faster: the reasons are newer than the states
        states = await connections.ask_postgres(partial(reports.read_states, email_ids=ids))
    answer = _answer(ids, states, [i for i in ids if i in changed])
    answer.document['enqueued'] = enqueued
    answer.troubles += [*troubles, *await idle_troubles(connections, changed)]
    return answer


async def retry_selected(connections: Connections, options: argparse.Namespace) -> Answer:
    """Count what fits, ask, make it due in batches, and wake the workers once."""
    selection = await make_selection(connections, options, (options.status,))

    def ask(question: Callable[..., Awaitable[Any]], **values: Any) -> Awaitable[Any]:
        return connections.ask_postgres(partial(question, selection=selection, **values))

    counts = await ask(selections.count_selected)
    matched = sum(row['emails'] for row in counts)
    document: Document = {
        'dry_run': options.dry_run,
        'selection': described(selection),
        'matched': matched,
        'counts': counts,
        'limit': options.limit,
        'warnings': warnings(counts),
    }
    sample = await ask(selections.list_selected, limit=SAMPLE) if options.dry_run else []
    if options.dry_run or not matched:
        for email in sample:
            email['recipient'] = hide_recipient(email['recipient'])
            email['error'] = hide_addresses(email['error'])
        return Answer(
            document | {'would_retry': min(matched, options.limit), 'retried': [], 'sample': sample}
        )
    ids = await ask(selections.select_ids, limit=options.limit)
    some = f'{counted(len(ids))}{f" of {matched}" if matched > len(ids) else ""}'
    if not confirmed(options, ' '.join((f'Send {some} again?', *document['warnings']))):
        raise not_confirmed()
    states = ('failed',) if options.status == selections.DEAD else (options.status,)
    troubles: list[Trouble] = []
    changed, reached = await make_due(connections, ids, states, troubles)
    if changed:
        await attempt(connections.ask_postgres(notify), troubles)
    done = {
        'retried': changed,
        'left': max(0, matched - reached),
        'passed_over': reached - len(changed),
    }
    troubles += await idle_troubles(connections, changed)
    return Answer(document | done, list(dict.fromkeys(troubles)))


async def make_due(
    connections: Connections,
    ids: Sequence[int],
    from_states: Sequence[str],
    troubles: list[Trouble],
) -> tuple[list[int], int]:
    """Make e-mails due in batches, each committed by itself; a batch that fails ends it.

    Returns:
        Those that were changed, and how many of the ids came to their turn.
    """
    changed: list[int] = []
    for start in range(0, len(ids), RETRY_BATCH):
        change = partial(
            retry,
            email_ids=ids[start : start + RETRY_BATCH],
            expiry_hours=connections.settings.email_expiry_hours,
            from_states=from_states,
        )
        batch = await attempt(connections.ask_postgres(change), troubles)
        if batch is None:
            return changed, start
        changed += batch
    return changed, len(ids)


async def wake(connections: Connections, ids: Sequence[int], troubles: list[Trouble]) -> int:
    """Have e-mails that are due sent at once. Returns for how many of them a job was put into Redis."""
    enqueued = None
    if len(ids) <= MAX_JOBS:
        queue = queue_for('send_email', routed=connections.settings.queue_routing)
        enqueued = await attempt(
            connections.ask_redis(partial(enqueue, email_ids=ids, queue=queue)), troubles
        )
    if enqueued is None:
        await connections.ask_postgres(notify)
    return enqueued or 0


async def idle_troubles(connections: Connections, due: Collection[int]) -> list[Trouble]:
    """Say that mail was made due for nobody. Without Redis nobody knows: workers sweep PostgreSQL all the same."""
    try:
        if not due or await connections.ask_redis(has_worker):
            return []
    except TroubleError:
        return []
    what = f'{counted(len(due))} due, but no worker replied'
    return [
        Trouble(
            what, 'it is sent when one starts: `arq worker.WorkerSettings`', exit_status=NO_WORKER
        )
    ]


async def enqueue(redis: ArqRedis, email_ids: Sequence[int], queue: str) -> int:
    """Put one job per e-mail into a queue. Returns how many."""
    for i in email_ids:
        await redis.enqueue_job('send_email', i, _queue_name=queue)
    return len(email_ids)


def not_confirmed() -> TroubleError:
    """Return what ends a command whose question was not answered with yes."""
    return TroubleError(Trouble('not confirmed, nothing was changed', 'answer y, or give --yes'))


def question(
    ids: Iterable[int], states: Mapping[int, Mapping[str, Any]], left: Sequence[int]
) -> str:
    """Ask about the number, say which cannot be sent again, and warn of what may arrive twice."""
    rows = [states[i] for i in ids]
    counts = [{'status': r['status'], 'final_because': r['dead_reason'], 'emails': 1} for r in rows]
    return ' '.join((f'Send {counted(len(rows))} again{but_not(left)}?', *warnings(counts)))


def but_not(left: Sequence[int]) -> str:
    """Name, within a question, what was given and is left alone."""
    return f', and leave {", ".join(map(str, left))} alone' if left else ''


# What an operator should know before: a condition on (status, why nothing follows), and what it
# means.
WARNINGS: tuple[tuple[Callable[[str, str | None], bool], str], ...] = (
    (
        lambda status, _: status == 'uncertain',
        '{} that may have been delivered already would arrive twice.',
    ),
    (
        lambda status, because: status == 'failed' and because == 'rejected',
        '{} refused for good: the relay will say the same again.',
    ),
    (
        lambda status, because: status == 'failed' and because == 'poison',
        '{} set aside because workers died sending such mail.',
    ),
)


def warnings(counts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Warn of what a retry may do, counted."""
    found = [
        (
            sum(row['emails'] for row in counts if concerns(row['status'], row['final_because'])),
            text,
        )
        for counts in [list(counts)]
        for concerns, text in WARNINGS
    ]
    return [text.format(counted(emails)) for emails, text in found if emails]


def _answer(
    ids: list[int],
    states: Mapping[int, Mapping[str, Any]],
    retried: list[int],
    *,
    would_retry: list[int] | None = None,
) -> Answer:
    """Put together what was done and, for every other id, why not."""
    done = set(retried if would_retry is None else would_retry)
    unchanged = [{'id': i, 'reason': why_not(states.get(i))} for i in ids if i not in done]
    document: Document = {
        'dry_run': would_retry is not None,
        'retried': retried,
        'unchanged': unchanged,
    }
    if would_retry is not None:
        document['would_retry'] = would_retry
    troubles = (
        [Trouble(f'{counted(len(unchanged))} not changed', 'see the reasons')] if unchanged else []
    )
    return Answer(document, troubles)


def why_not(state: Mapping[str, Any] | None) -> str:
    """Say why an e-mail was not made due."""
    if state is None:
        return 'there is no such e-mail'
    match state['status']:
        case 'pending' if state['next_retry_at'] is not None:
            return f'it is pending already, due at {cell(state["next_retry_at"])}'
        case 'pending':
            return 'it is pending already'
        case 'sending':
            return f'{state["claimed_by"]} is sending it'
        case 'sent':
            return f'it was sent at {cell(state["sent_at"])}'
        case 'held':
            return f'it is held: `python -m ops held release {state["id"]}` sends it'
        case 'external':
            return 'the system that was there before sends it, or has sent it'
        case status:
            return f'somebody changed it meanwhile; it is {status}'


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
        told = f'; {missed} without a job: workers were told through PostgreSQL' if missed else ''
        say(
            console,
            f'{counted(len(document["retried"]))} due now, {document["enqueued"]} queued{told}.',
        )
    if document.get('unchanged'):
        print_table(
            console,
            'Not changed',
            ('id', 'why'),
            ((u['id'], u['reason']) for u in document['unchanged']),
        )


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
            f'Would send {document["would_retry"]} of {counted(document["matched"])} again, the oldest first; '
            'nothing was changed.',
        )
    else:
        passed = document['passed_over']
        say(
            console,
            f'{counted(len(document["retried"]))} due now; workers were told through PostgreSQL.',
        )
        if passed:
            say(console, f'{counted(passed)} left alone: changed meanwhile.')
        if document['left']:
            more = counted(document['left'], 'more e-mail fits', 'more e-mails fit')
            say(console, f'{more}: run it again, or raise --limit.')
