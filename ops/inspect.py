"""What the workers do now and next: the words of `celery inspect`."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from rich.console import Console

from db import reports
from fleet.queues import read_deferred, read_running
from mail.outcome import Outcome
from ops.answer import NOBODY_REPLIED, Answer, Document, Trouble
from ops.arguments import add_json, add_limit
from ops.connect import Connections, attempt
from ops.live import is_alive, outcomes_of, queue_troubles, read_fleet, render_queues
from ops.output import length, megabytes, percent, print_table

HELP = 'active, scheduled, reserved, stats, active_queues: the words of `celery inspect`'

Reader = Callable[[Connections, int, list[Trouble]], Awaitable[Document]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('what', choices=READERS, help='active: being sent; scheduled: for later; reserved: locked jobs')
    add_limit(parser, 100)
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask the fleet and, at the same time, what the word is about."""
    troubles: list[Trouble] = []
    fleet, document = await asyncio.gather(
        attempt(connections.ask_redis(read_fleet), troubles),
        READERS[options.what](connections, options.limit, troubles),
    )
    if fleet:
        if not is_alive(fleet):
            troubles.append(NOBODY_REPLIED)
        elif options.what == 'active_queues':
            troubles += queue_troubles(fleet)
    document = {'inspect': options.what} | (fleet or {'workers': None, 'queues': None}) | document
    return Answer(document, list(dict.fromkeys(troubles)))


async def read_active(connections: Connections, limit: int, troubles: list[Trouble]) -> Document:
    """Return the e-mails being sent."""
    return {'emails': await attempt(connections.ask_postgres(partial(reports.read_active, limit=limit)), troubles)}


async def read_scheduled(connections: Connections, limit: int, troubles: list[Trouble]) -> Document:
    """Return the e-mails with a time to come, and the deferred jobs that will wake a worker for them."""
    emails, jobs = await asyncio.gather(
        attempt(connections.ask_postgres(partial(reports.read_scheduled, limit=limit)), troubles),
        attempt(connections.ask_redis(partial(read_deferred, limit=limit)), troubles),
    )
    total, rows = emails or (None, None)
    return {'total': total, 'emails': rows, 'jobs': None if jobs is None else [asdict(job) for job in jobs]}


async def read_reserved(connections: Connections, _: int, troubles: list[Trouble]) -> Document:
    """Return the jobs a worker has locked."""
    jobs = await attempt(connections.ask_redis(read_running), troubles)
    return {'jobs': None if jobs is None else [asdict(job) for job in jobs]}


async def read_stats(connections: Connections, _: int, troubles: list[Trouble]) -> Document:
    """Return counts and rates of attempts over the last hour and day, in all and by worker."""
    counts = await attempt(connections.ask_postgres(reports.count_attempts), troubles)
    if counts is None:
        return {'hour': None, 'day': None, 'by_worker': None}
    names = dict.fromkeys(row['worker'] for row in counts)
    return {
        'hour': rates(counts, 'hour'),
        'day': rates(counts, 'day'),
        'by_worker': [
            {'worker': name, 'hour': rates(own, 'hour'), 'day': rates(own, 'day')}
            for name in names
            for own in [[row for row in counts if row['worker'] == name]]
        ],
    }


def rates(rows: Iterable[Mapping[str, Any]], span: str) -> Document:
    """Add attempts up, and say which share of those that counted was accepted.

    Args:
        rows: outcome, and a number under the name span.
    Returns:
        One number per outcome; attempts: their sum without the released, which tried nothing; success_rate and
        failure_rate from 0 to 1, None without attempts.
    """
    totals = {outcome.value: 0 for outcome in Outcome}
    for row in rows:
        totals[row['outcome']] += row[span]
    attempts = sum(totals.values()) - totals[Outcome.RELEASED]
    success = totals[Outcome.ACCEPTED] / attempts if attempts else None
    failure = None if success is None else 1 - success
    return totals | {'attempts': attempts, 'success_rate': success, 'failure_rate': failure}


