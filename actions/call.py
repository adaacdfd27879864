"""Put a job into a queue, and wait for what becomes of it; run a duty besides its slots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

from arq.connections import ArqRedis

from actions.safety import RequestError, agree
from actions.switch import known_names, refuse_unknown
from db.switches import SwitchKind
from delivery.email_jobs import EMAIL_JOBS
from engine.queues import QUEUES
from engine.results import JobState, wait_for_job
from engine.wire import MAX_JOB_BYTES, serialize
from fleet.duties import DUTIES
from fleet.registry import read_served_queues
from fleet.routing import EMAIL_QUEUE, MAINTENANCE_QUEUE
from reporting.jobs import job_problems
from reporting.live import read_living
from reporting.problems import NO_WORKER, Problem, ProblemError
from reporting.servers import QUEUE, Servers
from reporting.wording import counted

# What our workers run, and how many ids of e-mails each takes. tests/services/test_ops_call.py
# holds it against worker.py.
JOBS: Mapping[str, int] = {
    **dict.fromkeys(EMAIL_JOBS, 1),
    **dict.fromkeys((duty.name for duty in DUTIES), 0),
}


@dataclass(frozen=True, slots=True)
class JobCall:
    """A job that is asked for."""

    function: str
    queue: str
    arguments: Sequence[Any] = ()
    defer_s: float = 0.0
    wait_s: float | None = None  # for its result; None: not at all


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What is about to be queued, and whether a worker polls that queue."""

    call: JobCall
    is_served: bool


@dataclass(frozen=True, slots=True)
class CalledJob:
    """What was queued, or would be."""

    dry_run: bool
    call: JobCall
    job_id: str | None = None
    job: JobState | None = None  # when its result was waited for
    problems: list[Problem] = field(default_factory=list)


def queue_for(function: str, *, routed: bool) -> str:
    """Return the queue that a job of ours goes to: with QUEUE_ROUTING, by its kind."""
    if not routed:
        return QUEUE
    return EMAIL_QUEUE if function in EMAIL_JOBS else MAINTENANCE_QUEUE


async def call_job(
    servers: Servers,
    call: JobCall,
    *,
    dry_run: bool = False,
    confirm: Callable[[CallPlan], None] = agree,
) -> CalledJob:
    """Enqueue a job.

    A queue that nobody serves is reported, not refused: a worker may be on its way.

    Raises:
        RequestError: no worker of ours could run this.
        ProblemError: Redis does not answer.
    """
    refuse_impossible(call)
    is_served = await servers.ask_redis(partial(_is_served, name=call.queue))
    problems = [] if is_served else [_nobody_serves(call.queue)]
    called = CalledJob(dry_run, call, problems=problems)
    if dry_run:
        return called
    confirm(CallPlan(call, is_served))
    job_id = await servers.ask_redis(partial(_put, call=call))
    called = replace(called, job_id=job_id)
    if call.wait_s is None:
        return called
    waiting = partial(wait_for_job, job_id=job_id, queues=[call.queue], timeout_s=call.wait_s)
    job = await servers.ask_redis(waiting)
    problems = [] if job.state == 'complete' else problems
    return replace(called, job=job, problems=[*problems, *job_problems(job, waited_s=call.wait_s)])


async def run_duty(
    servers: Servers,
    name: str,
    *,
    wait_s: float | None = None,
    dry_run: bool = False,
    confirm: Callable[[CallPlan], None] = agree,
) -> CalledJob:
    """Enqueue a duty where a worker that has it listens.

    Raises:
        UnknownNameError: there is no such duty; ProblemError: Redis or PostgreSQL does not answer.
    """
    workers = await servers.ask_redis(read_living)
    known = await known_names(servers, SwitchKind.CRON, workers)
    refuse_unknown(SwitchKind.CRON, name, known, 'is there to run')
    queues = [worker.queue for worker in workers if name in worker.functions]
    queue = QUEUE if QUEUE in queues or not queues else queues[0]
    call = JobCall(name, queue, wait_s=wait_s)
    return await call_job(servers, call, dry_run=dry_run, confirm=confirm)


def refuse_impossible(call: JobCall) -> None:
    """Refuse a job that no worker of ours could run. Other queues may take any function.

    Raises:
        RequestError: says what to give instead.
    """
    takes = JOBS.get(call.function)
    if takes is None:
        if call.queue in QUEUES:
            what = f'{call.function!r} is no job of our workers'
            raise RequestError(what, f'give one of {", ".join(JOBS)}')
        if len(serialize({'a': list(call.arguments)})) > MAX_JOB_BYTES // 2:
            raise RequestError('the arguments are too long', 'pass an id, not the content')
    elif len(call.arguments) != takes:
        takes_how_many = f'{call.function} takes {counted(takes, "argument")}'
        raise RequestError(f'{takes_how_many}, not {len(call.arguments)}', 'see --help')
    elif wrong := [a for a in call.arguments if type(a) is not int or not 0 < a < 2**63]:
        what = f'{wrong[0]!r} is no id of an e-mail: a positive whole number'
        raise RequestError(what, 'see `python -m ops failed` for ids')


async def _is_served(redis: ArqRedis, name: str) -> bool:
    return name in await read_served_queues(redis, await read_living(redis), [name])


def _nobody_serves(queue: str) -> Problem:
    what = f'nobody serves the queue {queue}'
    return Problem(what, 'start a worker for it', exit_status=NO_WORKER)


async def _put(redis: ArqRedis, call: JobCall) -> str:
    defer = timedelta(seconds=call.defer_s) if call.defer_s else None
    job = await redis.enqueue_job(
        call.function, *call.arguments, _queue_name=call.queue, _defer_by=defer
    )
    if job is None:  # the id is random: somebody else's job has it only by a miracle
        raise ProblemError(Problem('Redis knows a job of this id already', 'try again'))
    return job.job_id
