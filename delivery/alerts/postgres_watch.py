"""PostgreSQL's own alerts: while it is away no duty runs, and no table keeps what was told."""

import asyncio
import time

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from delivery.alerts.alerter import STATE_PREFIX, STORE_TIMEOUT_S, Alerter, StatesInRedis

EVERY_S = 30.0
SUBJECT = 'postgresql'


class PostgresWatch:
    """Takes in what every worker sees of PostgreSQL; one of them counts, as long as Redis is there.

    Attributes:
        every_s: How often what is seen counts.
    """

    def __init__(self, alerter: Alerter, redis: ArqRedis, every_s: float = EVERY_S) -> None:
        self.every_s = every_s
        self._alerter = alerter
        self._redis = redis
        self._states = StatesInRedis(redis)
        self._next_at = 0.0  # monotonic

    async def saw(self, error: str | None) -> None:
        """Take in whether PostgreSQL answered just now, and tell what is new. Never raises.

        Args:
            error: What it said instead of an answer.
        """
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + self.every_s
        if await self._has_turn():
            await self._alerter.observe(self._states, {SUBJECT: error})

    async def _has_turn(self) -> bool:
        """Whether no other worker has counted lately."""
        lives_ms = int(self.every_s * 900)
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                turn = await self._redis.set(f'{STATE_PREFIX}turn', b'1', px=lives_ms, nx=True)
        except (RedisError, OSError):
            return True
        return bool(turn)
