"""Cron slots: PostgreSQL decides who runs one, and remembers every run."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

import cron
from cron import SCHEDULES, Schedule, cron_jobs, keep_schedules, run_slot
from db.cron_runs import claim_slot, finish_slot, give_up_slot, open_duties, renew_slot
from fleet.duties import Duty
from tests.conftest import wait_until
from tests.services.other_worker import another

DAY_S = 86400  # a slot that does not end during a test
END_LEASE = "UPDATE cron_runs SET lease_expires_at = now() - interval '1 second'"


@pytest.fixture
async def today(pool: asyncpg.Pool) -> Any:
    """The beginning of the current slot of a day."""
    return await pool.fetchval("SELECT date_trunc('day', now(), 'UTC')")


@pytest.fixture
def other_ctx(ctx: dict[str, Any]) -> dict[str, Any]:
    """A second worker's."""
    return {'runtime': another(ctx['runtime'], worker='other@localhost:2')}


def counting(calls: list[str], result: dict[str, Any] | None = None) -> Callable[..., Any]:
    async def duty(ctx: dict[str, Any]) -> dict[str, Any]:
        calls.append(ctx['runtime'].rules.worker)
        return result or {'affected': 3}

    return duty


def schedule_of(job: Callable[..., Any], missed: Any = 'once') -> Schedule:
    return Schedule(Duty(job.__name__, DAY_S, missed), job)


async def test_one_of_many_claimants_wins_a_slot(pool, today):
    slots = await asyncio.gather(*(claim_slot(pool, 'duty', DAY_S, f'w{n}') for n in range(12)))
    assert [slot for slot in slots if slot] == [today]
    assert await claim_slot(pool, 'another', DAY_S, 'w') == today
    assert await pool.fetchval('SELECT count(*) FROM cron_runs') == 2


async def test_finished_slot_is_not_run_again(pool):
    for outcome in ('done', 'error'):
        slot = await claim_slot(pool, outcome, DAY_S, 'w1')
        await finish_slot(pool, outcome, slot, 'w1', outcome, {'affected': 1})
        await pool.execute(END_LEASE)
        assert await claim_slot(pool, outcome, DAY_S, 'w2') is None


async def test_run_cut_by_a_kill_is_run_again_when_its_lease_is_over(pool, today):
    assert await claim_slot(pool, 'duty', DAY_S, 'killed') == today
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') is None
    await pool.execute(END_LEASE)
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') == today
    await finish_slot(
        pool, 'duty', today, 'killed', 'done', {'affected': 1}
    )  # it was only slow, and lost the slot
    run = await pool.fetchrow('SELECT * FROM cron_runs')
    assert (run['worker'], run['finished_at']) == ('w2', None)


async def test_renewed_slot_is_kept(pool, today):
    await claim_slot(pool, 'duty', DAY_S, 'w1')
    await pool.execute(END_LEASE)
    await renew_slot(pool, 'duty', today, 'another')
    assert await pool.fetchval('SELECT lease_expires_at < now() FROM cron_runs')
    await renew_slot(pool, 'duty', today, 'w1')
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') is None


async def test_slot_given_up_is_free_at_once_for_others_only_its_holder_can(pool, today):
    await claim_slot(pool, 'duty', DAY_S, 'w1')
    await give_up_slot(pool, 'duty', today, 'another')
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') is None
    await give_up_slot(pool, 'duty', today, 'w1')
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') == today


async def test_unfinished_run_with_a_live_lease_holds_off_the_next_slot(pool, today):
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at) VALUES '
        "('duty', $1::timestamptz - interval '1 day', 'slow', now() + interval '1 minute')",
        today,
    )
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') is None
    assert await claim_slot(pool, 'another', DAY_S, 'w2') == today
    await pool.execute(
        "UPDATE cron_runs SET lease_expires_at = now() - interval '1 s' WHERE duty = 'duty'"
    )
    assert await claim_slot(pool, 'duty', DAY_S, 'w2') == today


async def test_slot_that_began_too_long_ago_is_skipped(pool, today):
    assert await claim_slot(pool, 'duty', DAY_S, 'w', max_age_s=0.0) is None
    assert await pool.fetchval('SELECT count(*) FROM cron_runs') == 0
    assert await claim_slot(pool, 'duty', DAY_S, 'w', max_age_s=DAY_S + 1) == today


async def test_run_slot_records_what_the_duty_did(ctx, other_ctx, pool, today):
    calls: list[str] = []
    schedule = schedule_of(counting(calls, {'affected': 3, 'outcomes': {'sent': 3}}), 'once')
    results = await asyncio.gather(
        *(run_slot(c, schedule) for c in (ctx, other_ctx, ctx, other_ctx))
    )
    assert [result for result in results if result] == [{'affected': 3, 'outcomes': {'sent': 3}}]
    assert len(calls) == 1
    run = await pool.fetchrow('SELECT * FROM cron_runs')
    assert (run['duty'], run['slot'], run['worker']) == ('duty', today, calls[0])
    assert (run['outcome'], run['affected'], run['detail']) == (
        'done',
        3,
        '{"affected": 3, "outcomes": {"sent": 3}}',
    )
    assert run['started_at'] <= run['finished_at']
    assert await run_slot(ctx, schedule) is None


