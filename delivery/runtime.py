"""The parts of one worker, put together once when it starts: what every job works with."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from db.errors import DATABASE_DOWN
from db.mongo import close_mongo
from delivery.activity import Activity
from delivery.alerts.assemble import Alerts
from delivery.claimer import Claimer
from delivery.content import Contents
from delivery.record import Recorder
from delivery.rules import Stores, WorkerRules
from delivery.steps import Steps
from delivery.suppression import SuppressionList
from delivery.suspects import Suspects
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
        steps: What is done for one e-mail; delivery.assemble sets it.
        alerts: Who tells of services that are down; None: nobody is to be told.
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
    suspects: Suspects
    alerts: Alerts | None = None
    background: list[list[asyncio.Task[None]]] = field(default_factory=list)
    steps: Steps = field(init=False)

    async def stop(self) -> None:
        """Let what is being sent finish until the drain time is over, then release the rest.

        The order matters: no new wake-ups, no new claims, then the end of all attempts; and only
        when every claim is recorded or given back do the loops end that renew them.
        """
        hearing, claiming, holding = self.background
        attempts = self.sweeper.attempts.running
        self.sweeper.stop_waiting()
        self.suspects.wanted.set()
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
        if self.stores.mongo is not None:
            await close_mongo(self.stores.mongo)
        await self.stores.pool.close()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
