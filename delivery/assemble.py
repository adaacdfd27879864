"""Put the parts of one worker together, and say which of them does each step."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import structlog

from db.claimed import Claim
from db.narrowing import SetAside
from delivery.activity import Activity
from delivery.bytes_in_flight import BytesInFlight
from delivery.claimer import Claimer
from delivery.concurrency import Concurrency
from delivery.content import Contents, brings_all
from delivery.email_jobs import JobResult
from delivery.handing_over import HandingOver
from delivery.job_claims import claim_and_send
from delivery.leases import Leases
from delivery.record import Recorder
from delivery.right_of_way import AT_ONCE
from delivery.rules import Stores, WorkerRules
from delivery.runtime import Runtime
from delivery.senders import AllowedSenders
from delivery.steps import SendClaimed, Steps
from delivery.suppression import SuppressionList
from delivery.suspects import Suspects
from delivery.sweeper import Sweeper
from delivery.traits import read_traits
from delivery.tunables import Tunables
from delivery.wake_ups import WakeUps
from engine.signals import WorkerSignals
from mail_outbox.envelope import Email
from mail_outbox.rendered import Rendered

log = structlog.get_logger()

Spine = Callable[[Steps, Claim, int], Coroutine[Any, Any, JobResult]]


def assemble(
    stores: Stores,
    rules: WorkerRules,
    signals: WorkerSignals,
    tunables: Tunables,
    activity: Activity,
    spine: Spine,
) -> Runtime:
    """Put a worker together, around the spine: jobs.send_email.send_claimed."""

    def send_claimed(claim: Claim, cycles: int) -> Coroutine[Any, Any, JobResult]:
        return spine(runtime.steps, claim, cycles)

    if rules.safety.names:
        log.warning('safety_switches.on', switches=rules.safety.names)
    leases, set_aside = Leases(rules.lease_s), SetAside()
    concurrency = Concurrency(
        connections=lambda: max(relay.wanted_connections for relay in tunables.relays),
        most=lambda: tunables.max_emails,
    )
    recorder = Recorder(stores.pool, rules, activity, concurrency, set_aside)
    claimer = Claimer(
        stores.pool, rules.worker, tunables, activity, concurrency, leases, set_aside, recorder
    )
    large = BytesInFlight(rules.max_bytes_in_flight)
    sweeper = Sweeper(stores.pool, signals, tunables, activity, claimer, large, send_claimed)
    runtime = Runtime(
        stores=stores,
        rules=rules,
        signals=signals,
        tunables=tunables,
        activity=activity,
        claimer=claimer,
        contents=Contents(
            stores.pool, stores.mongo, rules.max_message_bytes, large, tunables, rules.unsubscribe
        ),
        suppressions=SuppressionList(stores.pool),
        recorder=recorder,
        wake_ups=WakeUps(stores.redis, rules.queue_name, signals),
        sweeper=sweeper,
        suspects=Suspects(signals, tunables, claimer, large, sweeper.attempts, send_claimed),
    )
    runtime.steps = _steps(runtime)
    return runtime


def _steps(runtime: Runtime) -> Steps:
    contents, recorder, tunables = runtime.contents, runtime.recorder, runtime.tunables

    def claim(email_id: int, send: SendClaimed) -> Coroutine[Any, Any, JobResult]:
        return claim_and_send(runtime, email_id, send)

    def hold_bytes(claim: Claim) -> AbstractAsyncContextManager[None]:
        return AT_ONCE if brings_all(claim) else hold_bytes_to_fetch(claim)

    @asynccontextmanager
    async def hold_bytes_to_fetch(claim: Claim) -> AsyncIterator[None]:
        size_bytes = await contents.large_bytes(claim)
        if not size_bytes:
            yield
            return
        runtime.sweeper.attempts.check_room()
        async with contents.large.share(size_bytes):
            yield

    return Steps(
        activity=runtime.activity,
        held=runtime.claimer.leases,
        claim=claim,
        turn=runtime.activity.right_of_way.turn,
        hold_bytes=hold_bytes,
        fetch=contents.fetch,
        check_senders=AllowedSenders(runtime.stores.pool, tunables).check_senders,
        render=contents.render,
        read_traits=partial(read_traits, tunables),
        put_own=_putting(runtime.rules),
        leave_out_suppressed=runtime.suppressions.leave_out,
        deliver=HandingOver(tunables, runtime.rules.safety).deliver,
        policy=runtime.rules.policy,
        record=recorder.record_to_the_end,
        keep_recipients=recorder.keep_recipients,
        log_attempt=recorder.log_attempt,
        send_later=runtime.wake_ups.send_later,
    )


def _putting(rules: WorkerRules) -> Callable[[Email, Rendered], Rendered]:
    """Return what puts on a message what names its e-mail."""
    parts = [part.put_on for part in (rules.unsubscribe, rules.return_paths) if part is not None]

    def put_own(email: Email, rendered: Rendered) -> Rendered:
        for put_on in parts:
            rendered = put_on(email, rendered)
        return rendered

    return put_own
