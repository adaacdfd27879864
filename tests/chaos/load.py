"""The application: commits e-mails with queue_email, and enqueues them with a stock arq
producer.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Self

import asyncpg
from arq import create_pool
from redis.exceptions import RedisError

from db.errors import DATABASE_DOWN
from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email
from tests.chaos.arena import Stage

CHUNK = 20  # e-mails committed together
ENQUEUE_TIMEOUT_S = 2.0  # a request of the application would not wait longer for a frozen Redis
WAITING_SQL = "SELECT count(*) FROM outbound_emails WHERE status = 'pending'"


class Producer:
    """Queues e-mails and counts what Redis refused. `async with`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ids: list[int] = []
        self.refused = 0
        self._numbers = itertools.count()

    async def __aenter__(self) -> Self:
        # Plain arq: pickle, no serializer set.
        self.redis = await create_pool(redis_settings(self.stage.stack.env['ARQ_REDIS_URL']))
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self.redis.aclose()

    def recipients(self, count: int, tag: str = '') -> Iterator[str]:
        return (f'{self.stage.name}.{next(self._numbers)}{tag}@example.com' for _ in range(count))

    async def queue(
        self, count: int, *, tag: str = '', enqueue: bool = True, **parts: Any
    ) -> list[int]:
        """Commit so many e-mails, then enqueue their jobs as far as Redis takes them.

        Returns their ids.
        """
        queued: list[int] = []
        while len(queued) < count:
            chunk = await self._commit(
                list(self.recipients(min(CHUNK, count - len(queued)), tag)), parts
            )
            queued += chunk
            self.ids += chunk
            if enqueue:
                await self.enqueue(chunk)
        return queued

    async def _commit(self, recipients: Sequence[str], parts: dict[str, Any]) -> list[int]:
        text = {'subject': 'Chaos', 'body_text': 'Hello,\n\nthis one must not be lost.\n'} | parts
        async with self.stage.pool.acquire() as conn, conn.transaction():
            return [
                await queue_email(conn, recipient=recipient, **text) for recipient in recipients
            ]

    async def enqueue(self, ids: Sequence[int]) -> None:
        for email_id in ids:
            try:
                async with asyncio.timeout(ENQUEUE_TIMEOUT_S):
                    await self.redis.enqueue_job('send_email', email_id)
            except (RedisError, OSError):
                self.refused += 1

    async def keep_busy(self, total: int, waiting: int) -> None:
        """Queue so many in all, no faster than they are claimed.

        Never more than about so many wait.
        """
        while len(self.ids) < total:
            unclaimed = await self.stage.ask(lambda: self.stage.pool.fetchval(WAITING_SQL))
            if unclaimed is None or unclaimed >= waiting:
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(*DATABASE_DOWN, asyncpg.PostgresError):
                await self.queue(min(100, total - len(self.ids)))

    async def trickle(self, per_s: float, until_set: asyncio.Event) -> None:
        """Queue e-mails one by one at this rate until told to stop.

        While PostgreSQL is away there are none.
        """
        while not until_set.is_set():
            with contextlib.suppress(*DATABASE_DOWN, asyncpg.PostgresError):
                await self.queue(1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1 / per_s):
                    await until_set.wait()
