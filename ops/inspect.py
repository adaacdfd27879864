"""What the workers do now and next: the words of `celery inspect`."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from arq.connections import ArqRedis

from db import reports
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import find_queues
from engine.results import read_job
from fleet.channel import choose
from fleet.queued_jobs import read_deferred, read_running
from mail.outcome import Outcome
from ops.answer import NOBODY_REPLIED, USAGE, Answer, Document, Trouble, TroubleError
from ops.arguments import MAX_ROWS, Choices, add_json, add_limit
from ops.asking import add_workers, ask_workers, read_database, read_living_fleet
from ops.connect import Connections, attempt
from ops.inspect_tables import render
from ops.live import is_alive, queue_troubles, read_fleet
from ops.result import as_document
from ops.software import read_software
from reporting.judge import judge_foreign
from reporting.overview import mark_foreign

HELP = 'the words of `celery inspect`: active, reserved, scheduled, stats, ping, conf ...'

Reader = Callable[[Connections, argparse.Namespace, list[Trouble]], Awaitable[Document]]

__all__ = ['HELP', 'add_arguments', 'render', 'run']

# What Celery could say, and arq has no such thing: why, and what to use.
INSTEAD = {
    'revoked': 'jobs are not revoked, e-mails are cancelled: see `python -m ops purge outbox`, '
    'and `python -m ops show ID` for one e-mail',
    'clock': 'workers exchange no messages, so they keep no logical clock; `python -m ops doctor` compares real ones',
    'memsample': 'see the memory of each worker in `python -m ops inspect stats`; WORKER_RECYCLE_RSS_MIB bounds it',
    'memdump': 'see the memory of each worker in `python -m ops inspect stats`; WORKER_RECYCLE_RSS_MIB bounds it',
    'objgraph': 'no command runs code in a worker; `python -m ops control stacks` shows where its tasks wait',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        'what', choices=Choices(READERS, INSTEAD), metavar='what', help=', '.join(READERS)
    )
    parser.add_argument('jobs', nargs='*', metavar='JOB', help='with query_task: ids of jobs')
    add_workers(parser)
    add_limit(parser, 100)
    add_json(parser)


def check(options: argparse.Namespace) -> None:
    """Refuse words that have no meaning here, or not with these options.

    Raises:
        TroubleError: says what to use instead.
    """
    what = options.what
    if what in INSTEAD:
        raise TroubleError(Trouble(f'there is no {what} here', INSTEAD[what], exit_status=USAGE))
    if bool(options.jobs) != (what == 'query_task'):
        wrong = f'{what} takes no ids of jobs' if options.jobs else 'query_task needs ids of jobs'
        raise TroubleError(
            Trouble(wrong, '`python -m ops inspect query_task JOB ...`', exit_status=USAGE)
        )
    if options.workers and what in OF_NO_WORKER:
        remedy = f'leave out --worker: {OF_NO_WORKER[what]}'
        raise TroubleError(Trouble(f'{what} is of no worker', remedy, exit_status=USAGE))


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Ask the fleet and, at the same time, what the word is about."""
    check(options)
    what = options.what
    troubles: list[Trouble] = []
    fleet, document, database = await asyncio.gather(
        read_living(connections, options, troubles),
        READERS[what](connections, options, troubles),
        read_database(connections),
    )
    if fleet:
        mark_foreign(fleet['workers'], database)
        troubles += judge_foreign(fleet['workers'])
        if options.workers and what == 'active_queues':
            own = {worker['queue'] for worker in fleet['workers']}
            fleet['queues'] = [queue for queue in fleet['queues'] if queue['name'] in own]
        if not is_alive(fleet):
            troubles.append(NOBODY_REPLIED)
        elif what == 'active_queues':
            troubles += queue_troubles(fleet)
    document = {'inspect': what} | (fleet or {'workers': None, 'queues': None}) | document
    if what in JOINS:
        JOINS[what](document)
    if options.workers and what in LISTED_BY_WORKER:
        for part in LISTED_BY_WORKER[what]:
            rows = document[part]
            document[part] = rows and of_workers(rows, options.workers)[: options.limit]
    return Answer(document, list(dict.fromkeys(troubles)))


def of_workers(rows: list[Document], patterns: list[str]) -> list[Document]:
    """Leave the rows whose worker is meant by --worker."""
    meant = choose(patterns, [row['worker'] for row in rows if row['worker'] is not None])
    return [row for row in rows if row['worker'] in meant]


