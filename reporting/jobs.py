"""What became of a job, and whether that is a problem."""

from dataclasses import asdict
from typing import Any

from arq.connections import ArqRedis

from db.states import NOT_SENT_BY_ITSELF, RETRYABLE
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import find_queues
from engine.results import JobState, read_job
from reporting.problems import Document, Problem
from reporting.wording import length


async def find_job(redis: ArqRedis, job_id: str) -> JobState:
    """Look for a job's result, and in every queue."""
    return await read_job(redis, job_id, await find_queues(redis))


def job_document(job: JobState) -> Document:
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


def job_problems(job: JobState, waited_s: float | None = None) -> list[Problem]:
    """Judge a job. waited_s: for how long its end was waited for."""
    match job.state:
        case 'complete' if job.function in EMAIL_JOBS:
            return _problems_of_email(job.result)
        case 'failed':
            return [
                Problem(
                    f'the job failed: {job.problem or _error(job.result)}',
                    "see the lines of this job in the worker's log",
                )
            ]
        case 'ended':
            why = job.problem or 'not written by arq'
            what = f'the job ended, but its result cannot be read: {why}'
            return [Problem(what, 'have its function return plain values')]
        case 'unknown':
            return [
                Problem(
                    f'there is no job {job.job_id}' if job.problem is None else job.problem,
                    'its result was kept for WORKER_KEEP_RESULT_S; '
                    '`python -m ops show` tells what became of an e-mail',
                )
            ]
        case 'ready' | 'deferred' | 'running' if waited_s is not None:
            return [
                Problem(
                    f'no result within {length(waited_s)}',
                    f'see `python -m ops result {job.job_id}` later',
                )
            ]
        case _:
            return []


def _problems_of_email(result: object) -> list[Problem]:
    """Judge the result of a job that sends an e-mail, see jobs/send_email.py.

    One that waits or is being sent is fine.
    """
    match result:
        case {'status': 'not-claimable', 'state': None, 'reason': reason}:
            return [Problem(f'nothing was sent: {reason}', 'see `python -m ops failed` for ids')]
        case {
            'email_id': email_id,
            'status': 'not-claimable',
            'state': state,
            'reason': reason,
        } if state in NOT_SENT_BY_ITSELF:
            return [
                Problem(
                    f'the e-mail was not sent: {reason}', f'see `python -m ops explain {email_id}`'
                )
            ]
        case {'email_id': email_id, 'status': status} if status in RETRYABLE:
            return [Problem(f'the e-mail is {status}', f'see `python -m ops explain {email_id}`')]
        case _:
            return []


def _error(result: object) -> str:
    if isinstance(result, dict) and 'error' in result:
        return f'{result["error"]}: {result.get("message", "")}'[:500]
    return str(result)[:500]
