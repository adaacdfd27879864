"""Emptying a queue: every job that is not running goes, with its keys; the mail they were about stays due."""

from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix

PURGE_BATCH = 1000


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


async def purge_queue(redis: ArqRedis, name: str) -> Purged:
    """Remove every job that is not running, with its body. The e-mails they were about stay due in the outbox.

    A worker that is just starting one of them finds it gone, logs `expired`, and goes on. Jobs that
    come while this runs may stay.

    Raises:
        redis.RedisError, OSError: Redis does not answer; some jobs may have been removed.
    """
    left = await redis.zcard(name)
    removed = running = 0
    keys = (in_progress_key_prefix, job_key_prefix, retry_key_prefix)
    while left > 0:
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
