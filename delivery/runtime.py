"""The parts of one worker, put together once when it starts: what every job works with."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from db.claimed import Claim
from db.narrowing import SetAside
from delivery.activity import Activity
from delivery.bytes_in_flight import BytesInFlight
from delivery.claimer import Claimer, JobResult
from delivery.concurrency import Concurrency
from delivery.content import Contents
from delivery.leases import Leases
from delivery.record import Recorder
from delivery.rules import Stores, WorkerRules
from delivery.suppression import SuppressionList
from delivery.sweeper import Sweeper
from delivery.tunables import Tunables
from delivery.wake_ups import WakeUps
from engine.signals import WorkerSignals


@dataclass
class Runtime:
    """One worker: arq's ctx holds this object, under 'runtime', and nothing else of ours.

    Attributes:
        background: The loops beside the jobs, in the order in which they end.
    """

    stores: Stores
    rules: WorkerRules
    signals: WorkerSignals
    tunables: Tunables
    activity: Activity
    claimer: Claimer
    contents: Contents
    suppressions: SuppressionList
    recorder: Recorder
    wake_ups: WakeUps
    sweeper: Sweeper
    background: list[list[asyncio.Task[None]]] = field(default_factory=list)


SendClaimed = Callable[[Runtime, Claim, int], Coroutine[Any, Any, JobResult]]


def assemble(
    stores: Stores,
    rules: WorkerRules,
    signals: WorkerSignals,
    tunables: Tunables,
    activity: Activity,
    send: SendClaimed,
) -> Runtime:
    """Put a worker together.

    Args:
        send: Sends one claimed e-mail, see jobs.send_email.send_claimed. The last argument is how
            many turns of the loop it lets pass before.
    """

    def send_claimed(claim: Claim, turns: int) -> Coroutine[Any, Any, JobResult]:
        return send(runtime, claim, turns)

    leases, set_aside = Leases(rules.lease_s), SetAside()
    # At least what keeps a relay's connections busy, however far it is: on each an e-mail that is
    # being recorded, one whose body is on its way, and one whose envelope travels with it.
    concurrency = Concurrency(
        least=lambda: 3 * max(relay.wanted_connections for relay in tunables.relays),
        most=lambda: tunables.max_emails,
    )
    recorder = Recorder(stores.pool, rules, activity, concurrency, set_aside)
    claimer = Claimer(
        stores.pool, rules.worker, tunables, activity, concurrency, leases, set_aside, recorder
    )
    large = BytesInFlight(rules.max_bytes_in_flight)
    runtime = Runtime(
        stores=stores,
        rules=rules,
        signals=signals,
        tunables=tunables,
        activity=activity,
        claimer=claimer,
        contents=Contents(stores.pool, stores.mongo, rules.max_message_bytes, large),
        suppressions=SuppressionList(stores.pool),
        recorder=recorder,
        wake_ups=WakeUps(stores.redis, rules.queue_name, signals),
        sweeper=Sweeper(stores.pool, signals, tunables, activity, claimer, large, send_claimed),
    )
    return runtime
