"""The background sweeps of a worker: they go on whatever one e-mail or one sweep does."""

import asyncio
from typing import Any

import asyncpg
import pytest

import delivery.suspects
import delivery.sweeper
from db import claims, results
from jobs.send_email import send_email
from tests.conftest import wait_until

MAKE_SUSPECT = 'UPDATE outbound_emails SET lost_attempts = 1 WHERE id = ANY($1)'


@pytest.fixture
async def keep() -> Any:
    """Start a background sweep; it is stopped at the end."""
    tasks = []

    def start(keeper: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(keeper()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(('lost', 'together'), [(1, 10), (2, 1)])
async def test_suspects_are_sent_apart_in_the_background(
    ctx, pool, queue, inbox, keep, monkeypatch, lost, together
):
    suspects = ctx['runtime'].suspects
    most, send = 0, suspects.send

    async def watched(*args: Any) -> Any:
        nonlocal most
        most = max(
            most,
            await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'sending'"),
        )
        return await send(*args)

    monkeypatch.setattr(suspects, 'send', watched)
    ids = [await queue(f'suspect{n}@example.com') for n in range(12)]
    await pool.execute(MAKE_SUSPECT, ids)
    await pool.execute('UPDATE outbound_emails SET lost_attempts = $1', lost)
    assert (await send_email(ctx, ids[0]))['status'] == 'not-claimable'
    suspects.wanted.set()
    keep(suspects.keep_sending)
    await wait_until(lambda: len(inbox.accepted()) == 12)
    assert most == together


async def test_suspect_whose_relay_is_slow_holds_up_no_other(
    ctx, pool, queue, inbox, keep, monkeypatch
):
    suspects, answered = ctx['runtime'].suspects, asyncio.Event()
    send = suspects.send

    async def slow_for_one(claim: Any, cycles: int) -> Any:
        if claim.email.id == ids[0]:
            await answered.wait()
        return await send(claim, cycles)

    monkeypatch.setattr(suspects, 'send', slow_for_one)
    monkeypatch.setattr(delivery.suspects, 'SUSPECT_PATIENCE_S', 600)
    ids = [await queue(f'suspect{n}@example.com') for n in range(30)]
    await pool.execute(MAKE_SUSPECT, ids)
    suspects.wanted.set()
    keep(suspects.keep_sending)
    await wait_until(lambda: len(inbox.accepted()) == 29)
    answered.set()
    await wait_until(lambda: len(inbox.accepted()) == 30)


async def test_suspect_that_cannot_be_recorded_does_not_end_the_background_task(
    ctx, pool, queue, keep, monkeypatch
):
    record, bad, fine = results.record, await queue(), await queue()
    await pool.execute(MAKE_SUSPECT, [bad, fine])
    await pool.execute(
        "UPDATE outbound_emails SET next_retry_at = now() - interval '1 minute' WHERE id = $1", bad
    )

    async def fail_one(pool: Any, results: Any, **kwargs: Any) -> Any:
        if results[0].claim.email.id == bad:
            raise asyncpg.CheckViolationError('a row that the table does not take')
        return await record(pool, results, **kwargs)

    monkeypatch.setattr(results, 'record', fail_one)
    monkeypatch.setattr(delivery.suspects, 'SUSPECTS_EVERY_S', 0.02)
    task = keep(ctx['runtime'].suspects.keep_sending)
    is_sent = "SELECT count(*) FROM outbound_emails WHERE id = $1 AND status = 'sent'"
    await wait_until(lambda: task.done() or pool.fetchval(is_sent, fine))
    assert not task.done(), task.exception()


@pytest.mark.parametrize(
    'error', [ConnectionRefusedError('away'), asyncpg.DeadlockDetectedError('deadlock detected')]
)
async def test_sweep_that_fails_is_followed_by_the_next(
    ctx, queue, inbox, keep, monkeypatch, error
):
    claim_due, errors = claims.claim_due, [error]

    async def fail_once(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop()
        return await claim_due(*args, **kwargs)

    monkeypatch.setattr(claims, 'claim_due', fail_once)
    monkeypatch.setattr(delivery.sweeper, 'UNREACHABLE_EVERY_S', 0.02)
    await queue('swept@example.com')
    task = keep(ctx['runtime'].sweeper.keep_sweeping)
    ctx['runtime'].signals.redis_unreachable.set()
    await wait_until(lambda: task.done() or inbox.accepted('swept@example.com'))
    assert not task.done(), task.exception()


async def test_background_sweeps_end_when_the_worker_stops(ctx, keep, monkeypatch):
    runtime = ctx['runtime']
    monkeypatch.setattr(delivery.sweeper, 'UNREACHABLE_EVERY_S', 0.02)
    monkeypatch.setattr(delivery.suspects, 'SUSPECTS_EVERY_S', 0.02)
    tasks = [
        keep(keeper) for keeper in (runtime.sweeper.keep_sweeping, runtime.suspects.keep_sending)
    ]
    ctx['runtime'].signals.stopping.set()
    await wait_until(lambda: all(task.done() for task in tasks))
    assert [task.exception() for task in tasks] == [None, None]
