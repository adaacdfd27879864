"""What became of a job: what `celery result` said."""

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

from arq.connections import ArqRedis
from rich.console import Console

from db.states import NOT_SENT_BY_ITSELF, RETRYABLE
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import find_queues
from engine.results import JobState, read_job
from ops.answer import Answer, Document, Trouble
from ops.arguments import add_json
from ops.connect import Connections
from ops.mail_filter import text_value
from ops.output import length, print_table

HELP = "a job's result, or where it waits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument('job', type=text_value, metavar='JOB', help="the job's id")
    add_json(parser)


async def run(connections: Connections, options: argparse.Namespace) -> Answer:
    """Read it; a job that failed or left its e-mail unsent, and one nobody knows, is trouble."""
    job = await connections.ask_redis(partial(find, job_id=options.job))
    return Answer(as_document(job), troubles_of(job))


async def find(redis: ArqRedis, job_id: str) -> JobState:
    """Look for a job's result, and in every queue."""
    return await read_job(redis, job_id, await find_queues(redis))


def as_document(job: JobState) -> Document:
    """Return a job for machines: what is not JSON in its values is described."""
    return asdict(job) | {'arguments': _plain(job.arguments), 'result': _plain(job.result)}


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: a key may be anything that a job's result was made of."""
    match value:
        case dict():
            return {
                key if isinstance(key, str) else repr(key): _plain(item)
                for key, item in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case bytes():
            return repr(value)
        case _:
            return value


def troubles_of(job: JobState, waited_s: float | None = None) -> list[Trouble]:
    """Judge a job. waited_s: how long its end was waited for."""
    match job.state:
        case 'complete' if job.function in EMAIL_JOBS:
            return _troubles_of_email(job.result)
        case 'failed':
            return [
                Trouble(
                    f'the job failed: {job.problem or _error(job.result)}',
                    "see `job failed` in the worker's log",
                )
            ]
        case 'ended':
            what = f'the job ended, but its result cannot be read: {job.problem or "not written by arq"}'
            return [Trouble(what, 'have its function return plain values')]
        case 'unknown':
            return [
                Trouble(
                    f'there is no job {job.job_id}' if job.problem is None else job.problem,
                    'its result was kept for WORKER_KEEP_RESULT_S; `python -m ops show` tells what became of an e-mail',
                )
            ]
        case 'ready' | 'deferred' | 'running' if waited_s is not None:
            return [
                Trouble(
                    f'no result within {length(waited_s)}',
                    f'see `python -m ops result {job.job_id}` later',
                )
            ]
        case _:
            return []


def _troubles_of_email(result: object) -> list[Trouble]:
    """Judge what a job that sends an e-mail tells: one that waits or is being sent is fine, see jobs/send_email.py."""
    match result:
        case {'status': 'not-claimable', 'state': None, 'reason': reason}:
            return [Trouble(f'nothing was sent: {reason}', 'see `python -m ops failed` for ids')]
        case {
            'email_id': email_id,
            'status': 'not-claimable',
            'state': state,
            'reason': reason,
        } if state in NOT_SENT_BY_ITSELF:
            return [
                Trouble(
                    f'the e-mail was not sent: {reason}', f'see `python -m ops explain {email_id}`'
                )
            ]
        case {'email_id': email_id, 'status': status} if status in RETRYABLE:
            return [Trouble(f'the e-mail is {status}', f'see `python -m ops explain {email_id}`')]
        case _:
            return []


def _error(result: object) -> str:
    if isinstance(result, dict) and 'error' in result:
        return f'{result["error"]}: {result.get("message", "")}'[:500]
    return str(result)[:500]


def render(document: Document, console: Console) -> None:
    """Print what is known."""
    render_job(document, console)


def render_job(job: Document, console: Console) -> None:
    """Print a job's state as a table of names and values."""
    told = job | {'kept for': None if job['kept_for_s'] is None else length(job['kept_for_s'])}
    rows = [
        (name.replace('_', ' '), value)
        for name, value in told.items()
        if value is not None and name not in ('job_id', 'kept_for_s')
    ]
    print_table(console, f'Job {job["job_id"]}', ('', ''), rows)
