"""What arq's queues hold, in honest numbers, and how to empty them.

A queue is a sorted set of job ids by the time they are wanted (ms). A running job stays in it until it ends, locked by
its in-progress key; its body is a key of its own. So the set's size alone says little.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, in_progress_key_prefix, job_key_prefix, retry_key_prefix

from fleet.registry import WORKERS_KEY
from fleet.wire import RefusedJobError, deserialize

QUEUES = ('high_priority', 'arq:queue', 'low_priority')  # those worker.py has settings for
SCAN_COUNT = 5000  # keys looked at per round trip: 2 ms of Redis's time each
SAMPLE_JOBS = 20
PURGE_BATCH = 1000
EMAIL_JOBS = ('send_email', 'retry_failed_email')


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: ready jobs wait for a worker, deferred ones for their time, running ones are locked by a worker."""

    name: str
    ready: int
    deferred: int
    running: int
    oldest_ready_s: float | None  # how long the first ready job has been waiting


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job in a queue. function is None when its body is gone or is refused, and problem says which."""

    job_id: str
    queue: str
    wanted_at: datetime
    function: str | None
    email_id: int | None
    tries: int
    lock_ends_in_s: float | None  # only for a running job; its worker renews the lock
    problem: str | None


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did to one queue."""

    name: str
    removed: int
    running: int  # left alone


async def find_queues(redis: ArqRedis) -> list[str]:
    """Return the names of our queues, and of every other sorted set whose members are arq jobs."""
    names = list(QUEUES)
    async for key in redis.scan_iter(count=SCAN_COUNT, _type='zset'):
        name = key.decode(errors='replace')
        if name not in names and name not in (abort_jobs_ss, WORKERS_KEY) and await _holds_jobs(redis, key):
            names.append(name)
    return names


async def _holds_jobs(redis: ArqRedis, key: bytes) -> bool:
    members = [*await redis.zrange(key, 0, SAMPLE_JOBS - 1), *await redis.zrange(key, -SAMPLE_JOBS, -1)]
    bodies = [job_key_prefix.encode() + member for member in members]
    return bool(bodies) and bool(await redis.exists(*bodies))


async def read_queues(redis: ArqRedis, also: Iterable[str] = ()) -> list[QueueState]:
    """Return the state of every queue, ours first.

    Args:
        also: Names to report even when nothing is in them.
    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    locked = await _locked_ids(redis)
    names = dict.fromkeys([*await find_queues(redis), *also])
    return [await _read_queue(redis, name, locked) for name in names]


async def _locked_ids(redis: ArqRedis) -> list[Any]:
    """Return the ids (bytes) of running jobs, and of some that ended: arq keeps a cron job's lock for a minute."""
    prefix = in_progress_key_prefix.encode()
    keys = redis.scan_iter(match=in_progress_key_prefix + '*', count=SCAN_COUNT)
    return sorted({key.removeprefix(prefix) async for key in keys})


async def _read_queue(redis: ArqRedis, name: str, locked: list[Any]) -> QueueState:
    now_ms = int(time.time() * 1000)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zcount(name, '-inf', now_ms)
        pipe.zcount(name, f'({now_ms}', '+inf')
        # One more than can be locked, so that the first one that is not locked is among them.
        pipe.zrangebyscore(name, '-inf', now_ms, start=0, num=len(locked) + 1, withscores=True)
        if locked:
            pipe.zmscore(name, locked)
        past, future, first, *scores = await pipe.execute()
    running = [score for score in (scores[0] if scores else []) if score is not None]
    running_past = sum(score <= now_ms for score in running)
    oldest_ms = next((score for job_id, score in first if job_id not in locked), None)
    return QueueState(
        name=name,
        ready=past - running_past,
        deferred=future - (len(running) - running_past),
        running=len(running),
        oldest_ready_s=None if oldest_ms is None else round((now_ms - oldest_ms) / 1000, 1),
    )


async def read_running(redis: ArqRedis) -> list[QueuedJob]:
    """Return the jobs that a worker has locked, the one wanted first first.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    locked = await _locked_ids(redis)
    jobs = []
    for name in await find_queues(redis) if locked else []:
        scores = await redis.zmscore(name, locked)
        held = [(job_id, score) for job_id, score in zip(locked, scores, strict=True) if score is not None]
        jobs += await _read_jobs(redis, name, held)
    return sorted(jobs, key=lambda job: job.wanted_at)


async def read_deferred(redis: ArqRedis, limit: int) -> list[QueuedJob]:
    """Return up to limit jobs of each queue whose time has not come, the next one first.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    now_ms = int(time.time() * 1000)
    jobs = []
    for name in await find_queues(redis):
        later = await redis.zrangebyscore(name, f'({now_ms}', '+inf', start=0, num=limit, withscores=True)
        jobs += await _read_jobs(redis, name, later)
    return sorted(jobs, key=lambda job: job.wanted_at)


async def _read_jobs(redis: ArqRedis, queue: str, found: Sequence[tuple[bytes, float]]) -> list[QueuedJob]:
    async with redis.pipeline(transaction=False) as pipe:
        for job_id, _ in found:
            pipe.get(job_key_prefix.encode() + job_id)
            pipe.get(retry_key_prefix.encode() + job_id)
            pipe.pttl(in_progress_key_prefix.encode() + job_id)
        answers = await pipe.execute()
    bodies, tries, locks = answers[::3], answers[1::3], answers[2::3]
    jobs = []
    for (job_id, score), body, tried, lock_ms in zip(found, bodies, tries, locks, strict=True):
        function, email_id, problem = _read_body(body)
        jobs.append(
            QueuedJob(
                job_id=job_id.decode(errors='replace'),
                queue=queue,
                wanted_at=datetime.fromtimestamp(score / 1000, UTC),
                function=function,
                email_id=email_id,
                tries=int(tried or 0),
                lock_ends_in_s=round(lock_ms / 1000, 1) if lock_ms >= 0 else None,
                problem=problem,
            )
        )
    return jobs


def _read_body(body: bytes | None) -> tuple[str | None, int | None, str | None]:
    """Return a job's function, the e-mail it is about, and what is wrong with it. Other arguments stay unseen."""
    if body is None:
        return None, None, 'its body is gone'
    try:
        job: dict[str, Any] = deserialize(body)
        function, arguments = str(job['f']), job['a']
        about_email = function in EMAIL_JOBS and arguments and type(arguments[0]) is int
    except (RefusedJobError, KeyError, TypeError) as error:
        return None, None, str(error)[:200]
    return function, arguments[0] if about_email else None, None


# Atomic, so a job is either removed with all its keys or left to the worker that has locked it. In batches, so that
# Redis is never busy with it for long.
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


async def purge_queue(redis: ArqRedis, name: str) -> Purged:
    """Remove every job that is not running, with its body. The e-mails they were about stay due in the outbox.

    A worker that is just starting one of them finds it gone, logs `expired`, and goes on. Jobs that come while this
    runs may stay.

    Raises:
        redis.RedisError, OSError: Redis does not answer; some jobs may have been removed.
    """
    left = await redis.zcard(name)
    removed = running = 0
    keys = (in_progress_key_prefix, job_key_prefix, retry_key_prefix)
    while left > 0:
        batch: Any = redis.eval(PURGE_SCRIPT, 1, name, str(running), str(min(left, PURGE_BATCH)), *keys)
        seen, gone = await batch
        removed += gone
        running += seen - gone
        left -= seen
        if not seen:
            break
    return Purged(name, removed, running)
