"""How many e-mails may be under way at once: enough to keep the relay busy, and no more."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from mail.priority import HIGH, NORMAL, FairQueue

AHEAD_S = 0.1  # what is claimed and not sent yet is what a kill delays by a lease
MEASURE_S = 0.1
# What keeps a relay's connections busy, however far it is: on each, one e-mail is recorded, one's
# body is on its way, and one's envelope travels with it.
PER_CONNECTION = 3
# While urgent mail comes among other mail, less is under way, and so statements are smaller and
# turns of the loop shorter. Its p99 beside a newsletter fell from 40 to 52 ms to 15 to 17 (idle: 8
# to 11), and the newsletter from 3,150 to 2,050 a second (`bench.run --only priority`, 2026-11-30).
URGENT_AHEAD_S = 0.02
URGENT_PER_CONNECTION = 2
URGENT_EXPECTED_S = 30.0
URGENT_PART = 4  # where more than a quarter of the mail is urgent, it waits for its own kind
# A tenth more of the slots is for urgent mail alone, which does not wait until one is free.
KEPT_PART = 10


class Concurrency:
    """Slots for e-mails under way: what AHEAD_S of sending needs at the rate of the last moments.

    A slow relay gets few e-mails at once, a fast one many, without anybody setting a number. Jobs
    take one slot each (`async with concurrency.slot(priority)`); sweeps look at `size`.
    """

    def __init__(self, connections: Callable[[], int], most: Callable[[], int]) -> None:
        """Say between which numbers to stay.

        Args:
            connections: How many the busiest relay may have; all of them are kept busy.
            most: An operator's limit; it wins.
        """
        self._connections, self._most = connections, most
        self._wanted = 0
        self._ended = 0
        self._urgent_ended = 0
        self._urgent_until = 0.0
        self._since = time.monotonic()
        self._taken = 0
        self._absent = 0
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @property
    def absent(self) -> int:
        """How many hold a slot that others may use: they wait for something else."""
        return self._absent

    @absent.setter
    def absent(self, number: int) -> None:
        self._absent = number
        self._fill()

    @property
    def size(self) -> int:
        """How many e-mails may be under way now."""
        least = URGENT_PER_CONNECTION if self.expects_urgent else PER_CONNECTION
        return max(1, min(self._most(), max(self._wanted, least * self._connections())))

    @property
    def expects_urgent(self) -> bool:
        """Whether urgent mail came among other mail in the last URGENT_EXPECTED_S."""
        return time.monotonic() < self._urgent_until

    def ended(self, priority: int = NORMAL, *, came_through: bool = True) -> None:
        """Note that an e-mail ended, and whether a relay dealt with it.

        Every MEASURE_S the size follows the rate, by half or double at most.
        """
        self._ended += came_through
        self._urgent_ended += came_through and priority == HIGH
        now = time.monotonic()
        past_s = now - self._since
        if past_s >= MEASURE_S:
            if 0 < self._urgent_ended * URGENT_PART <= self._ended:
                self._urgent_until = now + URGENT_EXPECTED_S
            ahead_s = URGENT_AHEAD_S if self.expects_urgent else AHEAD_S
            wanted = int(self._ended / past_s * ahead_s)
            self._wanted = max(self._wanted // 2, min(wanted, 2 * self.size))
            self._ended, self._urgent_ended, self._since = 0, 0, now

    @property
    def kept(self) -> int:
        """How many e-mails of high priority may be under way beyond size."""
        return max(1, self.size // KEPT_PART)

    @property
    def is_full(self) -> bool:
        """Whether an ordinary e-mail would have to wait."""
        return bool(self._waiting) or not self._has_slot(NORMAL)

    @contextlib.asynccontextmanager
    async def slot(self, priority: int) -> AsyncIterator[None]:
        """Wait for a slot, by priority and in the order of coming; in the end the next gets it."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, priority: int) -> None:
        if not self._waiting.ahead_of(priority) and self._has_slot(priority):
            self._taken += 1
            return
        slot = asyncio.get_running_loop().create_future()
        self._waiting.append(slot, priority)
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():  # given and cancelled at once
                self._leave()
            raise

    def _has_slot(self, priority: int) -> bool:
        return self._taken - self._absent < self.size + (self.kept if priority == HIGH else 0)

    def _leave(self) -> None:
        self._taken -= 1
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self._has_slot(self._waiting.next_priority):
            slot = self._waiting.popleft()
            if not slot.done():
                self._taken += 1
                slot.set_result(None)
