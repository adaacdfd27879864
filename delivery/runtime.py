"""What every job works with, made once when the worker starts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from arq.connections import ArqRedis
from motor.motor_asyncio import AsyncIOMotorDatabase

from db import claims, results
from db.claimed import Claim
from db.content import attachment_sizes, fetch_attachments, fetch_templates
from db.due import priorities
from db.late import record_beside_row, record_late
from db.narrowing import Narrowed, SetAside, give_up_rows
from db.pools import DATABASE_DOWN
from db.results import Result
from db.suppressions import suppressed
from db.transitions import states_of
from delivery.bytes_in_flight import MAX_WAITING, BytesInFlight
from delivery.concurrency import Places
from delivery.events import Events
from delivery.leases import Leases, now_s
from delivery.neighbours import Neighbours
from delivery.switches import Switches
from engine.batches import Batcher
from engine.refused import RefusedJobs
from engine.signals import WorkerSignals
from mail.outcome import Decision, Delivery, Outcome, Phase, Policy
from mail.priority import HIGH, NORMAL
from mail.relay.rate_limit import RateLimit
from mail.relay.transaction import Progress
from mail.route import Relays
from mail.template.renderers import Templates
from mail_outbox.render import Sender
from mail_outbox.states import Status

log = structlog.get_logger()

Recorded = (
    bool | Exception
)  # whether the claim was still ours; an error for a result that cannot be stored
JobResult = dict[str, Any]  # {'email_id': 123, 'status': 'sent', 'attempts': 1}


@dataclass
class Runtime:
    """The worker's connections, its identity and its rules. Times in seconds."""

    pool: asyncpg.Pool
    mongo: AsyncIOMotorDatabase[dict[str, Any]]
    redis: ArqRedis
    cache_url: str
    relays: Relays
    leases: Leases
    worker: str
    queue_name: str
    sender: Sender
    policy: Policy
    max_message_bytes: int
    sweep_size: int  # the most e-mails under way at once, by jobs and again by sweeps
    expiry_hours: float
    email_retention_days: int
    session_retention_days: int
    signals: WorkerSignals
    max_bytes_in_flight: int = 64 * 1024 * 1024  # of large e-mails
    cleanup_session_tables: frozenset[str] = frozenset()  # of the application's
    retention_is_set: bool = (
        False  # an operator named the days: only then is mail deleted that was there before
    )
    sending: set[asyncio.Task[Any]] = field(default_factory=set)  # attempts that a sweep started
    few: int = 0  # of them, at which the sweep that waits claims more; of two sweeps one waits its time out
    few_left: asyncio.Event = field(default_factory=asyncio.Event)
    releasing: set[asyncio.Task[Any]] = field(
        default_factory=set
    )  # claims that are being given back
    suspects_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    asked_for: set[int] = field(default_factory=set)  # e-mails whose jobs are running here
    outcomes: Counter[str] = field(default_factory=Counter)  # totals since the start, by outcome
    # How far each attempt has come, by its claim's key, for whoever asks what this worker is doing.
    under_way: dict[tuple[int, UUID], Progress] = field(default_factory=dict)

    set_aside: SetAside = field(default_factory=SetAside)
    switches: Switches = field(default_factory=Switches)
    rate: RateLimit = field(default_factory=RateLimit)
    events: Events = field(default_factory=Events)
    neighbours: Neighbours = field(default_factory=Neighbours)
    refused: RefusedJobs = field(default_factory=RefusedJobs)

    def __post_init__(self) -> None:
        """Group what concurrent e-mails ask of the databases into one call each."""
        # A job claims its e-mail when there is a place to send it: what waits unclaimed is not lost
        # with this worker.
        self.places = Places(
            least=lambda: 3 * max(relay.wanted_connections for relay in self.relays),
            most=lambda: self.sweep_size,
        )
        self.templates = Templates(self.max_message_bytes)
        self.large = BytesInFlight(self.max_bytes_in_flight, self._look_for_room)
        self._claim_batched = Batcher(self._claim_each, orphaned=self._release)
        self._claim_urgent = Batcher(
            self._claim_each, orphaned=self._release
        )  # does not wait for the others' claims
        self.priority_of = Batcher(partial(priorities, self.pool))
        # Of jobs whose e-mails a sweep has sent there are many at once.
        self.state_of = Batcher(partial(states_of, self.pool))
        self.record = Batcher(
            self._record_each, drop_cancelled=False
        )  # what happened is to be known, whoever asks
        self.suppression = Batcher(self._suppression_each)
        self.fetch_template = Batcher(partial(fetch_templates, self.pool))
        self.attachment_size = Batcher(partial(attachment_sizes, self.mongo))
        self.fetch_attachments = Batcher(
            partial(fetch_attachments, self.mongo), max_items=8
        )  # they may be large

    @property
    def busy(self) -> int:
        """How many attempts of sweeps are under way, without those that hold nothing yet but wait to be large."""
        return len(self.sending) - min(MAX_WAITING, len(self.large.waiting & self.sending))

    def _look_for_room(self) -> None:
        """Take notice of who begins to wait for bytes, or does so no more: small mail goes on meanwhile."""
        self.places.absent = len(self.large.waiting - self.sending)
        if self.busy <= self.few:
            self.few_left.set()

    async def _suppression_each(self, addresses: Sequence[str]) -> list[str | None]:
        reasons = await suppressed(self.pool, addresses)
        return [reasons.get(address) for address in addresses]

    def claim_one(self, email_id: int, priority: int = NORMAL) -> Awaitable[Claim | None]:
        """Claim one e-mail, together with all others that are asked for now; None when it cannot be claimed."""
        batched = self._claim_urgent if priority == HIGH else self._claim_batched
        if self.rate.per_s:
            return self._claim_in_turn(batched, email_id, high=priority == HIGH)
        return batched(email_id)

    async def settle(self) -> None:
        """Wait until no claim is under way that nobody would send, and all such are given back."""
        for claiming in (self._claim_batched, self._claim_urgent):
            await claiming.settle()
        while self.releasing:
            await asyncio.wait(self.releasing)

    async def _claim_in_turn(
        self, batched: Batcher[int, Claim | None], email_id: int, *, high: bool
    ) -> Claim | None:
        await self.rate.wait_for_slot(high=high)
        return await batched(email_id)

    async def claim_due(self, limit: int) -> list[Claim]:
        """Claim up to limit due e-mails; see db.claims.claim_due."""
        if self.switches.claims_paused:
            return []
        since = now_s()
        return await self._take(claims.claim_due(self.pool, limit, **self._claimant()), since)

    async def claim_suspects(self, lost_attempts: int, limit: int) -> list[Claim]:
        """Claim e-mails whose last workers were lost; see db.claims.claim_suspects."""
        limit = self.rate.allows(limit)
        if self.switches.claims_paused or not limit:
            return []
        since = now_s()
        return await self._take(
            claims.claim_suspects(self.pool, lost_attempts, limit, **self._claimant()), since
        )

    async def _take(self, claiming: Coroutine[Any, Any, list[Claim]], since: float) -> list[Claim]:
        """Wait for claims; when cancelled meanwhile, give back what they bring."""
        fetching = asyncio.ensure_future(claiming)
        try:
            claimed = await asyncio.shield(fetching)
        except asyncio.CancelledError:
            for claim in await fetching:
                self._release(claim.email.id, claim)
            raise
        claimed.sort(key=attrgetter('priority'))
        self.rate.spend(len(claimed))
        self._hold(claimed, since)
        return claimed

    async def _claim_each(self, email_ids: Sequence[int]) -> list[Claim | None]:
        if self.switches.claims_paused:
            return [None] * len(email_ids)
        since = now_s()
        claimed = await claims.claim(self.pool, list(set(email_ids)), **self._claimant())
        self._hold(claimed, since)
        by_id = {claim.email.id: claim for claim in claimed}
        return [
            by_id.pop(email_id, None) for email_id in email_ids
        ]  # one winner, also among our own jobs

    async def _record_each(self, ended: Sequence[Result]) -> list[Recorded]:
        """Record; when PostgreSQL objects to the batch, one by one, so that one bad result spoils no other."""
        try:
            recorded = await results.record(self.pool, ended, worker=self.worker)
            # Whose claim is gone still tells what became of its attempt.
            if late := [result for result in ended if result.claim.key not in recorded]:
                recorded = recorded | await record_late(self.pool, late, worker=self.worker)
        except DATABASE_DOWN:
            raise
        except (
            asyncpg.PostgresError,
            TypeError,
        ) as error:  # TypeError: it cannot even be written as JSON
            if len(ended) == 1:
                return [await self._record_beside_row(ended[0], error)]
            return [answer for result in ended for answer in await self._record_each([result])]
        return [result.claim.key in recorded for result in ended]

    async def _record_beside_row(self, result: Result, error: Exception) -> Exception:
        """Keep what a row refuses to take: the attempt by itself, and in the row why; it is not sent again."""
        try:
            await record_beside_row(self.pool, result, error, worker=self.worker)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as also:
            log.exception('attempt.not_recorded', email_id=result.claim.email.id, error=str(also))
        refused = Narrowed(refused={result.claim.email.id: error})
        may_be_there = result.delivery.outcome in (Outcome.ACCEPTED, Outcome.UNCERTAIN)
        status = Status.UNCERTAIN if may_be_there else Status.FAILED
        await give_up_rows(self.pool, refused, self.set_aside, status, result.claim.token)
        return error

    def _release(self, _: int, claim: Claim | None) -> None:
        """Give back an e-mail that was claimed for a job which is gone."""
        if claim is not None:
            delivery = Delivery(Outcome.RELEASED, Phase.CLAIMED, error='the worker stopped')
            result = Result(claim, delivery, Decision(Status.PENDING, 0.0, counts=False), 0.0)
            releasing = asyncio.create_task(self.record(result))
            releasing.add_done_callback(lambda _: self.leases.drop(claim))
            self.releasing.add(releasing)
            releasing.add_done_callback(self.releasing.discard)

    def _hold(self, claimed: Sequence[Claim], since: float) -> None:
        self.leases.hold(claimed, since)
        if self.events.wanted:
            for claim in claimed:
                self.events.add(
                    'claimed',
                    email_id=claim.email.id,
                    attempt=claim.attempt,
                    type=claim.email.email_type,
                )

    def _claimant(self) -> dict[str, Any]:
        return {
            'worker': self.worker,
            'lease_s': self.leases.lease_s,
            'message_id_domain': self.sender.address.rpartition('@')[2],
            'paused_types': self.switches.email_types,
            'set_aside': self.set_aside,
        }
