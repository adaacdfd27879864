"""The schedule: each duty with its job, in arq's form, and what makes up for missed runs.

arq's cron fires each slot in time; the keeper below also looks every few seconds, so that the
duties go on while Redis is unreachable and a missed slot is made up for. Whoever comes first claims
the slot in PostgreSQL; the other finds it taken.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Any

import structlog
from arq.cron import CronJob, cron
from arq.typing import WorkerCoroutine

from db.cron_runs import (
    SLOT_LEASE_S,
    claim_slot,
    finish_slot,
    give_up_slot,
    open_duties,
    renew_slot,
)
from db.errors import DATABASE_DOWN, log_error, words_of
from delivery.runtime import Runtime
from fleet.duties import DUTIES, HOUR_S, MINUTE_S, Duty

log = structlog.get_logger()

KEEPER_S = 5.0
# A duty whose missed runs are skipped may still be this late, which is how often the keeper looks,
# with room to spare.
SKIP_AFTER_S = 15.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A duty and what it runs."""

    duty: Duty
    job: WorkerCoroutine


def _job_of(duty: Duty) -> WorkerCoroutine:
    job: WorkerCoroutine = getattr(import_module(f'jobs.{duty.name}'), duty.name)
    return job


SCHEDULES = tuple(Schedule(duty, _job_of(duty)) for duty in DUTIES)


def mail_schedules() -> list[Schedule]:
    """Return what QUEUE_ROUTING leaves to the workers for e-mails."""
    return [schedule for schedule in SCHEDULES if schedule.duty.claims_mail]


def maintenance_schedules() -> list[Schedule]:
    """Return what QUEUE_ROUTING sends to the queue for maintenance."""
    return [schedule for schedule in SCHEDULES if not schedule.duty.claims_mail]


def cron_jobs(timeout_s: float, schedules: Sequence[Schedule]) -> list[CronJob]:
    """Return arq's form of the schedule, or of a part of it.

    A worker that leaves a duty out still makes up for its missed slots.
    """
    return [_cron_job(schedule, timeout_s) for schedule in schedules]


def _cron_job(schedule: Schedule, timeout_s: float) -> CronJob:
    async def fire(ctx: dict[str, Any]) -> dict[str, Any] | None:
        return await run_slot(ctx, schedule)

    def marks(unit_s: int, count: int) -> set[int]:
        return {mark for mark in range(count) if mark * unit_s % schedule.duty.every_s == 0}

    return cron(
        fire,
        name=f'cron:{schedule.duty.name}',
        hour=marks(HOUR_S, 24) if schedule.duty.every_s > HOUR_S else None,
        minute=marks(MINUTE_S, 60) if schedule.duty.every_s <= HOUR_S else 0,
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
    duty, pool, worker = schedule.duty, runtime.stores.pool, runtime.rules.worker
    switches = runtime.tunables.switches
    if switches.claims_paused and duty.claims_mail:
        return None  # left to a worker that may claim
    slot = await claim_slot(pool, duty.name, duty.every_s, worker, max_age_s=max_age_s)
    if slot is None:
        return None
    if duty.name in switches.duties:
        log.info('duty.skipped', duty=duty.name, slot=slot.isoformat(), reason='paused')
        await finish_slot(pool, duty.name, slot, worker, 'skipped', {})
        return None
    keeper = asyncio.create_task(_keep_slot(runtime, duty.name, slot))
    try:
        result: dict[str, Any] = await schedule.job(ctx)
    except asyncio.CancelledError:
        with contextlib.suppress(*DATABASE_DOWN):  # its lease runs out by itself
            await give_up_slot(pool, duty.name, slot, worker)
        raise
    except Exception as error:
        log.exception('duty.failed', duty=duty.name, slot=slot.isoformat())
        failure = {'error': f'{type(error).__name__}: {error}'}
        await finish_slot(pool, duty.name, slot, worker, 'error', failure)
        raise
    finally:
        keeper.cancel()
    await finish_slot(pool, duty.name, slot, worker, 'done', result)
    return result


async def _keep_slot(runtime: Runtime, duty: str, slot: datetime) -> None:
    while True:
        await asyncio.sleep(SLOT_LEASE_S / 4)
        try:
            await renew_slot(runtime.stores.pool, duty, slot, runtime.rules.worker)
        except DATABASE_DOWN as error:
            log.warning('duty.slot_not_renewed', duty=duty, error=words_of(error))


async def keep_schedules(ctx: dict[str, Any]) -> None:
    """Run every slot that arq did not run.

    Redis was unreachable, no worker was alive, or the run was cut off.
    """
    runtime: Runtime = ctx['runtime']
    running: dict[str, asyncio.Task[Any]] = {}
    try:
        while not await _stops_within(runtime, KEEPER_S):  # arq comes first
            for schedule in await _open_schedules(runtime):
                if schedule.duty.name not in running or running[schedule.duty.name].done():
                    running[schedule.duty.name] = asyncio.create_task(_make_up(ctx, schedule))
        if running:
            await asyncio.wait(running.values())
    finally:
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


async def _open_schedules(runtime: Runtime) -> list[Schedule]:
    try:
        names = await open_duties(
            runtime.stores.pool,
            {schedule.duty.name: schedule.duty.every_s for schedule in SCHEDULES},
        )
    except DATABASE_DOWN as error:
        log_error(log, 'missed duties', error)
        if runtime.alerts is not None:
            await runtime.alerts.postgres.saw(words_of(error))
        return []
    if runtime.alerts is not None:
        await runtime.alerts.postgres.saw(None)
    return [schedule for schedule in SCHEDULES if schedule.duty.name in names]


async def _stops_within(runtime: Runtime, wait_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await runtime.signals.stopping.wait()
    return runtime.signals.stopping.is_set()


async def _make_up(ctx: dict[str, Any], schedule: Schedule) -> None:
    try:
        await run_slot(ctx, schedule, SKIP_AFTER_S if schedule.duty.missed == 'skip' else None)
    except DATABASE_DOWN as error:
        log_error(log, 'duty', error, duty=schedule.duty.name)
    except Exception:  # noqa: BLE001 - run_slot has logged and recorded it
        return  # the next slot gets its chance
