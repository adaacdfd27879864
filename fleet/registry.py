"""Who is alive: each worker writes a record of itself to Redis every few seconds, and it lapses when the worker does.

One key per worker, mail:worker:<identity>, a JSON object that lives for LIFETIME_S; the sorted set mail:workers names
them, so that nobody has to scan a Redis full of jobs. Every write restores both, also after a FLUSHALL.
"""

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
from redis.exceptions import RedisError

from fleet.background import is_cancelled

log = structlog.get_logger()

REGISTER_EVERY_S = 5.0
LIFETIME_S = 15.0  # two writes may fail before a living worker looks dead
WORKERS_KEY = 'mail:workers'
RECORD_PREFIX = 'mail:worker:'
FORGET_AFTER_S = 86400.0  # names of killed workers, whose records are long gone


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker as it described itself, seen_ago_s seconds ago by Redis's own clock."""

    worker: str
    queue: str
    started_at: str  # ISO 8601
    emails: list[int]  # ids it holds claims on
    outcomes: dict[str, int]  # attempts since its start, by outcome
    rss_bytes: int
    seen_ago_s: float = 0.0


def resident_bytes() -> int:
    """Return the memory this process occupies; where the kernel does not tell, the most it ever did."""
    try:
        resident_pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024
    return resident_pages * resource.getpagesize()


SHAPE = {'worker': str, 'queue': str, 'started_at': str, 'emails': list, 'outcomes': dict, 'rss_bytes': int}


def read_record(data: bytes | None, lives_for_ms: int) -> WorkerRecord | None:
    """Read a record; None when it has lapsed, or was written by something else."""
    try:
        told = json.loads(data or b'null')
    except ValueError:
        return None
    if not isinstance(told, dict) or not all(isinstance(told.get(name), kind) for name, kind in SHAPE.items()):
        return None
    seen_ago_s = round(max(0.0, LIFETIME_S - lives_for_ms / 1000), 1)
    return WorkerRecord(**{name: told[name] for name in SHAPE}, seen_ago_s=seen_ago_s)


async def read_workers(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the living workers, by name.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    keys = sorted(RECORD_PREFIX.encode() + name for name in await redis.zrange(WORKERS_KEY, 0, -1))
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.get(key)
            pipe.pttl(key)
        answers = await pipe.execute()
    return [record for record in map(read_record, answers[::2], answers[1::2]) if record]


async def read_served_queues(redis: ArqRedis, workers: Collection[WorkerRecord], names: Collection[str]) -> set[str]:
    """Return the queues among names that somebody polls: a registered worker, or any that writes arq's health key."""
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(name + health_check_key_suffix)
        healthy = await pipe.execute()
    served = {name for name, is_healthy in zip(names, healthy, strict=True) if is_healthy}
    return served | {record.queue for record in workers}


async def keep_registered(redis: ArqRedis, worker: str, describe: Callable[[], Mapping[str, Any]]) -> None:
    """Write the worker's record until cancelled, then remove it. While Redis is away there is no record.

    Args:
        describe: Returns queue, emails and outcomes as they are now, see WorkerRecord.
    """
    own = {'worker': worker, 'started_at': datetime.now(UTC).isoformat(timespec='seconds')}
    try:
        while not is_cancelled():
            try:
                await _write(redis, worker, {**own, 'rss_bytes': resident_bytes(), **describe()})
            except (RedisError, OSError) as error:
                log.debug('not registered', error=str(error) or type(error).__name__)
            if not is_cancelled():
                await asyncio.sleep(REGISTER_EVERY_S)
    finally:
        with contextlib.suppress(RedisError, OSError):  # without Redis, the record lapses
            async with redis.pipeline(transaction=True) as pipe:
                pipe.delete(RECORD_PREFIX + worker)
                pipe.zrem(WORKERS_KEY, worker)
                await pipe.execute()
    raise asyncio.CancelledError


async def _write(redis: ArqRedis, worker: str, record: Mapping[str, Any]) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set(RECORD_PREFIX + worker, json.dumps(record), px=int(LIFETIME_S * 1000))
        pipe.zadd(WORKERS_KEY, {worker: time.time()})
        pipe.zremrangebyscore(WORKERS_KEY, '-inf', time.time() - FORGET_AFTER_S)
        await pipe.execute()
