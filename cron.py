"""The table of schedules: which duty, how often, and what becomes of a missed run. All times are UTC.

arq's cron fires each slot in time; the keeper below also looks every few seconds, so that the
duties go on while Redis is away and a missed slot is made up for. Whoever comes first claims the
slot in PostgreSQL; the other finds it taken.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog
from arq.cron import CronJob, cron

from db.cron_runs import (
    SLOT_LEASE_S,
    claim_slot,
    finish_slot,
    give_up_slot,
    open_duties,
    renew_slot,
)
from db.pools import DATABASE_DOWN
from db.troubles import tell, words_of
from delivery.runtime import Runtime
from jobs.check_service_health import check_service_health
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.cleanup_old_sessions import cleanup_old_sessions
from jobs.process_pending_emails import process_pending_emails

log = structlog.get_logger()

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
KEEPER_S = 5.0
# A duty whose missed runs are skipped may still be this late, which is how often the keeper looks,
# with room to spare.
SKIP_AFTER_S = 15.0

Duty = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One row of the table."""

    duty: Duty
    every_s: int  # divides a day
    missed: Literal[
        'once', 'skip'
    ]  # no worker was alive: run the latest slot on return, or wait for the next
    maintenance: bool = True  # what QUEUE_ROUTING sends to the queue for it

    @property
    def name(self) -> str:
        """The duty's name, in cron_runs and for operators."""
        return self.duty.__name__


SCHEDULES = (
    Schedule(process_pending_emails, 5 * MINUTE_S, missed='once', maintenance=False),
    Schedule(check_service_health, MINUTE_S, missed='skip'),
    Schedule(cleanup_expired_emails, HOUR_S, missed='once'),
    Schedule(cleanup_old_sessions, DAY_S, missed='once'),
)


MAIL_DUTIES = tuple(schedule for schedule in SCHEDULES if not schedule.maintenance)
MAINTENANCE_DUTIES = tuple(schedule for schedule in SCHEDULES if schedule.maintenance)


def cron_jobs(timeout_s: float, schedules: Sequence[Schedule] = SCHEDULES) -> list[CronJob]:
    """Return arq's form of the table, or of a part of it. Whoever leaves a duty out still makes up for missed slots."""
    return [_cron_job(schedule, timeout_s) for schedule in schedules]


def _cron_job(schedule: Schedule, timeout_s: float) -> CronJob:
    async def fire(ctx: dict[str, Any]) -> dict[str, Any] | None:
        return await run_slot(ctx, schedule)

    def marks(unit_s: int, count: int) -> set[int]:
        return {mark for mark in range(count) if mark * unit_s % schedule.every_s == 0}

    return cron(
        fire,
        name=f'cron:{schedule.name}',
        hour=marks(HOUR_S, 24) if schedule.every_s > HOUR_S else None,
        minute=marks(MINUTE_S, 60) if schedule.every_s <= HOUR_S else 0,
        second=0,
        unique=True,
        timeout=timeout_s,
    )


async def run_slot(
    ctx: dict[str, Any], schedule: Schedule, max_age_s: float | None = None
) -> dict[str, Any] | None:
    """Run a duty for the current slot, if nobody has or does.

    Returns:
        What the duty returned, or None when there was nothing to run.
    """
    runtime: Runtime = ctx['runtime']
    if runtime.switches.claims_paused and schedule.duty is process_pending_emails:
        return None  # left to a worker that may claim
    slot = await claim_slot(
        runtime.pool, schedule.name, schedule.every_s, runtime.worker, max_age_s=max_age_s
    )
    if slot is None:
        return None
    if schedule.name in runtime.switches.duties:
        log.info('duty.skipped', duty=schedule.name, slot=slot.isoformat(), reason='paused')
        await finish_slot(runtime.pool, schedule.name, slot, runtime.worker, 'skipped', {})
        return None
    keeper = asyncio.create_task(_keep_slot(runtime, schedule.name, slot))
    try:
        result = await schedule.duty(ctx)
    except asyncio.CancelledError:
        with contextlib.suppress(*DATABASE_DOWN):  # its lease runs out by itself
            await give_up_slot(runtime.pool, schedule.name, slot, runtime.worker)
        raise
    except Exception as error:
        log.exception('duty.failed', duty=schedule.name, slot=slot.isoformat())
        failure = {'error': f'{type(error).__name__}: {error}'}
        await finish_slot(runtime.pool, schedule.name, slot, runtime.worker, 'error', failure)
        raise
    finally:
        keeper.cancel()
    await finish_slot(runtime.pool, schedule.name, slot, runtime.worker, 'done', result)
    return result


async def _keep_slot(runtime: Runtime, duty: str, slot: datetime) -> None:
    while True:
        await asyncio.sleep(SLOT_LEASE_S / 4)
        try:
            await renew_slot(runtime.pool, duty, slot, runtime.worker)
        except DATABASE_DOWN as error:
            log.warning('duty.slot_not_renewed', duty=duty, error=words_of(error))


async def keep_schedules(ctx: dict[str, Any]) -> None:
    """Run every slot that arq did not: Redis was away, no worker was alive, or the run was cut off."""
    runtime: Runtime = ctx['runtime']
    running: dict[str, asyncio.Task[Any]] = {}
    try:
        while not await _stops_within(runtime, KEEPER_S):  # arq comes first
            for schedule in await _open_schedules(runtime):
                if schedule.name not in running or running[schedule.name].done():
                    running[schedule.name] = asyncio.create_task(_make_up(ctx, schedule))
        if running:
            await asyncio.wait(running.values())
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _open_schedules(runtime: Runtime) -> list[Schedule]:
    try:
        names = await open_duties(
            runtime.pool, {schedule.name: schedule.every_s for schedule in SCHEDULES}
        )
    except DATABASE_DOWN as error:
        tell(log, 'missed duties', error)
        return []
    return [schedule for schedule in SCHEDULES if schedule.name in names]


async def _stops_within(runtime: Runtime, wait_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await runtime.signals.stopping.wait()
    return runtime.signals.stopping.is_set()


async def _make_up(ctx: dict[str, Any], schedule: Schedule) -> None:
    try:
        await run_slot(ctx, schedule, SKIP_AFTER_S if schedule.missed == 'skip' else None)
    except DATABASE_DOWN as error:
        tell(log, 'duty', error, duty=schedule.name)
    except Exception:  # noqa: BLE001 - run_slot has logged and recorded it; the next slot gets its chance
        return
