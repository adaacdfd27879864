"""Who is alive: each worker writes a record to Redis, which expires when the worker dies.

One key per worker, mail:worker:<identity>, a JSON object that lives for LIFETIME_S and is written
every few seconds (fleet/registrar.py); the sorted set mail:workers names them, so that nobody has
to scan a Redis full of jobs. Whoever may write to Redis can write anything there, of any size: what
is read here is checked and cut.
"""

import itertools
import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar, get_args, get_origin

from arq.connections import ArqRedis
from arq.constants import health_check_key_suffix
from redis.exceptions import NoPermissionError

from engine.queues import WORKERS_KEY

Record = TypeVar('Record')

LIFETIME_S = 15.0  # two writes may fail before a living worker looks dead
MOST_WORKERS, MOST_NAMES = 1000, 5000
READ_AT_ONCE = 50
LARGEST_RECORD_BYTES = 256 * 1024  # a full one has 40 KiB
LONGEST_NAME_BYTES = 500
RECENT_S = 3600.0
NO_KEY = -2  # PTTL's
RECORD_PREFIX = 'mail:worker:'

MAX_LISTED = 200  # of anything in a record
LARGEST = 2**53  # of a number: JSON's readers agree on no larger one
MOST_TEXT = 500  # characters of a text in a list of a record
LISTS = frozenset({'emails', 'jobs', 'relays', 'routes', 'slow_domains', 'duties', 'refused_jobs'})
# Of the lists in a record: what each part must be; it is left out otherwise.
PARTS: dict[str, Any] = {
    'id': int, 'phase': str, 'relay': str, 'started_at': int | float, 'job_id': str, 'name': str,
    'place': str, 'tls': str, 'state': str, 'retry_in_s': int | float, 'most_per_s': int | float,
    'last_error': str, 'every_s': int | float, 'missed': str, 'at': int | float, 'reason': str,
    'why': str, 'function': str,
    'email_id': int, 'match': str, 'chain': str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerIdentity:
    """Who a worker is, and what does not change while it runs."""

    worker: str
    queue: str
    started_at: str  # ISO 8601
    version: str = ''
    settings: str = ''  # digest: the same for workers with the same settings
    database: str = ''  # which PostgreSQL database it serves, see db.identity
    functions: list[str] = field(default_factory=list)
    duties: list[dict[str, Any]] = field(default_factory=list)  # name, every_s, missed


@dataclass(frozen=True, kw_only=True)
class WorkerWork:
    """What a worker does and has done."""

    emails: list[dict[str, Any]]  # under way, at most MAX_LISTED: id, phase, relay, started_at
    outcomes: dict[str, int]  # attempts since its start, by outcome
    sending: int = 0  # how many e-mails are under way
    held: int = 0  # how many it holds a claim on
    emails_per_s: float = 0.0  # attempts, over the last few seconds
    jobs: list[dict[str, Any]] = field(default_factory=list)  # running: job_id, started_at
    running_jobs: int = 0
    jobs_done: dict[str, int] = field(default_factory=dict)  # complete, failed, retried
    refused: dict[str, int] = field(default_factory=dict)  # jobs, by reason, see engine/refused.py
    refused_jobs: list[dict[str, Any]] = field(default_factory=list)  # the last few of them


@dataclass(frozen=True, kw_only=True)
class WorkerControls:
    """What operators and relays allow a worker."""

    state: str = 'running'  # running, paused, stopping
    paused: list[str] = field(default_factory=list)  # why, when it claims nothing
    safety: list[str] = field(default_factory=list)  # the switches that are on, see mail.safety
    concurrency: dict[str, int] = field(default_factory=dict)  # emails, jobs: how many at once
    rate_limit_per_s: float = 0.0  # 0: none
    relays: list[dict[str, Any]] = field(default_factory=list)  # see fleet.describe
    routes: list[dict[str, Any]] = field(default_factory=list)  # see fleet.route_record
    slow_domains: list[dict[str, Any]] = field(default_factory=list)  # left alone for a while
    sender_domain: str = ''  # of mail that does not name its own
    log_level: str = ''


@dataclass(frozen=True, kw_only=True)
class WorkerHealth:
    """How a worker's process is."""

    rss_bytes: int
    uptime_s: float = 0.0
    loop_lag_ms: float = 0.0  # the worst of the last few seconds
    loop_holds: int = 0  # how often the loop was held for more than a second
    last_hold: dict[str, Any] = field(default_factory=dict)  # see process.loop_watch
    log_lines_dropped: int = 0  # because nobody read them in time


@dataclass(frozen=True, kw_only=True)
class WorkerRecord(WorkerIdentity, WorkerWork, WorkerControls, WorkerHealth):
    """One worker as it described itself. Times are seconds since 1970.

    The parts are one flat JSON object in Redis: versions that differ read each other's.
    """

    seen_ago_s: float = 0.0  # by Redis's own clock


def record_from(value: Any) -> WorkerRecord | None:
    """Read a record, or a reply to `describe`; None for what is neither."""
    record = read_parts(WorkerRecord, value)
    return (
        record
        if record is not None and is_worker_name(record.worker) and is_worker_name(record.queue)
        else None
    )


def read_parts(kind: type[Record], value: Any) -> Record | None:
    """Read a record of a dataclass; None for what is none.

    Parts that another version does not have, or has of another type, are left at their default.
    """
    if not isinstance(value, dict):
        return None
    values: dict[str, Any] = {}
    for part in fields(kind):  # type: ignore[arg-type] # dataclasses, which no type says
        if part.name in value and _fits(value[part.name], part.type):
            values[part.name] = _bounded(part.name, value[part.name])
        elif part.default is MISSING and part.default_factory is MISSING:
            return None
    return kind(**values)


def _with_parts(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: part for name, part in item.items() if _is_part(name, part)}
        for item in items[:MAX_LISTED]
    ]


