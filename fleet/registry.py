"""Who is alive: each worker writes a record of itself to Redis every few seconds, and it lapses when the worker does.

One key per worker, mail:worker:<identity>, a JSON object that lives for LIFETIME_S; the sorted set
mail:workers names them, so that nobody has to scan a Redis full of jobs. Every write restores both,
also after a FLUSHALL.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import structlog
from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
from redis.exceptions import NoPermissionError, RedisError

from engine.background import is_cancelled
from engine.queues import WORKERS_KEY
from fleet.foreign_values import MAX_LISTED, bounded, fits, is_name
from process.memory import resident_bytes

__all__ = [
    'MAX_LISTED',
    'WorkerRecord',
    'is_name',
    'keep_registered',
    'read_served_queues',
    'read_told',
    'read_workers',
]

log = structlog.get_logger()

REGISTER_EVERY_S = 5.0
LIFETIME_S = 15.0  # two writes may fail before a living worker looks dead
LAG_EVERY_S = 1.0
MOST_WORKERS, MOST_NAMES = 1000, 5000
READ_AT_ONCE = 50
LARGEST_RECORD_BYTES = 256 * 1024  # a full one has 40 KiB
LONGEST_NAME_BYTES = 500
RECENT_S = 3600.0
NO_KEY = -2  # PTTL's
RECORD_PREFIX = 'mail:worker:'
FORGET_AFTER_S = 86400.0  # names of killed workers, whose records are long gone


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker as it described itself, seen_ago_s seconds ago by Redis's own clock. Times in s since 1970."""

    worker: str
    queue: str
    started_at: str  # ISO 8601
    emails: list[dict[str, Any]]  # under way, at most MAX_LISTED: id, phase, relay, started_at
    outcomes: dict[str, int]  # attempts since its start, by outcome
    rss_bytes: int
    sending: int = 0  # how many e-mails are under way
    held: int = 0  # how many it holds a claim on
    jobs: list[dict[str, Any]] = field(
        default_factory=list
    )  # running, at most MAX_LISTED: job_id, started_at
    running_jobs: int = 0
    jobs_done: dict[str, int] = field(default_factory=dict)  # complete, failed, retried
    refused: dict[str, int] = field(
        default_factory=dict
    )  # jobs since its start, by reason, see engine/refused.py
    refused_jobs: list[dict[str, Any]] = field(default_factory=list)  # the last few of them
    emails_per_s: float = 0.0  # attempts, over the last few seconds
    concurrency: dict[str, int] = field(default_factory=dict)  # emails, jobs: how many at once
    rate_limit_per_s: float = 0.0  # 0: none
    state: str = 'running'  # running, paused, stopping
    paused: list[str] = field(default_factory=list)  # why, when it claims nothing
    relays: list[dict[str, Any]] = field(default_factory=list)  # see fleet.portrait
    functions: list[str] = field(default_factory=list)
    duties: list[dict[str, Any]] = field(default_factory=list)  # name, every_s, missed
    uptime_s: float = 0.0
    loop_lag_ms: float = 0.0  # the worst of the last few seconds
    loop_holds: int = 0  # how often the loop was held for more than a second
    last_hold: dict[str, Any] = field(default_factory=dict)  # see process.loop_watch
    version: str = ''
    settings: str = ''  # digest: the same for workers with the same settings
    log_level: str = ''
    log_lines_dropped: int = 0  # because nobody read them in time
    database: str = ''  # which PostgreSQL database it serves, see db.identity
    seen_ago_s: float = 0.0


def read_told(told: Any) -> WorkerRecord | None:
    """Read what a worker told of itself; parts that another version does not tell, or tells otherwise, are missing."""
    if not isinstance(told, dict):
        return None
    values: dict[str, Any] = {}
    for part in fields(WorkerRecord):
        if part.name in told and fits(told[part.name], part.type):
            value = told[part.name]
            values[part.name] = bounded(part.name, value)
        elif part.default is MISSING and part.default_factory is MISSING:
            return None
    return (
        WorkerRecord(**values) if is_name(values['worker']) and is_name(values['queue']) else None
    )


def read_record(data: Any, lives_for_ms: int) -> WorkerRecord | None:
    """Read a record; None when it has lapsed, or was written by something else."""
    try:
        record = read_told(json.loads(data or b'null'))
    except (TypeError, ValueError, RecursionError):
        return None
    seen_ago_s = round(max(0.0, LIFETIME_S - lives_for_ms / 1000), 1)
    return replace(record, seen_ago_s=seen_ago_s) if record else None


