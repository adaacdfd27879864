"""A worker's own entry in the registry: it is written every few seconds, and removed at the end.

Every write restores the record and the name, also after a FLUSHALL.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from engine.background import is_cancelled
from engine.queues import WORKERS_KEY
from fleet.registry import LIFETIME_S, RECORD_PREFIX
from process.memory import resident_bytes

log = structlog.get_logger()

REGISTER_EVERY_S = 5.0
LAG_EVERY_S = 1.0
FORGET_AFTER_S = 86400.0  # names of killed workers, whose records expired long ago


class Registrar:
    """A worker's record, with what none of its parts knows: its start, its rate, its loop's lag."""

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
    """Write the worker's record until cancelled, then remove it.

    While Redis is unreachable there is no record.
    """
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
    with contextlib.suppress(RedisError, OSError):  # without Redis, the record expires
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
