"""What the workers do now and next: the words of `celery inspect`, answered."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from arq.connections import ArqRedis

from db import reports
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import find_queues
from engine.results import read_job
from fleet.channel import chosen_workers
from fleet.queued_jobs import read_deferred, read_running
from mail.outcome import Outcome
from reporting.jobs import job_document
from reporting.judge_fleet import judge_foreign
from reporting.live import (
    Audience,
    ask_workers,
    no_such_worker,
    read_database,
    read_fleet_now,
    read_living_fleet,
)
from reporting.overview import mark_foreign
from reporting.problems import NOBODY_REPLIED, Document, Problem, is_alive, queue_problems
from reporting.servers import Servers, answer_or_note
from reporting.software import read_software

MAX_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is asked."""

    what: str  # one of READERS
    audience: Audience = field(default_factory=Audience)
    limit: int = 100
    jobs: Sequence[str] = ()  # their ids, for query_task
    program: Mapping[str, str] = field(default_factory=dict)  # our own version and such, for report
    asks: bool = True  # False: workers as they registered, seconds ago; none is waited for


Reader = Callable[[Servers, Inspection, list[Problem]], Awaitable[Document]]


async def inspect_workers(servers: Servers, asked: Inspection) -> tuple[Document, list[Problem]]:
    """Ask the fleet and, at the same time, what the word is about.

    Returns:
        A document with inspect (the word), workers, queues and the word's own parts, None for what
        is unknown; and the problems.
    """
    what, names = asked.what, asked.audience.workers
    problems: list[Problem] = []
    fleet, document, database = await asyncio.gather(
        _read_fleet(servers, asked, problems),
        READERS[what](servers, asked, problems),
        read_database(servers),
    )
    if fleet:
        mark_foreign(fleet['workers'], database)
        problems += judge_foreign(fleet['workers'])
        if names and what == 'active_queues':
            own = {worker['queue'] for worker in fleet['workers']}
            fleet['queues'] = [queue for queue in fleet['queues'] if queue['name'] in own]
        if not is_alive(fleet):
            problems.append(NOBODY_REPLIED)
        elif what == 'active_queues':
            problems += queue_problems(fleet)
    document = {'inspect': what} | (fleet or {'workers': None, 'queues': None}) | document
    if what in JOINS:
        JOINS[what](document)
    if names and what in LISTED_BY_WORKER:
        for part in LISTED_BY_WORKER[what]:
            rows = document[part]
            document[part] = rows and of_workers(rows, names)[: asked.limit]
    return document, list(dict.fromkeys(problems))


def of_workers(rows: list[Document], patterns: Sequence[str]) -> list[Document]:
    """Leave the rows whose worker is meant by --worker."""
    meant = chosen_workers(patterns, [row['worker'] for row in rows if row['worker'] is not None])
    return [row for row in rows if row['worker'] in meant]


async def _read_fleet(
    servers: Servers, asked: Inspection, problems: list[Problem]
) -> Document | None:
    """Return workers and queues; a worker that does not reply is as it last registered."""
    if asked.what in ASKED_THEMSELVES or not asked.asks:
        fleet = await answer_or_note(servers.ask_redis(read_fleet_now), problems)
        return fleet and _of_audience(fleet, asked, problems)
    return await read_living_fleet(servers, asked.audience, problems)


def _of_audience(fleet: Document, asked: Inspection, problems: list[Problem]) -> Document:
    """Leave the workers that are meant, where they are not asked themselves."""
    patterns = asked.audience.workers
    if patterns is None or asked.what in ASKED_THEMSELVES:
        return fleet
    meant = of_workers(fleet['workers'], patterns)
    if not meant and is_alive(fleet):
        problems.append(no_such_worker([worker['worker'] for worker in fleet['workers']]))
    return fleet | {'workers': meant}


async def read_replies(servers: Servers, asked: Inspection, problems: list[Problem]) -> Document:
    """Ask every worker for a sign of life (ping), or its settings without secrets (conf)."""
    asking = ask_workers(servers, asked.audience, asked.what)
    answers = await answer_or_note(asking, problems)
    if answers is None:
        return {'replies': None}
    problems += answers.problems()
    return {'replies': answers.done}


async def read_active_work(
    servers: Servers, asked: Inspection, problems: list[Problem]
) -> Document:
    """Return the e-mails being sent, and the jobs that are running."""
    limit = MAX_ROWS if asked.audience.workers else asked.limit  # theirs may be the last
    emails, jobs = await asyncio.gather(
        answer_or_note(servers.ask_postgres(partial(reports.read_active, limit=limit)), problems),
        answer_or_note(servers.ask_redis(read_running), problems),
    )
    return {'emails': emails, 'jobs': None if jobs is None else [asdict(job) for job in jobs]}


