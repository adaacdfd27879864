"""The two ends of a job in Redis: it is claimed out of arq's queue, and its end is written.

Both happen for many jobs at once: stock arq takes four round trips to claim one and two to end it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import structlog
from arq.connections import ArqRedis
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

from engine.wire import MAX_JOB_BYTES

log = structlog.get_logger()

RETRY_KEY_LIFETIME_S = 88400  # arq's
MAX_CLAIMED = 1000
# How often a job was begun without an end, by its id: its worker was killed, or hung until its lock
# expired. A job that kills its worker would else come back for ever, and kill one after the other.
STARTS_PREFIX = 'email-worker:starts:'

# arq's ids stay in the queue while they run. Stock arq reads the first max(5 * max_jobs, 100) of
# them, so jobs starve behind the running ones of other workers, and workers race for the same ids.
# This scan pages on until it has enough, and takes the lock (SET NX) in the same step. A job is due
# by Redis's own clock: the clocks of machines differ. A body that is no string, or too large to be
# a job's, is reported by its size alone. pcall: a key of another type spoils that job, not the
# claim. No-op jobs run 2.2 times as fast as in the fastest other queue (docs/performance.md).
CLAIM_LUA = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000 + 0.5) -- rounded, as producers do
local room, offset, jobs = tonumber(ARGV[1]), 0, {}
while #jobs < room and offset < 100000 do
    local page = redis.call(
        'ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', offset, 500)
    for i = 1, #page, 2 do
        local id = page[i]
        if #jobs < room and redis.call('SET', ARGV[3] .. id, '1', 'PX', ARGV[2], 'NX') then
            local size = redis.pcall('STRLEN', ARGV[4] .. id)
            if type(size) == 'table' then size = -1 end
            local is_readable = size >= 0 and size <= tonumber(ARGV[6])
            local body = is_readable and redis.call('GET', ARGV[4] .. id)
            local try = redis.pcall('INCR', ARGV[5] .. id)
            if type(try) == 'table' then try = 1 end
            redis.call('EXPIRE', ARGV[5] .. id, ARGV[7])
            local starts = redis.pcall('INCR', ARGV[10] .. id)
            if type(starts) == 'table' then starts = 1 end
            redis.call('EXPIRE', ARGV[10] .. id, ARGV[7])
            local aborted = ARGV[8] == '1' and redis.pcall('ZREM', ARGV[9], id) == 1 and 1 or 0
            table.insert(jobs, {id, page[i + 1], body, size, try, aborted, starts})
        end
    end
    if #page < 1000 then
        break
    end
    offset = offset + 500
end
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {jobs, now, later[2] or ''}
"""


class ClaimedJob(NamedTuple):
    """A job that is ours for as long as its lock is renewed."""

    id: str
    score: int  # milliseconds since 1970: when it was due
    body: bytes | None
    body_bytes: int  # 0: the job has expired; less: it is no string
    tries: int  # this one included
    aborted: bool
    starts: int = 1  # since it last ended, this one included


class Claims(NamedTuple):
    """What one call to Redis brought."""

    jobs: list[ClaimedJob]
    redis_now_ms: int
    next_due_ms: float  # by Redis's clock; infinite when nothing waits for its time


async def claim_jobs(
    redis: ArqRedis, queue_name: str, room: int, *, lock_s: float, aborts: bool
) -> Claims:
    """Lock due jobs, count the try, and fetch their bodies.

    Args:
        room: How many at most.
        lock_s: How long they stay locked when nobody renews that.
        aborts: Whether to look for those that were aborted before they began.
    Raises:
        redis.RedisError, OSError: Redis does not answer. Jobs that it locked all the same are free
        after lock_s.
    """
    # The lock is short, and renewed: stock arq's lasts for the job's time-out, and so long a killed
    # worker's job would wait.
    claim = redis.register_script(CLAIM_LUA)
    arguments: list[Any] = [
        min(room, MAX_CLAIMED),
        int(lock_s * 1000),
        in_progress_key_prefix,
        job_key_prefix,
    ]
    arguments += [
        retry_key_prefix,
        MAX_JOB_BYTES,
        RETRY_KEY_LIFETIME_S,
        int(aborts),
        abort_jobs_ss,
        STARTS_PREFIX,
    ]
    rows, now_ms, next_due_ms = await claim(keys=[queue_name], args=arguments)
    jobs = []
    for raw_id, raw_score, body, body_bytes, tries, aborted, starts in rows:
        try:
            job_id = raw_id.decode()
        except UnicodeDecodeError:
            # Left in the queue, it would come back whenever its lock expires.
            log.error('job.dropped', raw_id=repr(raw_id), reason='not a job id')
            await redis.zrem(queue_name, raw_id)
            continue
        score = float(raw_score)
        # Anybody can write a score of -inf, which is no integer.
        due_ms = int(score) if math.isfinite(score) else 0
        jobs.append(ClaimedJob(job_id, due_ms, body, body_bytes, tries, bool(aborted), starts))
    return Claims(jobs, now_ms, float(next_due_ms or 'inf'))


class End(NamedTuple):
    """How a job ended, for Redis."""

    job_id: str
    finished: bool = True  # it will not run again
    result: bytes | None = None
    keep_result_s: float | None = None  # None for ever
    later_ms: int | None = None  # how much later to run it again
    keep_lock_s: float | None = None


async def write_ends(redis: ArqRedis, queue_name: str, ends: Sequence[End]) -> None:
    """Write the ends of all jobs that ended together, in one transaction and few commands.

    In one transaction: a job without its lock that is still in the queue runs a second time.

    Raises:
        redis.RedisError, OSError: Redis does not answer. The locks expire, and the jobs run again.
    """
    gone: list[str] = []
    finished: list[str] = []
    async with redis.pipeline(transaction=True) as pipe:
        command: Callable[..., Any] = pipe.execute_command  # the methods cost twice as much
        for end in ends:
            # Also when it runs again: a job that ends in order, however often, killed nobody.
            gone.append(STARTS_PREFIX + end.job_id)
            lock = in_progress_key_prefix + end.job_id
            if end.keep_lock_s is None:
                gone.append(lock)
            else:
                command('PEXPIRE', lock, int(end.keep_lock_s * 1000))
            if not end.finished:
                if end.later_ms:
                    command('ZINCRBY', queue_name, end.later_ms, end.job_id)
                continue
            finished.append(end.job_id)
            gone += (retry_key_prefix + end.job_id, job_key_prefix + end.job_id)
            if end.result is not None:
                kept_s = end.keep_result_s
                lifetime = () if kept_s is None else ('PX', int(kept_s * 1000))
                command('SET', result_key_prefix + end.job_id, end.result, *lifetime)
        if finished:
            command('ZREM', queue_name, *finished)
            command('ZREM', abort_jobs_ss, *finished)
        if gone:
            command('DEL', *gone)
        await pipe.execute()
