"""What became of a job: its result while arq keeps it, else where it waits.

Both are read without loading any object, see engine.wire.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, result_key_prefix

from engine.wire import RefusedJobError, deserialize

POLL_S = 0.1
ENDED = ('complete', 'failed', 'ended')


@dataclass(frozen=True, slots=True)
class JobState:
    """One job. Unknown times are None; result is set only when it ended well and is plain."""

    job_id: str
    # ended: it has a result, but one that is no plain value, so nobody can say which
    state: Literal['complete', 'failed', 'ended', 'running', 'ready', 'deferred', 'unknown']
    queue: str | None = None
    function: str | None = None
    arguments: tuple[Any, ...] | None = None
    result: Any = None
    enqueued_at: datetime | None = None
    wanted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    kept_for_s: float | None = None  # how long the result can still be read
    problem: str | None = None  # what cannot be read, and why


async def read_job(redis: ArqRedis, job_id: str, queues: Collection[str]) -> JobState:
    """Return what is known of a job.

    Args:
        queues: Where to look for it while it waits.
    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.get(result_key_prefix + job_id)
        pipe.pttl(result_key_prefix + job_id)
        pipe.exists(in_progress_key_prefix + job_id)
        pipe.get(job_key_prefix + job_id)
        for name in queues:
            pipe.zscore(name, job_id)
        result, lives_ms, locked, body, *scores = await pipe.execute(raise_on_error=False)
    if result is not None:
        return _ended(job_id, result, lives_ms)
    found = [
        (name, score)
        for name, score in zip(queues, scores, strict=True)
        if isinstance(score, float)
    ]
    queue, score = found[0] if found else (None, None)
    job = _read(body) if isinstance(body, bytes) else {}
    if locked is True or locked == 1:
        state: Any = 'running'
    elif score is not None:
        state = 'ready' if score <= time.time() * 1000 else 'deferred'
    else:
        return JobState(job_id, 'unknown')
    return JobState(
        job_id,
        state,
        queue=queue,
        function=job.get('f'),
        arguments=_tuple(job.get('a')),
        enqueued_at=_time(job.get('et')),
        wanted_at=_time(score),
        problem=job.get('problem') or (None if body is not None else 'its body is gone'),
    )


async def wait_for_job(
    redis: ArqRedis, job_id: str, queues: Collection[str], timeout_s: float
) -> JobState:
    """Return the job once it has ended, or as it is when the time is over."""
    end = time.monotonic() + timeout_s
    while True:
        job = await read_job(redis, job_id, queues)
        if job.state in ENDED or time.monotonic() >= end:
            return job
        await asyncio.sleep(min(POLL_S, max(0.0, end - time.monotonic())))


def _ended(job_id: str, result: Any, lives_ms: Any) -> JobState:
    if not isinstance(result, bytes):
        return JobState(job_id, 'unknown', problem=f'its result cannot be read: {result}'[:200])
    job = _read(result)
    return JobState(
        job_id,
        'ended' if type(job.get('s')) is not bool else 'complete' if job['s'] else 'failed',
        queue=job.get('q') if isinstance(job.get('q'), str) else None,
        function=job.get('f'),
        arguments=_tuple(job.get('a')),
        result=job.get('r'),
        enqueued_at=_time(job.get('et')),
        started_at=_time(job.get('st')),
        finished_at=_time(job.get('ft')),
        kept_for_s=lives_ms / 1000 if isinstance(lives_ms, int) and lives_ms >= 0 else None,
        problem=job.get('problem'),
    )


def _read(data: bytes) -> dict[str, Any]:
    try:
        return deserialize(data)
    except RefusedJobError as error:
        return {'problem': str(error)[:300]}


def _tuple(value: Any) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, tuple | list) else None


def _time(value_ms: Any) -> datetime | None:
    if not isinstance(value_ms, int | float) or not 0 <= value_ms < 253_402_300_800_000:
        return None
    return datetime.fromtimestamp(value_ms / 1000, UTC)
