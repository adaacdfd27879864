"""E-mails whose last worker was lost: any of them may be what killed it, so they go out apart."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from db.claimed import Claim
from db.errors import DATABASE_DOWN, log_error
from delivery.attempts import Attempt, Attempts, SweepTally
from delivery.bytes_in_flight import BytesInFlight
from delivery.claimer import Claimer
from delivery.email_jobs import JobResult
from delivery.tunables import Tunables
from engine.signals import WorkerSignals, wait_at_most

log = structlog.get_logger()

SUSPECTS_EVERY_S = 5.0
SUSPECT_PATIENCE_S = 2.0
SUSPECTS_FIRST_S = 1.0  # a worker that starts sends nothing else for so long
# By lost attempts: how many are under way together. After a second loss each is alone, so that the
# third tells which one it is that kills workers, and those that were only near it are not counted
# out with it. `make chaos`: of 201 one killed three workers and is dead, 200 were delivered.
SUSPECTS_TOGETHER = ((1, 10), (2, 1))


class Suspects:
    """Claims suspects, a few at a time, and starts sending them.

    Attributes:
        wanted: There may be some.
    """

    def __init__(
        self,
        signals: WorkerSignals,
        tunables: Tunables,
        claimer: Claimer,
        large: BytesInFlight,
        attempts: Attempts,
        send: Callable[[Claim, int], Coroutine[Any, Any, JobResult]],
    ) -> None:
        """Say with what to work.

        Args:
            attempts: What is under way, whatever loop started it.
            send: Sends one claimed e-mail after so many cycles of the loop.
        """
        self.send = send
        self.wanted = asyncio.Event()
        self._none_due = asyncio.Event()
        self._signals = signals
        self._tunables = tunables
        self._claimer = claimer
        self._large = large
        self._attempts = attempts

    async def keep_sending(self) -> None:
        """Send e-mails whose last worker was lost, apart from all others; until the worker stops.

        One of them may be what killed the worker. So few are under way at a time, then one.
        """
        while not self._signals.stopping.is_set():
            # Whoever rescues asks for it: the mail of a dead worker is to be out within 35 s.
            await wait_at_most(self.wanted, SUSPECTS_EVERY_S)
            self.wanted.clear()
            try:
                await self._send_all()
            except DATABASE_DOWN as error:
                log_error(log, 'suspects', error)

    async def send_first(self) -> None:
        """Wait until no suspect is due, at most SUSPECTS_FIRST_S, before a worker takes jobs.

        They waited for their lease already. Among a backlog the first of them took 2.6 s, and
        where workers are killed every second that is all the time they have.
        """
        await wait_at_most(self._none_due, SUSPECTS_FIRST_S)

    async def _send_all(self) -> None:
        """Send suspects until none is due."""
        # When each began that may still kill this worker. What does so does it at once, so one
        # whose relay is slow does not hold up the others for long.
        begun: dict[Attempt, float] = {}
        relays = self._tunables.relays
        while not self._signals.stopping.is_set() and not relays.away_for_s():
            now = time.monotonic()
            # One that waits for memory has not done its worst yet.
            begun |= dict.fromkeys(begun.keys() & self._large.waiting, now)
            begun = {
                attempt: begun_at
                for attempt, begun_at in begun.items()
                if not attempt.done() and begun_at > now - SUSPECT_PATIENCE_S
            }
            for claim in await self._claim(len(begun)):
                begun[self._attempts.start(self.send(claim, 0), SweepTally())] = now
            if not begun:
                self._none_due.set()
                break
            oldest_s = time.monotonic() - min(begun.values())
            await asyncio.wait(
                begun,
                timeout=max(0.0, SUSPECT_PATIENCE_S - oldest_s),
                return_when=asyncio.FIRST_COMPLETED,
            )

    async def _claim(self, under_way: int) -> list[Claim]:
        for lost_attempts, together in SUSPECTS_TOGETHER:
            # A claim for one costs as much as one for half of them. To wait for the last of ten
            # instead made them 3 a second (2026-11: workers that live for 3 s, a relay of 1 s).
            if under_way > together // 2:
                continue
            room = together - under_way
            if claims := await self._claimer.claim_suspects(lost_attempts, room):
                return claims
        return []
