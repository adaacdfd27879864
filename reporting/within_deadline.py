"""PostgreSQL and Redis for servers of ours: no answer waits for them longer than the deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import asyncpg
from arq.connections import ArqRedis

from engine.urls import place_of
from reporting.problems import Problem, ProblemError
from reporting.servers import ServerAddresses, Servers

T = TypeVar('T')

STATEMENT_S = 4.0  # the server ends a statement a little earlier, so that we know what it was


class DeadlineServers(Servers):
    """Servers that are waited for within a deadline.

    A task that waits for a frozen server would hold us up even when it is cancelled: so it is left
    to end when it can.
    """

    def __init__(
        self,
        addresses: ServerAddresses,
        deadline_s: float,
        *,
        pool_size: int,
        application_name: str,
    ) -> None:
        super().__init__(
            replace(
                addresses,
                postgres_connect_timeout_s=deadline_s,
                postgres_command_timeout_s=min(STATEMENT_S, deadline_s),
            ),
            pool_size=pool_size,
            application_name=application_name,
        )
        self._deadline_s = deadline_s
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._answered_at = 0.0

    async def ask_postgres(self, question: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
        """Return what question(pool) returns.

        Raises:
            ProblemError: PostgreSQL does not answer, or not within the deadline.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(super().ask_postgres(question))
        await self._within_deadline(task)
        if task.done():
            answer = task.result()
            self._answered_at = loop.time()
            return answer
        self._abandon(task)
        # Others had answers meanwhile: there was no connection free. Otherwise the server hangs,
        # and so do our connections.
        if loop.time() - self._answered_at > self._deadline_s and self._pool is not None:
            self._pool.terminate()
            self._pool = None
        raise ProblemError(self._postgres_too_late())

    async def in_time(self, asking: Awaitable[T]) -> T:
        """Return what is awaited, which waits for PostgreSQL with others of our own.

        Raises:
            ProblemError: it takes longer than the deadline.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asking
        except TimeoutError as error:
            raise ProblemError(self._postgres_too_late()) from error

    async def ask_redis(self, question: Callable[[ArqRedis], Awaitable[T]]) -> T:
        """Return what question(redis) returns.

        Raises:
            ProblemError: Redis does not answer, or not within the deadline.
        """
        task = asyncio.create_task(super().ask_redis(question))
        await self._within_deadline(task)
        if task.done():
            return task.result()
        self._abandon(task)
        raise ProblemError(self._too_late('Redis', place_of(self.addresses.redis_url, 6379)))

    async def close(self) -> None:
        """Drop what was opened, without waiting for servers that do not answer."""
        await super().close()
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1)

    async def _within_deadline(self, task: asyncio.Task[Any]) -> None:
        try:
            await asyncio.wait({task}, timeout=self._deadline_s)
        except asyncio.CancelledError:  # the client has gone
            self._abandon(task)
            raise

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # seen: nobody waits for it any more

    def _postgres_too_late(self) -> Problem:
        return self._too_late('PostgreSQL', place_of(self.addresses.postgres_dsn, 5432))

    def _too_late(self, service: str, place: str | None) -> Problem:
        return Problem(
            f'no answer within {self._deadline_s:g} s',
            'see whether it can be reached, and look for load and locks there',
            service,
            place,
        )