async def read_workers(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the living workers, by name: MOST_WORKERS at most, and those that wrote of late before any others.

    Whoever may write to Redis can write hundreds of thousands of names and records of any size:
    neither is read.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    records: dict[str, WorkerRecord] = {}
    names = await _read_names(redis)
    for first in range(0, len(names), READ_AT_ONCE):
        for record in await _read_some(
            redis, [RECORD_PREFIX.encode() + n for n in names[first : first + READ_AT_ONCE]]
        ):
            records.setdefault(record.worker, record)
        if len(records) >= MOST_WORKERS:
            break
    return sorted(records.values(), key=lambda record: record.worker)[:MOST_WORKERS]


async def _read_names(redis: ArqRedis) -> list[bytes]:
    """Return names, those whose worker wrote within the hour by our clock first: the clocks of machines differ."""
    now = time.time()
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zrangebyscore(WORKERS_KEY, now - RECENT_S, now + RECENT_S, start=0, num=MOST_NAMES)
        pipe.zrange(WORKERS_KEY, 0, MOST_NAMES - 1)
        recent, lowest = await pipe.execute()
    return [name for name in dict.fromkeys([*recent, *lowest]) if len(name) <= LONGEST_NAME_BYTES][
        :MOST_NAMES
    ]


async def _read_some(redis: ArqRedis, keys: Sequence[bytes]) -> list[WorkerRecord]:
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.strlen(key)
            pipe.pttl(key)
        told = _without_errors(await pipe.execute(raise_on_error=False))
        # None: a key of another type, or a user of an older redis-users.acl, who may not ask.
        small = [
            (key, lives_for_ms)
            for key, size, lives_for_ms in zip(keys, told[::2], told[1::2], strict=True)
            if lives_for_ms != NO_KEY and (size is None or size <= LARGEST_RECORD_BYTES)
        ]
        for key, _ in small:
            pipe.get(key)
        bodies = _without_errors(await pipe.execute(raise_on_error=False)) if small else []
    records = (
        read_record(body, lives_for_ms)
        for body, (_, lives_for_ms) in zip(bodies, small, strict=True)
    )
    return [record for record in records if record]


def _without_errors(answers: Sequence[Any]) -> list[Any]:
    """Return answers, None for what is no record, which hides nobody else's.

    Raises:
        redis.RedisError: any other error.
    """
    for error in answers:
        if (
            isinstance(error, Exception)
            and not str(error).startswith('WRONGTYPE')
            and not _may_not_ask(error)
        ):
            raise error
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _may_not_ask(error: Exception) -> bool:
    return isinstance(error, NoPermissionError) and 'strlen' in str(error).lower()


async def read_served_queues(
    redis: ArqRedis, workers: Collection[WorkerRecord], names: Collection[str]
) -> set[str]:
    """Return the queues among names that somebody polls: a registered worker, or any that writes arq's health key."""
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(name + health_check_key_suffix)
        healthy = await pipe.execute()
    served = {name for name, is_healthy in zip(names, healthy, strict=True) if is_healthy}
    return served | {record.queue for record in workers}


class Registrar:
    """What a worker tells of itself, beyond what its parts know: when it began, how fast it is, whether it hangs."""

    def __init__(self, worker: str, describe: Callable[[], Mapping[str, Any]]) -> None:
        """Say who.

        Args:
            describe: Returns queue, emails, outcomes and the rest as they are now, see
                WorkerRecord.
        """
        self.worker = worker
        self._describe = describe
        self._started_at = datetime.now(UTC).isoformat(timespec='seconds')
        self._started = self._since = time.monotonic()
        self._attempts = 0
        self._per_s = 0.0
        self._lag_s = 0.0

    def record(self) -> dict[str, Any]:
        """Return the record as it is now."""
        return {
            'worker': self.worker,
            'started_at': self._started_at,
            'uptime_s': round(time.monotonic() - self._started, 1),
            'rss_bytes': resident_bytes(),
            'loop_lag_ms': round(self._lag_s * 1000, 1),
            'emails_per_s': round(self._per_s, 1),
            **self._describe(),
        }

    async def measure(self) -> None:
        """Watch the loop until the next record is due, and count what was attempted meanwhile."""
        self._lag_s = 0.0
        for _ in range(max(1, round(REGISTER_EVERY_S / LAG_EVERY_S))):
            if is_cancelled():
                return
            began = time.monotonic()
            sleep_s = min(LAG_EVERY_S, REGISTER_EVERY_S)
            await asyncio.sleep(sleep_s)
            self._lag_s = max(self._lag_s, time.monotonic() - began - sleep_s)
        attempts = sum(self._describe().get('outcomes', {}).values())
        now = time.monotonic()
        self._per_s = (attempts - self._attempts) / (now - self._since)
        self._attempts, self._since = attempts, now


async def keep_registered(redis: ArqRedis, registrar: Registrar) -> None:
    """Write the worker's record until cancelled, then remove it. While Redis is away there is no record."""
    worker = registrar.worker
    try:
        while not is_cancelled():
            try:
                await _write(redis, worker, registrar.record())
            except (RedisError, OSError) as error:
                log.debug('worker.not_registered', error=str(error) or type(error).__name__)
            await registrar.measure()
    finally:
        # In a task of its own: before Python 3.11.3, redis-py does not work in one that was
        # cancelled.
        await asyncio.create_task(_remove(redis, worker))
    raise asyncio.CancelledError


async def _remove(redis: ArqRedis, worker: str) -> None:
    with contextlib.suppress(RedisError, OSError):  # without Redis, the record lapses
        async with redis.pipeline(transaction=True) as pipe:
            pipe.delete(RECORD_PREFIX + worker)
            pipe.zrem(WORKERS_KEY, worker)
            await pipe.execute()


async def _write(redis: ArqRedis, worker: str, record: Mapping[str, Any]) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set(RECORD_PREFIX + worker, json.dumps(record), px=int(LIFETIME_S * 1000))
        pipe.zadd(WORKERS_KEY, {worker: time.time()})
        pipe.zremrangebyscore(WORKERS_KEY, '-inf', time.time() - FORGET_AFTER_S)
        await pipe.execute()