async def test_run_slot_records_the_error_and_lets_it_through(ctx, pool):
    async def failing(_: dict[str, Any]) -> dict[str, Any]:
        raise LookupError('no such thing')

    with pytest.raises(LookupError):
        await run_slot(ctx, schedule_of(failing, 'once'))
    run = await pool.fetchrow('SELECT * FROM cron_runs')
    assert (run['outcome'], run['affected']) == ('error', None)
    assert 'LookupError: no such thing' in run['detail']


async def test_run_slot_that_is_cancelled_gives_its_slot_to_another(ctx, other_ctx, pool):
    started = asyncio.Event()

    async def endless(_: dict[str, Any]) -> dict[str, Any]:
        started.set()
        await asyncio.Event().wait()
        return {}

    task = asyncio.create_task(run_slot(ctx, schedule_of(endless, 'once')))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pool.fetchval('SELECT count(*) FROM cron_runs') == 0
    calls: list[str] = []
    duty = counting(calls)
    duty.__name__ = 'endless'
    assert await run_slot(other_ctx, schedule_of(duty, 'once')) == {'affected': 3}


async def test_run_slot_whose_worker_lost_postgresql_is_run_again_after_its_lease(
    ctx, other_ctx, pool, monkeypatch
):
    async def refuse(*_: Any) -> None:
        raise ConnectionRefusedError('PostgreSQL is away')

    calls: list[str] = []
    schedule = schedule_of(counting(calls), 'once')
    with monkeypatch.context() as patched:
        patched.setattr(cron, 'finish_slot', refuse)
        with pytest.raises(ConnectionRefusedError):
            await run_slot(ctx, schedule)
    assert await run_slot(other_ctx, schedule) is None
    await pool.execute(END_LEASE)
    assert await run_slot(other_ctx, schedule) == {'affected': 3}


async def test_keeper_makes_up_missed_slots_once_and_skips_what_is_to_be_skipped(
    ctx, other_ctx, pool, monkeypatch
):
    once, skipped = [], []
    duties = counting(once), counting(skipped)
    duties[0].__name__, duties[1].__name__ = 'made_up', 'skipped'
    table = (schedule_of(duties[0], 'once'), schedule_of(duties[1], 'skip'))
    monkeypatch.setattr(cron, 'SCHEDULES', table)
    monkeypatch.setattr(cron, 'KEEPER_S', 0.02)
    monkeypatch.setattr(cron, 'SKIP_AFTER_S', 0.0)
    looks: list[set[str]] = []

    async def watched(*args: Any) -> set[str]:
        looks.append(await open_duties(*args))
        return looks[-1]

    monkeypatch.setattr(cron, 'open_duties', watched)
    keepers = [asyncio.create_task(keep_schedules(c)) for c in (ctx, other_ctx)]
    await wait_until(lambda: looks.count({'skipped'}) >= 6)  # what was run is looked at no more
    ctx['runtime'].signals.stopping.set()
    await asyncio.gather(*keepers)
    assert (len(once), skipped) == (1, [])
    assert await pool.fetchval(
        'SELECT array_agg(duty) FROM cron_runs WHERE finished_at IS NOT NULL'
    ) == ['made_up']


async def test_keeper_outlives_a_failing_duty_and_postgresql(ctx, monkeypatch):
    errors = [
        ConnectionRefusedError('PostgreSQL is away'),
        ZeroDivisionError('a fault of the duty'),
    ]
    calls: list[str] = []

    async def failing(*_: Any) -> dict[str, Any] | None:
        if errors:
            raise errors.pop(0)
        calls.append('ran')
        return None

    monkeypatch.setattr(cron, 'SCHEDULES', SCHEDULES[:1])
    monkeypatch.setattr(cron, 'KEEPER_S', 0.01)
    monkeypatch.setattr(cron, 'run_slot', failing)
    keeper = asyncio.create_task(keep_schedules(ctx))
    await wait_until(lambda: calls)
    ctx['runtime'].signals.stopping.set()
    await keeper


def test_table_is_the_one_operators_know():
    assert {(s.duty.name, s.duty.every_s, s.duty.missed) for s in SCHEDULES} == {
        ('process_pending_emails', 300, 'once'),
        ('check_service_health', 60, 'skip'),
        ('count_history', 60, 'once'),
        ('fetch_reports', 60, 'once'),
        ('apply_feedback', 60, 'once'),
        ('cleanup_expired_emails', 3600, 'once'),
        ('cleanup_old_sessions', 86400, 'once'),
    }
    assert all(DAY_S % s.duty.every_s == 0 for s in SCHEDULES)


def test_arq_fires_each_duty_at_the_beginning_of_its_slots():
    jobs = {job.name: job for job in cron_jobs(100, SCHEDULES)}
    assert {name: (job.hour, job.minute, job.second) for name, job in jobs.items()} == {
        'cron:process_pending_emails': (None, set(range(0, 60, 5)), 0),
        'cron:check_service_health': (None, set(range(60)), 0),
        'cron:count_history': (None, set(range(60)), 0),
        'cron:fetch_reports': (None, set(range(60)), 0),
        'cron:apply_feedback': (None, set(range(60)), 0),
        'cron:cleanup_expired_emails': (None, {0}, 0),
        'cron:cleanup_old_sessions': ({0}, 0, 0),
    }
    assert all(
        job.unique and not job.run_at_startup and job.timeout_s == 100 for job in jobs.values()
    )
