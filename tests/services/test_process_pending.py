"""The sweep: everything that is due, in batches, whatever happens to one of them."""

import asyncio
from typing import Any

import asyncpg
import pytest

import jobs.process_pending_emails
import jobs.send_email
from db import claims, results
from jobs.process_pending_emails import process_pending_emails
from mail.outcome import Phase
from mail.progress import Progress
from tests.conftest import wait_until

OLD_COLUMNS = (
    'INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts, max_attempts) '
    "VALUES ($1, 'Old', 'Text', 'pending', 0, 3) RETURNING id"
)


async def test_sweep_sends_more_than_one_batch_holds(ctx, queue, inbox, monkeypatch):
    runtime, limits, most = ctx['runtime'], [], 0
    claim_due = claims.claim_due

    async def watched(pool: Any, limit: int, **kwargs: Any) -> Any:
        nonlocal most
        limits.append(limit)
        claimed = await claim_due(pool, limit, **kwargs)
        most = max(most, len(claimed) + len(runtime.claimer.leases.held()))
        return claimed

    monkeypatch.setattr(claims, 'claim_due', watched)
    runtime.tunables.max_emails = 5
    ids = [await queue(f'batch{n}@example.com') for n in range(17)]
    assert await process_pending_emails(ctx) == {'affected': 17, 'outcomes': {'sent': 17}}
    assert len(inbox.accepted()) == len(ids)
    assert max(limits) <= 5
    assert most <= 5
    assert await process_pending_emails(ctx) == {'affected': 0, 'outcomes': {}}


async def test_sweep_sends_high_priority_first_and_the_longest_due_first(ctx, pool, queue, inbox):
    ctx['runtime'].tunables.max_emails = 1
    for name in ('low', 'normal', 'high'):
        await queue(f'{name}@example.com', priority=name)
    older = await queue('older@example.com')
    await pool.execute(
        "UPDATE outbound_emails SET next_retry_at = now() - interval '1 hour' WHERE id = $1", older
    )
    assert (await process_pending_emails(ctx))['affected'] == 4
    order = [entry['rcpt_to'][0].partition('@')[0] for entry in inbox.accepted()]
    assert order == ['high', 'older', 'normal', 'low']


async def test_sweep_sends_rows_that_have_no_time(ctx, pool, row):
    email_id = await pool.fetchval(OLD_COLUMNS, 'no-time@example.com')
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 1}
    assert (await row(email_id))['status'] == 'sent'


async def test_sweep_sends_what_an_operator_set_to_pending(ctx, pool, queue, row):
    email_id = await queue(max_attempts=1)
    await pool.execute(
        "UPDATE outbound_emails SET status = 'failed', attempts = 1, next_retry_at = NULL"
    )
    assert (await process_pending_emails(ctx))['affected'] == 0
    await pool.execute(
        "UPDATE outbound_emails SET status = 'pending', next_retry_at = NOW() WHERE id = $1",
        email_id,
    )
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 1}


async def test_sweep_stops_claiming_when_the_worker_stops(ctx, pool, queue, monkeypatch):
    runtime = ctx['runtime']
    runtime.tunables.max_emails = 2
    claim_due = claims.claim_due

    async def claim_then_stop(*args: Any, **kwargs: Any) -> Any:
        claimed = await claim_due(*args, **kwargs)
        runtime.signals.stopping.set()
        return claimed

    monkeypatch.setattr(claims, 'claim_due', claim_then_stop)
    for _ in range(6):
        await queue()
    assert await process_pending_emails(ctx) == {'affected': 2, 'outcomes': {'sent': 2}}
    assert (await process_pending_emails(ctx))['affected'] == 0
    assert (
        await pool.fetchval(
            "SELECT count(*) FROM outbound_emails WHERE status = 'pending' AND attempts = 0"
        )
        == 4
    )


async def test_sweep_claims_nothing_while_no_relay_is_available(ctx, queue, row):
    runtime = ctx['runtime']
    email_id = await queue()
    before = await row(email_id)
    for relay in runtime.tunables.relays:
        relay.cool_down('down')
    assert (await process_pending_emails(ctx))['affected'] == 0
    assert await row(email_id) == before


async def test_mail_that_fails_does_not_disturb_the_batch(ctx, pool, queue, row, monkeypatch):
    record = results.record
    fine = [await queue(f'fine{n}@example.com') for n in range(5)]
    unsendable = await pool.fetchval(OLD_COLUMNS, 'not an address')
    refused = await queue('refused+5xx-rcpt@example.com')
    dropped = await queue('dropped+drop-rcpt@example.com')
    not_recorded = await queue('not-recorded@example.com')

    async def fail_one(pool: Any, results: Any, **kwargs: Any) -> Any:
        if any(result.claim.email.id == not_recorded for result in results):
            raise asyncpg.CheckViolationError('a row that the table does not take')
        return await record(pool, results, **kwargs)

    monkeypatch.setattr(results, 'record', fail_one)
    result = await process_pending_emails(ctx)
    assert result == {'affected': 9, 'outcomes': {'sent': 5, 'failed': 3, 'error': 1}}
    assert {(await row(email_id))['status'] for email_id in fine} == {'sent'}
    assert {(await row(email_id))['status'] for email_id in (unsendable, refused, dropped)} == {
        'failed'
    }