async def read_active_queues(_connections: Connections, _limit: int, _troubles: list[Trouble]) -> Document:
    """Return nothing more than the fleet."""
    return {}


READERS: dict[str, Reader] = {
    'active': read_active,
    'scheduled': read_scheduled,
    'reserved': read_reserved,
    'stats': read_stats,
    'active_queues': read_active_queues,
}


def render(document: Document, console: Console) -> None:
    """Print the tables of the parts that are known."""
    match document['inspect']:
        case 'active':
            _render_active(document, console)
        case 'scheduled':
            _render_scheduled(document, console)
        case 'reserved':
            _render_jobs('Reserved jobs', document['jobs'], console)
        case 'stats':
            _render_stats(document, console)
        case _:
            _render_active_queues(document, console)


def _render_active(document: Document, console: Console) -> None:
    if document['emails'] is not None:
        print_table(
            console,
            'Being sent',
            ('id', 'type', 'attempt', 'since', 'worker', 'last relay', 'lease ends in'),
            (
                (e['id'], e['email_type'], f'{e["attempt"]} of {e["max_attempts"]}', f'{length(e["claimed_s"])} ago',
                 e['worker'], e['last_relay'], length(e['lease_ends_in_s']))
                for e in document['emails']
            ),
        )  # fmt: skip
    elif document['workers'] is not None:
        print_table(
            console,
            'Being sent, as the workers say',
            ('worker', 'queue', 'e-mails'),
            ((w['worker'], w['queue'], ', '.join(map(str, w['emails']))) for w in document['workers']),
        )


def _render_scheduled(document: Document, console: Console) -> None:
    if document['emails'] is not None:
        shown = len(document['emails'])
        print_table(
            console,
            f'Scheduled e-mails ({shown} of {document["total"]})',
            ('id', 'type', 'status', 'attempts', 'in', 'at'),
            (
                (e['id'], e['email_type'], e['status'], f'{e["attempts"]} of {e["max_attempts"]}',
                 length(e['due_in_s']), e['next_retry_at'])
                for e in document['emails']
            ),
        )  # fmt: skip
    _render_jobs('Deferred jobs', document['jobs'], console)


def _render_jobs(title: str, jobs: list[Document] | None, console: Console) -> None:
    if jobs is not None:
        print_table(
            console,
            title,
            ('job', 'queue', 'function', 'e-mail', 'wanted at', 'tries', 'lock ends in'),
            (
                (j['job_id'], j['queue'], j['function'] or j['problem'], j['email_id'], j['wanted_at'], j['tries'],
                 length(j['lock_ends_in_s']))
                for j in jobs
            ),
        )  # fmt: skip


def _render_stats(document: Document, console: Console) -> None:
    outcomes = [outcome.value for outcome in Outcome]
    if document['hour'] is not None:
        spans = [('all', document)] + [(of['worker'], of) for of in document['by_worker']]
        print_table(
            console,
            'Attempts',
            ('worker', 'last', 'attempts', *outcomes, 'success', 'failure'),
            (
                (name, span, of[span]['attempts'], *(of[span][outcome] for outcome in outcomes),
                 percent(of[span]['success_rate']), percent(of[span]['failure_rate']))
                for name, of in spans
                for span in ('hour', 'day')
            ),
        )  # fmt: skip
    if document['workers'] is not None:
        print_table(
            console,
            'Workers since their start',
            ('worker', 'since', 'attempts', 'memory'),
            (
                (w['worker'], w['started_at'], outcomes_of(w['outcomes']), megabytes(w['rss_bytes']))
                for w in document['workers']
            ),
        )


def _render_active_queues(document: Document, console: Console) -> None:
    if document['queues'] is not None:
        print_table(
            console,
            'Queues by worker',
            ('worker', 'queue'),
            ((w['worker'], w['queue']) for w in document['workers']),
        )
        render_queues(document, console)