async def read_living(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document | None:
    """Return workers and queues; workers as they are this moment, or as they last registered when they do not reply."""
    if options.what in ASKED_THEMSELVES:
        return await attempt(connections.ask_redis(read_fleet), troubles)
    return await read_living_fleet(connections, options, troubles)


async def read_ping(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Ask every worker for a sign of life."""
    return await _replies(connections, options, troubles, 'ping')


async def read_conf(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return each worker's settings, without secrets."""
    return await _replies(connections, options, troubles, 'conf')


async def _replies(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble], command: str
) -> Document:
    answers = await attempt(ask_workers(connections, options, command), troubles)
    if answers is None:
        return {'replies': None}
    troubles += answers.troubles()
    return {'replies': answers.done}


async def read_active(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return the e-mails being sent, and the jobs that are running."""
    limit = MAX_ROWS if options.workers else options.limit  # theirs may be the last
    emails, jobs = await asyncio.gather(
        attempt(connections.ask_postgres(partial(reports.read_active, limit=limit)), troubles),
        attempt(connections.ask_redis(read_running), troubles),
    )
    return {'emails': emails, 'jobs': None if jobs is None else [asdict(job) for job in jobs]}


def join_active(document: Document) -> None:
    """Add to each e-mail how far it has come; without PostgreSQL, say what the workers say. Jobs: those without one."""
    told = {
        email.get('id'): {
            'worker': worker['worker'],
            'phase': email.get('phase'),
            'relay': email.get('relay'),
        }
        for worker in document['workers'] or ()
        for email in worker['emails']
    }
    if document['emails'] is None and document['workers'] is not None:
        document['emails'] = [{'id': email_id} for email_id in told]
    for email in document['emails'] or ():
        for part in ('worker', 'phase', 'relay'):
            email.setdefault(part, told.get(email['id'], {}).get(part))
    if document['jobs'] is not None:
        document['jobs'] = [
            j for j in _with_workers(document) if j['function'] and j['function'] not in EMAIL_JOBS
        ]


async def read_scheduled(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return the e-mails with a time to come, and the deferred jobs that will wake a worker for them."""
    emails, jobs = await asyncio.gather(
        attempt(
            connections.ask_postgres(partial(reports.read_scheduled, limit=options.limit)), troubles
        ),
        attempt(connections.ask_redis(partial(read_deferred, limit=options.limit)), troubles),
    )
    total, rows = emails or (None, None)
    return {
        'total': total,
        'emails': rows,
        'jobs': None if jobs is None else [asdict(job) for job in jobs],
    }


async def read_reserved(
    connections: Connections, _: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return the jobs a worker has locked."""
    jobs = await attempt(connections.ask_redis(read_running), troubles)
    return {'jobs': None if jobs is None else [asdict(job) for job in jobs]}


def join_reserved(document: Document) -> None:
    """Leave the jobs that are locked but not begun: their e-mail is not being sent yet."""
    if document['jobs'] is None:
        return
    begun = {email.get('id') for worker in document['workers'] or () for email in worker['emails']}
    document['jobs'] = [
        job
        for job in _with_workers(document)
        if job['function'] is None
        or (job['function'] in EMAIL_JOBS and job['email_id'] not in begun)
    ]


def _with_workers(document: Document) -> list[Document]:
    """Say of each locked job which worker says that it runs it."""
    holders = {
        job.get('job_id'): w['worker'] for w in document['workers'] or () for job in w['jobs']
    }
    return [job | {'worker': holders.get(job['job_id'])} for job in document['jobs']]


async def read_query(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return where jobs are, and what became of them."""

    async def find(redis: ArqRedis) -> list[Document]:
        queues = await find_queues(redis)
        return [
            as_document(await read_job(redis, job_id, queues))
            for job_id in dict.fromkeys(options.jobs)
        ]

    jobs = await attempt(connections.ask_redis(find), troubles)
    for job in jobs or ():
        if job['state'] == 'unknown':
            remedy = '`python -m ops show ID` tells what became of an e-mail'
            troubles.append(Trouble(f'there is no job {job["job_id"]}', remedy))
    return {'jobs': jobs}


def join_query(document: Document) -> None:
    """Say which worker runs a job."""
    if document['jobs'] is not None:
        document['jobs'] = _with_workers(document)


async def read_stats(
    connections: Connections, options: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return counts and rates of attempts over the last hour and day, in all and by worker."""
    counts = await attempt(connections.ask_postgres(reports.count_attempts), troubles)
    if counts is None:
        return {'hour': None, 'day': None, 'by_worker': None}
    if options.workers:
        counts = of_workers(counts, options.workers)
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
        One number per outcome; attempts: their sum without the released, which tried nothing;
        success_rate and failure_rate from 0 to 1, None without attempts.
    """
    totals = {outcome.value: 0 for outcome in Outcome}
    for row in rows:
        totals[row['outcome']] += row[span]
    attempts = sum(totals.values()) - totals[Outcome.RELEASED]
    success = totals[Outcome.ACCEPTED] / attempts if attempts else None
    failure = None if success is None else 1 - success
    return totals | {'attempts': attempts, 'success_rate': success, 'failure_rate': failure}


async def read_nothing(
    _connections: Connections, _options: argparse.Namespace, _troubles: list[Trouble]
) -> Document:
    """Return nothing more than the fleet."""
    return {}


async def read_report(
    connections: Connections, _: argparse.Namespace, troubles: list[Trouble]
) -> Document:
    """Return versions of everything."""
    return await read_software(connections, troubles)


READERS: dict[str, Reader] = {
    'ping': read_ping,
    'active': read_active,
    'reserved': read_reserved,
    'scheduled': read_scheduled,
    'registered': read_nothing,
    'active_queues': read_nothing,
    'stats': read_stats,
    'conf': read_conf,
    'report': read_report,
    'query_task': read_query,
}
ASKED_THEMSELVES = frozenset({'ping', 'conf'})
OF_NO_WORKER = {
    'scheduled': 'any worker takes mail whose time has come',
    'query_task': 'a job is found wherever it is',
}
LISTED_BY_WORKER = {'active': ('emails', 'jobs'), 'reserved': ('jobs',)}
JOINS: dict[str, Callable[[Document], None]] = {
    'active': join_active,
    'reserved': join_reserved,
    'query_task': join_query,
}
