"""Mail that no job asked for: everything that is due, and what is urgent.

A sweep stands behind every wake-up that was missed: PostgreSQL is the truth, and Redis may have
been emptied. It is also the fastest way through a backlog, because one claim brings many e-mails.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import structlog

from db.claimed import Claim
from db.due import give_due_time, next_due_in_s
from db.errors import DATABASE_DOWN, log_error
from delivery.activity import Activity
from delivery.attempts import Attempt, Attempts, SweepTally
from delivery.bytes_in_flight import BytesInFlight
from delivery.claimer import Claimer
from delivery.email_jobs import JobResult
from delivery.tunables import Tunables
from engine.signals import WorkerSignals, wait_at_most

log = structlog.get_logger()

# The next slot of process_pending_emails, five minutes later, goes on where this one stopped.
TIME_BOX_S = 280.0
# So many are rendered in one turn of the loop; more would hold up whoever comes meanwhile.
AT_ONCE = 16

# Without Redis mail goes out 0.7 to 0.9 s after it was queued (median, `make chaos`, 2026-11-23).
UNREACHABLE_EVERY_S = 1.0
DUTY_EVERY_S = 300.0  # what is due later than that is found by the duty in time
LATER_S = 1.0  # a job that is still there comes first
TURNS_EVERY_S = 0.5  # so long at most a tenant's mail waits behind the jobs of another's
URGENT_EVERY_S = 0.005  # at most; a claim of none costs PostgreSQL a tenth of a millisecond


class Sweeper:
    """Claims what no job asked for, and starts sending it.

    Attributes:
        attempts: What is under way, whatever loop started it.
        urgent: Those attempts that keep_sending_urgent started.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        signals: WorkerSignals,
        tunables: Tunables,
        activity: Activity,
        claimer: Claimer,
        large: BytesInFlight,
        send: Callable[[Claim, int], Coroutine[Any, Any, JobResult]],
    ) -> None:
        """Say with what to work.

        Args:
            send: Sends one claimed e-mail after so many cycles of the loop.
        """
        self.send = send
        self.attempts = Attempts(claimer.concurrency, large)
        self.urgent: set[Attempt] = set()
        self._pool = pool
        self._signals = signals
        self._tunables = tunables
        self._activity = activity
        self._claimer = claimer
        self._looks_at = 0.0

    def stop_waiting(self) -> None:
        """Let every loop see that the worker stops."""
        self._signals.sweep_wanted.set()
        self._signals.urgent_wanted.set()

    async def sweep(self, tally: SweepTally) -> None:
        """Claim due e-mails in batches and start sending them.

        Ends when none is left, no relay is available, or the time box is over. At most
        concurrency.size e-mails are under way at once, those of earlier sweeps included.

        Args:
            tally: Gets the attempts of this sweep.
        """
        deadline = time.monotonic() + TIME_BOX_S
        # Under way for so long that the slots of the others are what counts.
        stuck: set[Attempt] = set()
        while not self._may_not_claim() and time.monotonic() < deadline:
            stuck = await self._wait_for_room(stuck)
            room = self._claimer.concurrency.size - self.attempts.busy
            if room <= 0:  # the wait ran out, or the relay slowed down and the size with it
                continue
            room = self._tunables.rate.allows(room)
            if not room:
                await asyncio.sleep(self._tunables.rate.wait_s())
                continue
            if wait_s := self._tunables.relays.away_for_s():
                # A claim would burn a lease for nothing: come back when a relay can be used.
                self._sweep_in(wait_s)
                break
            self._signals.urgent_wanted.clear()  # what is urgent comes first in this claim
            claims = await self._claimer.claim_due(room)
            for number, claim in enumerate(claims):
                self.attempts.start(self.send(claim, number // AT_ONCE), tally)
            # After the claim, and after its e-mails have begun: most rows have a time, and somebody
            # waits for his password reset.
            await asyncio.sleep(0)
            given = await give_due_time(self._pool, self._claimer.set_aside)
            # Fewer than there was room for: nothing more is due, but for rows that have just got
            # their time.
            if len(claims) < room and not given:
                break
        self._look_again_for_types_away()

    def _may_not_claim(self) -> bool:
        return self._signals.stopping.is_set() or self._tunables.switches.claims_paused

    def _look_again_for_types_away(self) -> None:
        """Sweep when a relay may be back whose mail this sweep has passed over."""
        away = self._tunables.relays.types_away()
        now = time.monotonic()
        if away and now >= self._looks_at:  # one look is enough, however many sweeps there are
            self._looks_at = now + min(away.values())
            self._sweep_in(min(away.values()))

    def _sweep_in(self, wait_s: float) -> None:
        asyncio.get_running_loop().call_later(wait_s, self._signals.sweep_wanted.set)

    async def _wait_for_room(self, stuck: set[Attempt]) -> set[Attempt]:
        """Wait until a third of the slots is free, not counting those that are stuck.

        A third: a claim for so many costs as much as one for a single e-mail, and two thirds keep
        the relay busy meanwhile. Where that takes too long, whatever is under way now counts as
        stuck: waiting for it again at each claim made a backlog as slow as its slowest relay.

        Returns:
            What is stuck now.
        """
        size = self._claimer.concurrency.size
        stuck &= self.attempts.running
        # To wake for each e-mail was one of five causes of a quarter of its CPU (2026-11-23).
        low_water = min(size - (size - len(stuck)) // 3, size - 1)
        if self.attempts.busy > low_water and not await self.attempts.wait_for(low_water):
            return set(self.attempts.running)
        return stuck

    async def keep_sweeping(self) -> None:
        """Sweep when somebody asks for it and while Redis is unreachable; until we stop."""
        while not self._signals.stopping.is_set():
            # Asked for also after a freeze of Redis: mail whose application gave up its job waited
            # for the duty, up to five minutes.
            await wait_at_most(self._signals.sweep_wanted, UNREACHABLE_EVERY_S)
            if not (
                self._signals.sweep_wanted.is_set() or self._signals.redis_unreachable.is_set()
            ):
                continue
            self._signals.sweep_wanted.clear()
            try:
                await self.sweep(SweepTally())
                # What waits for its time has lost its job, if Redis was emptied; the next slot of
                # the duty would find it late.
                due_in_s = await next_due_in_s(self._pool, DUTY_EVERY_S)
                if due_in_s is not None:
                    self._sweep_in(due_in_s + LATER_S)
            except DATABASE_DOWN as error:
                log_error(log, 'sweep', error)
                self._signals.sweep_wanted.set()  # whoever asked for it has got nothing
                await asyncio.sleep(UNREACHABLE_EVERY_S)

    async def keep_sending_urgent(self) -> None:
        """Send what is urgent and due while other mail keeps this worker busy, until it stops.

        Asked for when a wake-up comes by NOTIFY, which a sweep under way would obey only with its
        next claim, and when more jobs wait in Redis than there is room for: an urgent one may be
        the last of them. Then each tenant has its turn as well, whosever jobs these are. As many as
        concurrency.kept are under way beside all other mail; when more than that is urgent, the
        rest goes with the others, first of all.
        """
        # Beside a newsletter an urgent e-mail by NOTIFY took 138 ms before this, 44 to 78 after
        # (p50, preliminary, docs/performance.md).
        wanted = self._signals.urgent_wanted
        turns_at = 0.0
        while not self._signals.stopping.is_set():
            await wanted.wait()
            await asyncio.sleep(0)  # a sweep that begins now takes it along
            if not wanted.is_set():
                continue
            wanted.clear()
            try:
                await self.send_urgent()
                if time.monotonic() >= turns_at:
                    await self.send_one_of_each_tenant()
                    turns_at = time.monotonic() + TURNS_EVERY_S
            except DATABASE_DOWN as error:
                log_error(log, 'urgent mail', error)
            await asyncio.sleep(URGENT_EVERY_S)

    async def send_urgent(self) -> None:
        """Start sending what is urgent, due, and not in the hands of a job of this worker."""
        tunables = self._tunables
        wanted = self._claimer.concurrency.kept - len(self.urgent)
        if wanted <= 0 or tunables.switches.claims_paused or tunables.relays.away_for_s():
            return
        room = tunables.rate.allows(wanted, high=True)
        asked_for = [*self._activity.asked_for]
        # At once: to look first took two more turns of a loop that other mail keeps busy.
        claims = await self._claimer.claim_urgent(room, asked_for) if room else []
        if len(claims) == room < wanted:  # the rate allows no more for now
            wait_s = tunables.rate.wait_s(high=True)
            asyncio.get_running_loop().call_later(wait_s, self._signals.urgent_wanted.set)
        self._start_beside(claims)

    async def send_one_of_each_tenant(self) -> None:
        """Start sending what is due longest of each tenant, whosever jobs fill the queue.

        It takes at most half of the slots that are kept for urgent mail.
        """
        tunables = self._tunables
        wanted = (self._claimer.concurrency.kept + 1) // 2 - len(self.urgent)
        if wanted <= 0 or tunables.switches.claims_paused or tunables.relays.away_for_s():
            return
        if room := tunables.rate.allows(wanted):
            self._start_beside(await self._claimer.claim_one_of_each(room))

    def _start_beside(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            attempt = self.attempts.start(self.send(claim, 0), SweepTally(self.urgent))
            attempt.add_done_callback(self._urgent_ended)

    def _urgent_ended(self, _: Attempt) -> None:
        # It was counted out already: had it taken the last of the kept slots, there may be more.
        if len(self.urgent) + 1 >= self._claimer.concurrency.kept:
            self._signals.urgent_wanted.set()