def _bounded(name: str, value: Any) -> Any:
    """Return a part of a record, cut to its limits and without what is of a wrong type."""
    if name in LISTS:
        return _with_parts(value)
    match value:
        case list():
            return [text[:MOST_TEXT] for text in value[:MAX_LISTED]]
        case dict():
            return dict(itertools.islice(value.items(), MAX_LISTED))
        case str():
            return value[:MOST_TEXT]
        case _:
            return value


def _is_part(name: str, value: Any) -> bool:
    if (
        isinstance(value, int | float) and not -sys.float_info.max <= value <= sys.float_info.max
    ):  # NaN neither
        return False
    return value is None or isinstance(value, PARTS.get(name, str | int | float))


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a field's type."""
    kind = get_origin(wanted) or wanted
    if kind is list:
        inner = get_origin(get_args(wanted)[0]) or get_args(wanted)[0]
        return isinstance(value, list) and all(isinstance(item, inner) for item in value)
    if kind in (int, float):
        return type(value) in (int, kind) and abs(value) < LARGEST
    return isinstance(value, kind)


def is_worker_name(text: str) -> bool:
    """Whether Redis may be asked for this name: JSON can hold half characters, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_record(data: Any, lives_for_ms: int) -> WorkerRecord | None:
    """Read a record; None when it has expired, or was written by something else."""
    try:
        record = record_from(json.loads(data or b'null'))
    except (TypeError, ValueError, RecursionError):
        return None
    seen_ago_s = round(max(0.0, LIFETIME_S - lives_for_ms / 1000), 1)
    return replace(record, seen_ago_s=seen_ago_s) if record else None


async def read_workers(redis: ArqRedis) -> list[WorkerRecord]:
    """Return the living workers, by name, MOST_WORKERS at most; those that wrote lately come first.

    Whoever may write to Redis can write hundreds of thousands of names and records of any size:
    neither is read.

    Raises:
        redis.RedisError, OSError: Redis does not answer.
    """
    records: dict[str, WorkerRecord] = {}
    names = await _read_names(redis)
    for first in range(0, len(names), READ_AT_ONCE):
        keys = [RECORD_PREFIX.encode() + name for name in names[first : first + READ_AT_ONCE]]
        for body, lives_for_ms in await read_bodies(redis, keys):
            if record := read_record(body, lives_for_ms):
                records.setdefault(record.worker, record)
        if len(records) >= MOST_WORKERS:
            break
    return sorted(records.values(), key=lambda record: record.worker)[:MOST_WORKERS]


async def _read_names(redis: ArqRedis) -> list[bytes]:
    """Return names, those whose worker wrote within the hour by our clock first.

    The others follow, because the clocks of machines differ.
    """
    now = time.time()
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zrangebyscore(WORKERS_KEY, now - RECENT_S, now + RECENT_S, start=0, num=MOST_NAMES)
        pipe.zrange(WORKERS_KEY, 0, MOST_NAMES - 1)
        recent, lowest = await pipe.execute()
    return [name for name in dict.fromkeys([*recent, *lowest]) if len(name) <= LONGEST_NAME_BYTES][
        :MOST_NAMES
    ]


async def read_bodies(redis: ArqRedis, keys: Sequence[bytes]) -> list[tuple[Any, int]]:
    """Return what stands under those of these keys that have not expired, and for how long, in ms.

    Raises:
        redis.RedisError, OSError: Redis does not answer, or this user may not ask.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.strlen(key)
            pipe.pttl(key)
        sizes = _without_errors(await pipe.execute(raise_on_error=False))
        # None: a key of another type, or a user of an older redis-users.acl, who may not ask.
        small = [
            (key, lives_for_ms)
            for key, size, lives_for_ms in zip(keys, sizes[::2], sizes[1::2], strict=True)
            if lives_for_ms != NO_KEY and (size is None or size <= LARGEST_RECORD_BYTES)
        ]
        for key, _ in small:
            pipe.get(key)
        bodies = _without_errors(await pipe.execute(raise_on_error=False)) if small else []
    return [(body, lives_for_ms) for body, (_, lives_for_ms) in zip(bodies, small, strict=True)]


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
    """Return the queues among names that a worker polls.

    It is registered, or writes arq's health key as a stock worker does.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(name + health_check_key_suffix)
        healthy = await pipe.execute()
    served = {name for name, is_healthy in zip(names, healthy, strict=True) if is_healthy}
    return served | {record.queue for record in workers}
