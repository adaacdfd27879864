"""What arq's queues hold, in honest numbers, whatever else stands under their keys.

A queue is a sorted set of job ids by the time they are wanted (ms). A running job stays in it until
it ends, locked by its in-progress key; its body is a key of its own. So the set's size alone says
little.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, in_progress_key_prefix, job_key_prefix, retry_key_prefix

from engine.refused import email_id_among
from engine.wire import RefusedJobError, deserialize

WORKERS_KEY = 'mail:workers'  # the registry of the fleet stands among the queues and is none
QUEUES = ('high_priority', 'arq:queue', 'low_priority')  # those worker.py has settings for
SCAN_COUNT = 5000  # keys looked at per round trip: 2 ms of Redis's time each
SAMPLE_JOBS = 20
BATCH = 50  # keys asked about in one round trip
EMAIL_JOBS = ('send_email', 'retry_failed_email')
LAST_SCORE_MS = 253_402_300_799_000  # the year 9999: what is beyond has no date

IMPORT_HINT = '`python -m ops import-celery` takes over, or moves out of the way, what Celery left under that name'

State = Literal['ready', 'deferred', 'running']


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: ready jobs wait for a worker, deferred ones for their time, running ones are locked by a worker."""

    name: str
    ready: int
    deferred: int
    running: int
    oldest_ready_s: float | None  # how long the first ready job has been waiting
    problem: str | None = None  # what stands under its name is no queue: all numbers are 0


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in a queue. function is None when its body is gone or is refused, and problem says which."""

    job_id: str
    queue: str
    state: State
    wanted_at: datetime
    function: str | None
    email_id: int | None
    tries: int
    lock_ends_in_s: float | None  # only for a running job; its worker renews the lock
    body_bytes: int
    problem: str | None


async def find_queues(redis: ArqRedis) -> list[str]:
    """Return the names of our queues, and of every other sorted set whose members are arq jobs."""
    names = dict.fromkeys(QUEUES)
    cursor = None
    while cursor != 0:
        cursor, keys = await redis.scan(cursor or 0, count=SCAN_COUNT, _type='zset')
        for batch in _batches(keys):
            names |= dict.fromkeys(
                key.decode(errors='backslashreplace') for key in await _with_jobs(redis, batch)
            )
    return [name for name in names if name not in (abort_jobs_ss, WORKERS_KEY)]


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


async def _with_jobs(redis: ArqRedis, keys: Sequence[bytes]) -> list[bytes]:
    """Return those of these sorted sets that have an arq job among their first and last members."""
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.zrange(key, 0, SAMPLE_JOBS - 1)
            pipe.zrange(key, -SAMPLE_JOBS, -1)
        ends = await pipe.execute()
        members = {
            key: {*first, *last}
            for key, first, last in zip(keys, ends[::2], ends[1::2], strict=True)
        }
        filled = [key for key in keys if members[key]]
        for key in filled:
            pipe.exists(*(job_key_prefix.encode() + member for member in members[key]))
        return [key for key, bodies in zip(filled, await pipe.execute(), strict=True) if bodies]


async def read_queues(
    redis: ArqRedis, also: Iterable[str] = (), most: int | None = None
) -> list[QueueState]:
    """Return the state of every queue, ours first.

    Args:
        also: Names to report even when nothing is in them.
        most: Report no more than these and so many others.
    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    locked = await _locked_ids(redis)
    names = list(dict.fromkeys([*QUEUES, *also, *(await find_queues(redis))[:most]]))
    return [
        state for batch in _batches(names) for state in await _read_states(redis, batch, locked)
    ]


async def _problems(redis: ArqRedis, names: Sequence[str]) -> dict[str, str]:
    """Say what keys are that cannot be queues: arq's commands would fail on them."""
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.type(name)
        kinds = [kind.decode() for kind in await pipe.execute()]
    return {
        name: f'the key {name!r} is a {kind}, not a queue of arq'
        for name, kind in zip(names, kinds, strict=True)
        if kind not in ('zset', 'none')
    }


async def _locked_ids(redis: ArqRedis) -> list[Any]:
    """Return the ids (bytes) of running jobs, and of some that ended: arq keeps a cron job's lock for a minute."""
    prefix = in_progress_key_prefix.encode()
    keys = redis.scan_iter(match=in_progress_key_prefix + '*', count=SCAN_COUNT)
    return sorted({key.removeprefix(prefix) async for key in keys})


async def _read_states(
    redis: ArqRedis, names: Sequence[str], locked: list[Any]
) -> list[QueueState]:
    problems = await _problems(redis, names)
    queues = [name for name in names if name not in problems]
    now_ms = int(time.time() * 1000)
    async with redis.pipeline(transaction=True) as pipe:
        for name in queues:
            pipe.zcount(name, '-inf', now_ms)
            pipe.zcount(name, f'({now_ms}', '+inf')
            # One more than can be locked, so that the first one that is not locked is among them.
            pipe.zrangebyscore(name, '-inf', now_ms, start=0, num=len(locked) + 1, withscores=True)
            pipe.zmscore(name, locked or [''])
        answers = iter(await pipe.execute())
    held = frozenset(locked)
    states = {name: QueueState(name, 0, 0, 0, None, problem) for name, problem in problems.items()}
    for name, past, future, first, scores in zip(
        queues, answers, answers, answers, answers, strict=True
    ):
        running = [score for score in scores if score is not None] if locked else []
        running_past = sum(score <= now_ms for score in running)
        oldest_ms = next((score for job_id, score in first if job_id not in held), None)
        states[name] = QueueState(
            name=name,
            ready=past - running_past,
            deferred=future - (len(running) - running_past),
            running=len(running),
            oldest_ready_s=None
            if oldest_ms is None
            else round((now_ms - max(oldest_ms, 0.0)) / 1000, 1),
        )
    return [states[name] for name in names]


