"""Urgent mail has the right of way: while one e-mail is on its way, other work does not begin.

It needs a dozen turns of the loop and some of PostgreSQL's time. While a newsletter drains, all of
these are busy with mail that is in no hurry.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

from db.claimed import Claim
from mail.priority import HIGH

# At most so long, and then not for as long again: a relay may be slow, and all mail be urgent.
MOST_S = 0.05
# A generator's context takes 1.8 us of the 120 that an e-mail costs (2026-11), this one 0.3.
AT_ONCE: AbstractAsyncContextManager[None] = contextlib.nullcontext()


class RightOfWay:
    """Who is urgent takes it, everybody else gives it."""

    def __init__(self) -> None:
        self._urgent = 0
        self._clear = asyncio.Event()
        self._clear.set()
        self._taken_at = 0.0
        self._free_until = 0.0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold up the others meanwhile."""
        if not self._urgent and (now := time.monotonic()) >= self._free_until:
            self._taken_at = now
            self._clear.clear()
        self._urgent += 1
        try:
            yield
        finally:
            # In the next turn but one: the attempt that follows a claim has taken it by then.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._ended)

    def _ended(self) -> None:
        self._urgent -= 1
        if not self._urgent:
            self._clear.set()

    async def given(self) -> None:
        """Wait until no urgent e-mail is on its way, at most MOST_S."""
        if self._clear.is_set():
            return
        try:
            async with asyncio.timeout(self._taken_at + MOST_S - time.monotonic()):
                await self._clear.wait()
        except TimeoutError:
            self._free_until = time.monotonic() + MOST_S
            self._clear.set()

    def turn(self, claim: Claim) -> AbstractAsyncContextManager[None]:
        """Wait until it is the e-mail's turn: an urgent one takes the right of way."""
        if claim.priority != HIGH and self._clear.is_set():  # nearly always
            return AT_ONCE
        return self._turn(claim)

    @contextlib.asynccontextmanager
    async def _turn(self, claim: Claim) -> AsyncIterator[None]:
        if claim.priority == HIGH:
            with self.taken():
                yield
        else:
            await self.given()
            yield
