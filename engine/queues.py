"""What arq's queues hold, whatever else stands under their keys.

A queue is a sorted set of job ids by the time they are wanted (ms). A running job stays in it until
it ends, locked by its in-progress key; its body is a key of its own. So the set's size alone says
little.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from arq.constants import abort_jobs_ss, in_progress_key_prefix, job_key_prefix

WORKERS_KEY = 'mail:workers'  # the registry of the fleet stands among the queues and is none
QUEUES = ('high_priority', 'arq:queue', 'low_priority')  # those worker.py has settings for
SCAN_COUNT = 5000  # keys looked at per round trip: 2 ms of Redis's time each
SAMPLE_JOBS = 20
BATCH = 50  # keys asked about in one round trip


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue.

    Ready jobs wait for a worker, deferred ones for their time; running ones are locked by a worker.
    """

    name: str
    ready: int
    deferred: int
    running: int
    oldest_ready_s: float | None  # how long the first ready job has been waiting
    problem: str | None = None  # what stands under its name is no queue: all numbers are 0


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
    locked = await locked_ids(redis)
    names = list(dict.fromkeys([*QUEUES, *also, *(await find_queues(redis))[:most]]))
    return [
        state for batch in _batches(names) for state in await _read_states(redis, batch, locked)
    ]


async def problems_of(redis: ArqRedis, names: Sequence[str]) -> dict[str, str]:
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


async def locked_ids(redis: ArqRedis) -> list[Any]:
    """Return the ids (bytes) of running jobs.

    Some of them have ended: arq keeps a cron job's lock for a minute.
    """
    prefix = in_progress_key_prefix.encode()
    keys = redis.scan_iter(match=in_progress_key_prefix + '*', count=SCAN_COUNT)
    return sorted({key.removeprefix(prefix) async for key in keys})


async def _read_states(
    redis: ArqRedis, names: Sequence[str], locked: list[Any]
) -> list[QueueState]:
    problems = await problems_of(redis, names)
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
