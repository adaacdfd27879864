"""Claim e-mails for one worker: those of concurrent jobs in one statement, a sweep's in another."""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import asyncpg

from db import claims
from db.claim_request import Claimant
from db.claimed import Claim
from db.due import priorities
from db.fairness import Tenants, claim_in_turns, claim_one_of_each
from db.narrowing import SetAside
from db.results import Result
from db.transitions import states_of
from delivery.activity import Activity
from delivery.concurrency import Concurrency
from delivery.leases import Leases, now_s
from delivery.record import Recorder
from delivery.tunables import Tunables
from engine.batches import Batcher
from mail.outcome import Decision, Delivery, Outcome, Phase
from mail.priority import HIGH, NORMAL
from mail_outbox.states import Status


class Claimer:
    """The claims of one worker: what it asks PostgreSQL for, and what it holds.

    Attributes:
        concurrency: How many may be under way. A job claims its e-mail when it has a slot: what
            waits without a claim is not lost with this worker.
        leases: What is held, and until when.
        set_aside: Rows that nobody can change.
        priority_of: The priority of an e-mail that is not claimed yet.
        state_of: The state of an e-mail that could not be claimed.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        worker: str,
        tunables: Tunables,
        activity: Activity,
        concurrency: Concurrency,
        leases: Leases,
        set_aside: SetAside,
        recorder: Recorder,
    ) -> None:
        self.concurrency = concurrency
        self.leases = leases
        self.set_aside = set_aside
        self.priority_of = Batcher(partial(priorities, pool))
        # Of jobs whose e-mails a sweep has sent there are many at once.
        self.state_of = Batcher(partial(states_of, pool))
        self._pool = pool
        self._worker = worker
        self._tunables = tunables
        self._activity = activity
        self._recorder = recorder
        self._tenants = Tenants()
        self._is_backlog = False  # the last claim got all that it asked for
        # The first version claimed each e-mail by a statement, and sent 125 a second (2026-11-22).
        self._batched = Batcher(self._claim_others, orphaned=self._release)
        # Urgent mail does not wait for the claims of the others.
        self._batched_urgent = Batcher(self._claim_first, orphaned=self._release)
        self._releasing: set[asyncio.Task[Any]] = set()

    def claim_one(self, email_id: int, priority: int = NORMAL) -> Awaitable[Claim | None]:
        """Claim one e-mail, together with all others that are asked for now.

        Returns:
            None when it cannot be claimed.
        """
        batched = self._batched_urgent if priority == HIGH else self._batched
        if self._tunables.rate.per_s:
            return self._claim_within_rate(batched, email_id, high=priority == HIGH)
        return batched(email_id)

    async def claim_due(self, limit: int) -> list[Claim]:
        """Claim up to limit due e-mails; while there are more than that, each tenant has its turn.

        See db.claims.claim_due and db.fairness.
        """
        if self._tunables.switches.claims_paused:
            return []
        await self._activity.right_of_way.given()
        turn = await self._tenants.turn_in_backlog(self._pool, limit) if self._is_backlog else None
        # Before it asks: a worker that was frozen until the answer would think its lease longer.
        since = now_s()
        claiming = (
            claim_in_turns(self._pool, limit, turn, **self._claimant())
            if turn
            else claims.claim_due(self._pool, limit, **self._claimant())
        )
        claimed = await self._take(claiming, since)
        self._is_backlog = len(claimed) >= limit
        return claimed

    async def claim_one_of_each(self, limit: int) -> list[Claim]:
        """Claim what is due longest of up to limit tenants; nothing where only one has due mail."""
        turn = await self._tenants.next_turn(self._pool, limit)
        if turn is None:
            return []
        since = now_s()
        return await self._take(
            claim_one_of_each(self._pool, limit, turn, **self._claimant()), since
        )

    async def claim_urgent(self, limit: int, but: Sequence[int]) -> list[Claim]:
        """Claim e-mails of high priority that are due; see db.claims.claim_urgent."""
        with self._activity.right_of_way.taken():
            since = now_s()
            return await self._take(
                claims.claim_urgent(self._pool, limit, but, **self._claimant()), since
            )

    async def claim_suspects(self, lost_attempts: int, limit: int) -> list[Claim]:
        """Claim e-mails whose last workers were lost; see db.claims.claim_suspects."""
        limit = self._tunables.rate.allows(limit)
        if self._tunables.switches.claims_paused or not limit:
            return []
        since = now_s()
        return await self._take(
            claims.claim_suspects(self._pool, lost_attempts, limit, **self._claimant()), since
        )

    async def settle(self) -> None:
        """Wait until no claim is under way that nobody would send, and all such are given back."""
        # Claims in flight at an orderly stop stayed `sending` until their leases ran out.
        for claiming in (self._batched, self._batched_urgent):
            await claiming.settle()
        while self._releasing:
            await asyncio.wait(self._releasing)

    async def _claim_within_rate(
        self, batched: Batcher[int, Claim | None], email_id: int, *, high: bool
    ) -> Claim | None:
        await self._tunables.rate.wait_for_slot(high=high)
        return await batched(email_id)

    async def _take(self, claiming: Coroutine[Any, Any, list[Claim]], since: float) -> list[Claim]:
        """Wait for claims; when cancelled meanwhile, give back what they bring.

        The statement itself is not cancelled: PostgreSQL may have committed it, and rows that
        nobody knows of would stay `sending` until their leases run out.
        """
        fetching = asyncio.ensure_future(claiming)
        try:
            claimed = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            for claim in await fetching:
                self._release(claim.email.id, claim)
            raise
        claimed.sort(key=attrgetter('priority'))
        self._tunables.rate.spend(len(claimed))
        self._hold(claimed, since)
        return claimed

    async def _claim_others(self, email_ids: Sequence[int]) -> list[Claim | None]:
        await self._activity.right_of_way.given()
        return await self._claim_each(email_ids)

    async def _claim_first(self, email_ids: Sequence[int]) -> list[Claim | None]:
        with self._activity.right_of_way.taken():
            return await self._claim_each(email_ids)

    async def _claim_each(self, email_ids: Sequence[int]) -> list[Claim | None]:
        if self._tunables.switches.claims_paused:
            return [None] * len(email_ids)
        since = now_s()
        claimed = await claims.claim(self._pool, list(set(email_ids)), **self._claimant())
        self._hold(claimed, since)
        by_id = {claim.email.id: claim for claim in claimed}
        # pop: two jobs of this worker may ask for one e-mail, and only one of them gets it.
        return [by_id.pop(email_id, None) for email_id in email_ids]

    def _release(self, _: int, claim: Claim | None) -> None:
        """Give back an e-mail that was claimed for a job which is gone."""
        if claim is not None:
            delivery = Delivery(Outcome.RELEASED, Phase.CLAIMED, error='the worker stopped')
            # It counts no attempt: a deploy must not use up what an e-mail has.
            result = Result(claim, delivery, Decision(Status.PENDING, 0.0, counts=False), 0.0)
            releasing = asyncio.create_task(self._recorder.batched(result))
            releasing.add_done_callback(lambda _: self.leases.drop(claim))
            self._releasing.add(releasing)
            releasing.add_done_callback(self._releasing.discard)

    def _hold(self, claimed: Sequence[Claim], since: float) -> None:
        self.leases.hold(claimed, since)
        if self._activity.events.wanted:
            for claim in claimed:
                self._activity.events.add(
                    'claimed',
                    email_id=claim.email.id,
                    attempt=claim.attempt,
                    type=claim.email.email_type,
                )

    def _types_left_alone(self) -> Sequence[str]:
        """Return the types that operators have paused, and those whose relays are all away."""
        paused, away = self._tunables.switches.email_types, self._tunables.relays.types_away()
        return [*paused, *away] if away else paused

    def _claimant(self) -> Claimant:
        return {
            'worker': self._worker,
            'lease_s': self.leases.lease_s,
            'message_id_domain': self._tunables.sender.address.rpartition('@')[2],
            'paused_types': self._types_left_alone(),
            'set_aside': self.set_aside,
        }