def join_active(document: Document) -> None:
    """Add to each e-mail how far it has come; without PostgreSQL, take what the workers report.

    Of the jobs only those without an e-mail stay.
    """
    reported = {
        email.get('id'): {
            'worker': worker['worker'],
            'phase': email.get('phase'),
            'relay': email.get('relay'),
        }
        for worker in document['workers'] or ()
        for email in worker['emails']
    }
    if document['emails'] is None and document['workers'] is not None:
        document['emails'] = [{'id': email_id} for email_id in reported]
    for email in document['emails'] or ():
        for part in ('worker', 'phase', 'relay'):
            email.setdefault(part, reported.get(email['id'], {}).get(part))
    if document['jobs'] is not None:
        document['jobs'] = [
            j for j in _with_workers(document) if j['function'] and j['function'] not in EMAIL_JOBS
        ]


async def read_scheduled_work(
    servers: Servers, asked: Inspection, problems: list[Problem]
) -> Document:
    """Return the e-mails with a time to come, and the deferred jobs that will wake a worker."""
    reading = partial(reports.read_scheduled, limit=asked.limit)
    emails, jobs = await asyncio.gather(
        answer_or_note(servers.ask_postgres(reading), problems),
        answer_or_note(servers.ask_redis(partial(read_deferred, limit=asked.limit)), problems),
    )
    total, rows = emails or (None, None)
    return {
        'total': total,
        'emails': rows,
        'jobs': None if jobs is None else [asdict(job) for job in jobs],
    }


async def read_reserved(servers: Servers, _: Inspection, problems: list[Problem]) -> Document:
    """Return the jobs a worker has locked."""
    jobs = await answer_or_note(servers.ask_redis(read_running), problems)
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
    """Add to each locked job the worker that reports running it."""
    holders = {
        job.get('job_id'): w['worker'] for w in document['workers'] or () for job in w['jobs']
    }
    return [job | {'worker': holders.get(job['job_id'])} for job in document['jobs']]


async def read_query(servers: Servers, asked: Inspection, problems: list[Problem]) -> Document:
    """Return where jobs are, and what became of them."""

    async def find(redis: ArqRedis) -> list[Document]:
        queues = await find_queues(redis)
        return [
            job_document(await read_job(redis, job_id, queues))
            for job_id in dict.fromkeys(asked.jobs)
        ]

    jobs = await answer_or_note(servers.ask_redis(find), problems)
    for job in jobs or ():
        if job['state'] == 'unknown':
            remedy = '`python -m ops show ID` tells what became of an e-mail'
            problems.append(Problem(f'there is no job {job["job_id"]}', remedy))
    return {'jobs': jobs}


def join_query(document: Document) -> None:
    """Add which worker runs a job."""
    if document['jobs'] is not None:
        document['jobs'] = _with_workers(document)


async def read_stats(servers: Servers, asked: Inspection, problems: list[Problem]) -> Document:
    """Return counts and rates of attempts over the last hour and day, in all and by worker."""
    counts = await answer_or_note(servers.ask_postgres(reports.count_attempts), problems)
    if counts is None:
        return {'hour': None, 'day': None, 'by_worker': None}
    if asked.audience.workers:
        counts = of_workers(counts, asked.audience.workers)
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


async def read_nothing(_servers: Servers, _asked: Inspection, _: list[Problem]) -> Document:
    """Return nothing more than the fleet."""
    return {}


async def read_report(servers: Servers, asked: Inspection, problems: list[Problem]) -> Document:
    """Return versions of everything."""
    return await read_software(servers, asked.program, problems)


READERS: Mapping[str, Reader] = {
    'ping': read_replies,
    'active': read_active_work,
    'reserved': read_reserved,
    'scheduled': read_scheduled_work,
    'registered': read_nothing,
    'active_queues': read_nothing,
    'stats': read_stats,
    'conf': read_replies,
    'report': read_report,
    'query_task': read_query,
}
ASKED_THEMSELVES = frozenset({'ping', 'conf'})
LISTED_BY_WORKER = {'active': ('emails', 'jobs'), 'reserved': ('jobs',)}
JOINS: Mapping[str, Callable[[Document], None]] = {
    'active': join_active,
    'reserved': join_reserved,
    'query_task': join_query,
}
