"""The attempts that no job waits for: each is a task of its own, known here until it ends."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from delivery.bytes_in_flight import MAX_WAITING, BytesInFlight
from delivery.concurrency import Concurrency
from delivery.email_jobs import JobResult
from mail_outbox.envelope import ContentUnavailableError

log = structlog.get_logger()

ROOM_WAIT_S = 0.1  # a sweep waits this long for as much room as makes its claim worth the while

Attempt = asyncio.Task[JobResult]


class NoRoomError(ContentUnavailableError):
    """So many large e-mails wait in this worker that this one is better off in its row."""


@dataclass(slots=True)
class SweepTally:
    """What one sweep started: the attempts that still run, and how the others ended."""

    running: set[Attempt] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)


class Attempts:
    """Attempts under way, whatever loop started them.

    They outlive the sweep that started them: one whose relay stalls holds up nobody. The worker
    waits for them when it stops.
    """

    def __init__(self, concurrency: Concurrency, large: BytesInFlight) -> None:
        self.running: set[Attempt] = set()
        self._concurrency = concurrency
        self._large = large
        large.on_change = self._note_large
        # How many may still be under way when the sweep that waits for room goes on. Of two sweeps
        # that wait at once, one waits its time out.
        self._low_water = 0
        self._low_water_reached = asyncio.Event()

    @property
    def busy(self) -> int:
        """How many are under way, without those that hold nothing yet and wait for bytes.

        Of these at most MAX_WAITING are left out: they are claimed, and a kill delays them all.
        """
        return len(self.running) - min(MAX_WAITING, len(self._large.waiting & self.running))

    def check_room(self) -> None:
        """Make sure that one more large e-mail may wait for bytes.

        Those of jobs alone are counted: a sweep claims no more than it has room for.

        Raises:
            NoRoomError: it is better off in its row.
        """
        if self._large_jobs() >= MAX_WAITING:
            raise NoRoomError(f'{MAX_WAITING} large e-mails wait in this worker')

    def _large_jobs(self) -> int:
        return len(self._large.waiting - self.running)

    def start(self, sending: Coroutine[Any, Any, JobResult], tally: SweepTally) -> Attempt:
        """Run an attempt in a task of its own, and know it until it ends."""
        attempt = asyncio.get_running_loop().create_task(sending)
        tally.running.add(attempt)
        self.running.add(attempt)
        attempt.add_done_callback(partial(self._ended, tally))
        return attempt

    async def wait_for(self, low_water: int) -> bool:
        """Wait until no more than so many are under way.

        Returns:
            False when that took longer than ROOM_WAIT_S.
        """
        self._low_water = low_water
        self._low_water_reached.clear()
        try:
            async with asyncio.timeout(ROOM_WAIT_S):
                await self._low_water_reached.wait()
        except TimeoutError:
            return False
        return True

    def _note_low_water(self) -> None:
        if self.busy <= self._low_water:
            self._low_water_reached.set()

    def _note_large(self) -> None:
        """Give the slots of those who wait for bytes to others: small mail goes on meanwhile."""
        self._concurrency.absent = self._large_jobs()
        self._note_low_water()

    def _ended(self, tally: SweepTally, attempt: Attempt) -> None:
        """Count an attempt that has ended, and report a fault that kept it from being recorded."""
        self.running.discard(attempt)
        self._note_low_water()
        tally.running.discard(attempt)
        if attempt.cancelled():
            tally.outcomes['cancelled'] += 1
        elif attempt.exception() is not None:
            tally.outcomes['error'] += 1
            log.error('attempt.not_recorded', exc_info=attempt.exception())
        else:
            tally.outcomes[attempt.result()['status']] += 1
