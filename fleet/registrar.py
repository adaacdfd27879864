"""A process's own entry in a registry: it is written every few seconds, and removed at the end.

Every write restores the record and the name, also after a FLUSHALL.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
FORGET_AFTER_S = 86400.0  # names of killed processes, whose records expired long ago


class Registry(NamedTuple):
    """Where records of one kind stand.

    Attributes:
        noun: What they are of, and the part of a record that has its name.
        prefix: Of the key of each.
        names_key: The sorted set of their names, each with when it last wrote.
    """

    noun: str
    prefix: str
    names_key: str


WORKERS = Registry('worker', RECORD_PREFIX, WORKERS_KEY)


class Registrar:
    """A record, with what no part of its process knows: its start, its rate, its loop's lag."""

    def __init__(
        self, name: str, describe: Callable[[], Mapping[str, Any]], registry: Registry = WORKERS
    ) -> None:
        """Say who.

        Args:
            describe: Returns outcomes (numbers by name) and the rest as they are now, see
                WorkerRecord and IngressRecord.
        """
        self.name, self.registry = name, registry
        self._describe = describe
        self._started_at = datetime.now(UTC).isoformat(timespec='seconds')
        self._started = self._since = time.monotonic()
        self._attempts = 0
        self._per_s = 0.0
        self._lag_s = 0.0

    def record(self) -> dict[str, Any]:
        """Return the record as it is now."""
        return {
            self.registry.noun: self.name,
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
    """Write the record until cancelled, then remove it.

    While Redis is unreachable there is no record.
    """
    try:
        while not is_cancelled():
            try:
                await _write(redis, registrar)
            except (RedisError, OSError) as error:
                log.debug('worker.not_registered', error=str(error) or type(error).__name__)
            await registrar.measure()
    finally:
        # In a task of its own: before Python 3.11.3, redis-py does not work in one that was
        # cancelled.
        await asyncio.create_task(_remove(redis, registrar))
    raise asyncio.CancelledError


async def _remove(redis: ArqRedis, registrar: Registrar) -> None:
    registry = registrar.registry
    with contextlib.suppress(RedisError, OSError):  # without Redis, the record expires
        async with redis.pipeline(transaction=True) as pipe:
            pipe.delete(registry.prefix + registrar.name)
            pipe.zrem(registry.names_key, registrar.name)
            await pipe.execute()


async def _write(redis: ArqRedis, registrar: Registrar) -> None:
    registry, record = registrar.registry, json.dumps(registrar.record())
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set(registry.prefix + registrar.name, record, px=int(LIFETIME_S * 1000))
        pipe.zadd(registry.names_key, {registrar.name: time.time()})
        pipe.zremrangebyscore(registry.names_key, '-inf', time.time() - FORGET_AFTER_S)
        await pipe.execute()
