"""The parts of one worker, put together once when it starts: what every job works with."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from db.claimed import Claim
from db.content import close_mongo
from db.errors import DATABASE_DOWN
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
from mail_outbox.wake import notify

SETTLE_S = 5.0  # at the end: what PostgreSQL does not take by then, the rescue finds


@dataclass
class Runtime:
    """One worker: arq's ctx holds this object, under 'runtime'.

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

    async def stop(self) -> None:
        """Let what is being sent finish until the drain time is over, then release the rest.

        The order matters: no new wake-ups, no new claims, then the end of all attempts; and only
        when every claim is recorded or given back do the loops end that renew them.
        """
        hearing, claiming, holding = self.background
        attempts = self.sweeper.attempts.running
        self.sweeper.stop_waiting()
        await _cancel(hearing)
        drain_s = max(0.0, self.signals.stop_by - time.monotonic())
        await asyncio.wait({*claiming, *attempts}, timeout=drain_s)
        await _cancel(claiming)
        await _cancel(list(attempts))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self.claimer.settle()
        with contextlib.suppress(*DATABASE_DOWN):  # they will find it in their next sweep
            await notify(self.stores.pool)  # what we released is due for the others
        await _cancel(holding)

    async def close(self) -> None:
        """Close what the worker is connected to."""
        self.tunables.relays.close_idle(older_than_s=0)
        await self.contents.templates.close()
        await close_mongo(self.stores.mongo)
        await self.stores.pool.close()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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