async def read_running(redis: ArqRedis) -> list[QueuedJob]:
    """Return the jobs that a worker has locked, the one wanted first first.

    Raises:
        redis.RedisError, OSError: Redis does not answer; the same for the others here.
    """
    locked = await _locked_ids(redis)
    jobs = []
    for name in await find_queues(redis) if locked else []:
        if await _problems(redis, [name]):
            continue
        scores = await redis.zmscore(name, locked)
        held = [
            (job_id, score)
            for job_id, score in zip(locked, scores, strict=True)
            if score is not None
        ]
        jobs += await _read_jobs(redis, name, held)
    return sorted(jobs, key=lambda job: job.wanted_at)


async def read_deferred(redis: ArqRedis, limit: int) -> list[QueuedJob]:
    """Return up to limit jobs of each queue whose time has not come, the next one first."""
    return await _read_from(redis, await find_queues(redis), f'({int(time.time() * 1000)}', limit)


async def read_jobs(redis: ArqRedis, names: Iterable[str], limit: int) -> list[QueuedJob]:
    """Return the first jobs of each of these queues, up to limit, in the order in which they are wanted."""
    return await _read_from(redis, names, '-inf', limit)


async def _read_from(
    redis: ArqRedis, names: Iterable[str], first: str, limit: int
) -> list[QueuedJob]:
    jobs = []
    for name in names:
        if not await _problems(redis, [name]):
            found = await redis.zrangebyscore(
                name, first, '+inf', start=0, num=limit, withscores=True
            )
            jobs += await _read_jobs(redis, name, found)
    return sorted(jobs, key=lambda job: job.wanted_at)


async def _read_jobs(
    redis: ArqRedis, queue: str, found: Sequence[tuple[bytes, float]]
) -> list[QueuedJob]:
    async with redis.pipeline(transaction=False) as pipe:
        for job_id, _ in found:
            pipe.get(job_key_prefix.encode() + job_id)
            pipe.get(retry_key_prefix.encode() + job_id)
            pipe.pttl(in_progress_key_prefix.encode() + job_id)
        answers = await pipe.execute(
            raise_on_error=False
        )  # a key of another type spoils no other job
    now_ms = time.time() * 1000
    jobs = []
    for (job_id, score), body, tried, lock_ms in zip(
        found, answers[::3], answers[1::3], answers[2::3], strict=True
    ):
        function, email_id, problem = _read_body(body)
        running = type(lock_ms) is int and lock_ms != -2  # -2: no such key
        jobs.append(
            QueuedJob(
                job_id=job_id.decode(errors='backslashreplace'),
                queue=queue,
                state='running' if running else 'ready' if score <= now_ms else 'deferred',
                wanted_at=_date_of(score),
                function=function,
                email_id=email_id,
                tries=int(tried)
                if isinstance(tried, bytes) and tried.isdigit() and len(tried) < 10
                else 0,
                lock_ends_in_s=round(lock_ms / 1000, 1) if running and lock_ms >= 0 else None,
                body_bytes=len(body) if isinstance(body, bytes) else 0,
                problem=problem,
            )
        )
    return jobs


def _date_of(score: float) -> datetime:
    """Return the time a score stands for; the nearest there is for what no clock will ever show."""
    bounded_ms = 0.0 if math.isnan(score) else min(max(score, 0.0), LAST_SCORE_MS)
    return datetime.fromtimestamp(bounded_ms / 1000, UTC)


def _read_body(body: Any) -> tuple[str | None, int | None, str | None]:
    """Return a job's function, the e-mail it is about, and what is wrong with it. Other arguments stay unseen."""
    if body is None:
        return None, None, 'its body is gone'
    if not isinstance(body, bytes):
        return None, None, f'its body cannot be read: {body}'[:200]
    try:
        job: dict[str, Any] = deserialize(body)
        function, arguments = str(job['f'])[:200], job['a']
        email_id = None
        if function in EMAIL_JOBS:
            is_number = arguments and type(arguments[0]) is int
            email_id = arguments[0] if is_number else email_id_among(arguments, job['k'])
    except (RefusedJobError, KeyError, TypeError) as error:
        return None, None, str(error)[:200]
    return function, email_id, None


def wrong_key_hint(problem: str) -> str:
    """Return what to do about a key that stands in a queue's place, see engine.queues.QueueState.problem."""
    if problem.endswith(' is a list, not a queue of arq'):  # so kombu keeps its own
        return f'{IMPORT_HINT}; another program: rename the key, or give the queue a database of its own'
    return 'see whose it is: rename it, or give the queue a database of its own'


def redis_said(error: BaseException, queue: str) -> str:
    """Return what Redis said about a queue, in words that an operator can act on."""
    if 'WRONGTYPE' in str(error):
        return f'the key {queue!r} is no queue of arq (WRONGTYPE); {IMPORT_HINT}'
    return str(error) or type(error).__name__