async def test_cancelled_sweep_releases_what_is_in_flight(ctx, pool, queue, monkeypatch):
    progresses: list[Progress] = []

    def watched(**options: Any) -> Progress:
        progresses.append(Progress(**options))
        return progresses[-1]

    monkeypatch.setattr(jobs.send_email, 'Progress', watched)
    for n in range(3):
        await queue(f'in-flight{n}+stall-rcpt@example.com')
    task = asyncio.create_task(process_pending_emails(ctx))
    await wait_until(
        lambda: len(progresses) == 3 and all(p.phase is Phase.RCPT for p in progresses)
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rows = await pool.fetch(
        'SELECT status, attempts, next_retry_at <= now() AS due FROM outbound_emails'
    )
    assert [tuple(row) for row in rows] == [('pending', 0, True)] * 3
    assert ctx['runtime'].claimer.leases.held() == []


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """No attempt ends before this is set, however slow the machine is."""
    record, let_go = results.record, asyncio.Event()

    async def held_up(*args: Any, **kwargs: Any) -> Any:
        await let_go.wait()
        return await record(*args, **kwargs)

    monkeypatch.setattr(results, 'record', held_up)
    return let_go


async def test_slow_attempt_does_not_hold_up_the_result_and_its_mail_goes_on(
    ctx, queue, row, monkeypatch, let_go
):
    runtime = ctx['runtime']
    monkeypatch.setattr(jobs.process_pending_emails, 'PATIENCE_S', 0.02)
    email_id = await queue('slow@example.com')
    assert await process_pending_emails(ctx) == {'affected': 1, 'outcomes': {'running': 1}}
    assert len(runtime.sweeper.attempts.running) == 1
    fast = await queue('fast@example.com')
    assert (await process_pending_emails(ctx))['affected'] == 1
    let_go.set()
    await wait_until(lambda: not runtime.sweeper.attempts.running)
    assert {(await row(i))['status'] for i in (email_id, fast)} == {'sent'}


async def test_stalled_mail_in_most_slots_does_not_slow_the_others_down(
    ctx, queue, monkeypatch, let_go
):
    """So many slots will not be free.

    Waiting for them takes its time out once, not for each claim.
    """
    runtime, waits = ctx['runtime'], []
    monkeypatch.setattr(jobs.process_pending_emails, 'PATIENCE_S', 0)
    attempts = runtime.sweeper.attempts
    wait_for = attempts.wait_for

    async def watched(low_water: int) -> bool:
        waits.append(await wait_for(low_water))
        return waits[-1]

    monkeypatch.setattr(attempts, 'wait_for', watched)
    runtime.tunables.max_emails = 6
    for n in range(5):
        await queue(f'stalled{n}@example.com')
    await process_pending_emails(ctx)
    stalled = set(runtime.sweeper.attempts.running)

    async def at_once(claim: Any, _: int) -> Any:
        runtime.claimer.leases.drop(claim)
        return {'email_id': claim.email.id, 'status': 'sent', 'attempts': 1}

    monkeypatch.setattr(runtime.sweeper, 'send', at_once)
    for n in range(20):
        await queue(f'others{n}@example.com')
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 20}
    assert waits.count(False) == 1
    let_go.set()
    await asyncio.gather(*stalled)


async def test_failing_claim_leaves_what_is_in_flight_under_watch(ctx, queue, row, monkeypatch):
    runtime = ctx['runtime']
    runtime.tunables.max_emails = 2
    claim_due, claimed = claims.claim_due, []

    async def claim_once(*args: Any, **kwargs: Any) -> Any:
        if claimed:
            raise ConnectionRefusedError('PostgreSQL is away')
        claimed.extend(await claim_due(*args, **kwargs))
        return list(claimed)

    monkeypatch.setattr(claims, 'claim_due', claim_once)
    in_flight, done = (
        await queue('in-flight+stall-rcpt@example.com'),
        await queue('done@example.com'),
    )
    with pytest.raises(ConnectionRefusedError):
        await process_pending_emails(ctx)  # at its second claim, when there is room for one more
    assert [(await row(email_id))['status'] for email_id in (in_flight, done)] == [
        'sending',
        'sent',
    ]
    # It may go on, but the worker must know of it to wait for it, or to release it, when it stops.
    (attempt,) = runtime.sweeper.attempts.running
    attempt.cancel()
    await wait_until(lambda: not runtime.sweeper.attempts.running)
    assert (await row(in_flight))['status'] == 'pending'
