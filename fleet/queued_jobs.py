"""The jobs in arq's queues, as operators see and purge them: which e-mail each is about."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix

from delivery.email_jobs import EMAIL_JOBS, email_id_among
from engine.queues import find_queues, locked_ids, problems_of
from engine.wire import RefusedJobError, deserialize
from mail_outbox.wake import IMPORT_HINT

LAST_SCORE_MS = 253_402_300_799_000  # the year 9999: what is beyond has no date
PURGE_BATCH = 1000

State = Literal['ready', 'deferred', 'running']


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in a queue.

    function is None when its body is gone or is refused, and problem says which.
    """

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


async def read_running(redis: ArqRedis) -> list[QueuedJob]:
    """Return the jobs that a worker has locked, the one wanted first first.

    Raises:
        redis.RedisError, OSError: Redis does not answer; the same for the others here.
    """
    locked = await locked_ids(redis)
    jobs = []
    for name in await find_queues(redis) if locked else []:
        if await problems_of(redis, [name]):
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
    """Return the first jobs of each of these queues, up to limit, by the time they are wanted."""
    return await _read_from(redis, names, '-inf', limit)


async def _read_from(
    redis: ArqRedis, names: Iterable[str], first: str, limit: int
) -> list[QueuedJob]:
    jobs = []
    for name in names:
        if not await problems_of(redis, [name]):
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
    """Return a job's function, the e-mail it is about, and what is wrong with it.

    Other arguments are not returned: they may be personal data.
    """
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


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did to one queue."""

    name: str
    removed: int
    running: int  # left alone


# Atomic, so a job is either removed with all its keys or left to the worker that has locked it. In
# batches, so that Redis is never busy with it for long.
PURGE_SCRIPT = """
local ids = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[1] + ARGV[2] - 1)
local removed = 0
for _, id in ipairs(ids) do
    if redis.call('EXISTS', ARGV[3] .. id) == 0 then
        redis.call('DEL', ARGV[4] .. id, ARGV[5] .. id)
        redis.call('ZREM', KEYS[1], id)
        removed = removed + 1
    end
end
return {#ids, removed}
"""


async def purge_queue(
    redis: ArqRedis, name: str, go_on: Callable[[int], bool] = lambda _: True
) -> Purged:
    """Remove every job that is not running, with its body.

    The e-mails they were about stay due in the outbox.
    A worker that is just starting one of them finds it gone, logs `expired`, and goes on. Jobs that
    come while this runs may stay.

    Args:
        go_on: Gets how many have been removed so far; False ends it there.
    Raises:
        redis.RedisError, OSError: Redis does not answer; some jobs may have been removed.
    """
    left = await redis.zcard(name)
    removed = running = 0
    keys = (in_progress_key_prefix, job_key_prefix, retry_key_prefix)
    while left > 0 and go_on(removed):
        batch: Any = redis.eval(
            PURGE_SCRIPT, 1, name, str(running), str(min(left, PURGE_BATCH)), *keys
        )
        seen, gone = await batch
        removed += gone
        running += seen - gone
        left -= seen
        if not seen:
            break
    return Purged(name, removed, running)


def wrong_key_hint(problem: str) -> str:
    """Return what to do about a key that stands in a queue's place.

    Args:
        problem: See engine.queues.QueueState.problem.
    """
    if problem.endswith(' is a list, not a queue of arq'):  # so kombu keeps its own
        others = 'another program: rename the key, or give the queue a database of its own'
        return f'{IMPORT_HINT}; {others}'
    return 'see whose it is: rename it, or give the queue a database of its own'
