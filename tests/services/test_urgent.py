"""Urgent mail while other mail keeps the worker busy.

By its job, by NOTIFY, and behind thousands of jobs in Redis.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from db.claims import claim_due, claim_urgent
from db.due import priorities
from delivery.runtime import Runtime
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_email
from mail.priority import HIGH, LOW, NORMAL
from tests.conftest import wait_until


@contextmanager
def full(runtime: Runtime) -> Iterator[None]:
    """Have all slots taken."""
    taken = runtime.claimer.concurrency.size
    runtime.claimer.concurrency._taken += taken
    yield
    for _ in range(taken):
        runtime.claimer.concurrency._leave()


def names(inbox: Any) -> list[str]:
    return [entry['rcpt_to'][0].partition('@')[0] for entry in inbox.accepted()]


async def test_priorities_are_those_of_the_rows_and_ordinary_where_there_is_none(pool, queue):
    ids = [await queue(priority=name) for name in ('low', 'high', 'normal')]
    assert await priorities(pool, [*ids, 10**9]) == [LOW, HIGH, NORMAL, NORMAL]


async def claimed(pool: Any, limit: int, *arguments: Any, **options: Any) -> list[int]:
    claimant = {'worker': 'w', 'lease_s': 30, 'message_id_domain': 'example.com'}
    claims = await claim_urgent(pool, limit, *arguments, **claimant, **options)
    return [claim.email.id for claim in claims]


async def test_urgent_mail_that_is_due_is_claimed_the_longest_due_first(pool, queue):
    later, second, first = [await queue(priority='high') for _ in range(3)]
    await queue(priority='normal')
    set_due = (
        "UPDATE outbound_emails SET next_retry_at = now() + $2 * interval '1 minute' WHERE id = $1"
    )
    for email_id, in_min in ((later, 5), (first, -2), (second, -1)):
        await pool.execute(set_due, email_id, in_min)
    assert await claimed(pool, 1) == [first]
    assert await claimed(pool, 10) == [second]


async def test_urgent_mail_that_no_claim_takes_is_left(pool, queue):
    paused, excepted, expired, fine = [
        await queue(priority='high', email_type=t) for t in ('news', 'a', 'b', 'c')
    ]
    await pool.execute(
        "UPDATE outbound_emails SET expires_at = now() - interval '1 s' WHERE id = $1", expired
    )
    assert await claimed(pool, 9, [excepted], paused_types=['news']) == [fine]
    assert await claimed(pool, 9) == [paused, excepted]


async def test_claims_carry_their_priority(pool, queue):
    for name in ('low', 'normal', 'high'):
        await queue(priority=name)
    claims = await claim_due(pool, 10, worker='w', lease_s=30, message_id_domain='example.com')
    assert sorted(claim.priority for claim in claims) == [HIGH, NORMAL, LOW]


async def test_urgent_job_is_sent_while_others_wait_for_a_slot(ctx, runtime, queue, inbox):
    low = [await queue(f'low{n}@example.com', priority='low') for n in range(3)]
    urgent = await queue('urgent@example.com', priority='high')
    with full(runtime):
        waiting = [asyncio.create_task(send_email(ctx, email_id)) for email_id in low]
        await wait_until(lambda: len(runtime.claimer.concurrency._waiting) == 3)
        assert (await send_email(ctx, urgent))['status'] == 'sent'
        assert names(inbox) == ['urgent']
        assert not any(task.done() for task in waiting)
    assert {(await task)['status'] for task in waiting} == {'sent'}


async def test_urgent_job_does_not_wait_for_the_turn_of_a_rate(ctx, runtime, queue, inbox):
    low, urgent = (
        await queue('low@example.com', priority='low'),
        await queue('urgent@example.com', priority='high'),
    )
    runtime.tunables.rate.set(0.001)
    waiting = asyncio.create_task(send_email(ctx, low))
    await wait_until(lambda: runtime.claimer.concurrency._taken == 1)
    allowed, highs = runtime.tunables.rate.allows, []

    def allows(wanted: int, *, high: bool = False) -> int:
        highs.append(high)
        return wanted if high else allowed(wanted)

    runtime.tunables.rate.allows = allows
    assert (await send_email(ctx, urgent))['status'] == 'sent'
    assert True in highs
    assert not waiting.done()
    runtime.tunables.rate.set(0)
    assert (await waiting)['status'] == 'sent'


async def test_urgent_mail_is_sent_while_a_sweep_waits_for_room(ctx, runtime, pool, queue, inbox):
    low = await queue('low@example.com', priority='low')
    urgent = await queue('urgent@example.com', priority='high')
    busy = [
        asyncio.create_task(asyncio.sleep(3600)) for _ in range(runtime.claimer.concurrency.size)
    ]
    runtime.sweeper.attempts.running.update(busy)
    sweep = asyncio.create_task(process_pending_emails(ctx))
    sending = asyncio.create_task(runtime.sweeper.keep_sending_urgent())
    runtime.signals.urgent_wanted.set()
    await wait_until(lambda: names(inbox) == ['urgent'])
    await wait_until(lambda: urgent not in runtime.activity.asked_for)
    assert await pool.fetchval('SELECT status FROM outbound_emails WHERE id = $1', low) == 'pending'
    for task in (*busy, sending, sweep):
        task.cancel()
    await asyncio.gather(*busy, sending, sweep, return_exceptions=True)


async def test_as_many_urgent_e_mails_at_once_as_slots_are_kept_and_the_rest_follows(
    ctx, runtime, queue, inbox
):
    for number in range(9):
        await queue(f'urgent{number}@example.com', priority='high')
    kept, mine = runtime.claimer.concurrency.kept, runtime.sweeper.urgent
    assert kept < 9
    await runtime.sweeper.send_urgent()
    assert len(mine) == kept
    await asyncio.gather(*mine)
    assert runtime.signals.urgent_wanted.is_set()
    sending = asyncio.create_task(runtime.sweeper.keep_sending_urgent())
    await wait_until(lambda: len(inbox.accepted()) == 9)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_urgent_mail_of_a_job_of_this_worker_is_left_to_the_job(runtime, queue):
    urgent, mine = await queue(priority='high'), runtime.sweeper.urgent
    runtime.activity.asked_for.add(urgent)
    await runtime.sweeper.send_urgent()
    assert not mine


@pytest.mark.parametrize('why', ['paused', 'no relay', 'type paused'])
async def test_urgent_mail_waits_where_other_mail_would(runtime, queue, row, why):
    urgent, mine = await queue(priority='high', email_type='reset'), runtime.sweeper.urgent
    if why == 'paused':
        runtime.tunables.switches.claims_paused = True
    elif why == 'type paused':
        runtime.tunables.switches.email_types = ['reset']
    else:
        for relay in runtime.tunables.relays:
            relay.cool_down('down')
    await runtime.sweeper.send_urgent()
    await asyncio.gather(*mine)
    assert (await row(urgent))['status'] == 'pending'
    assert not runtime.activity.asked_for


@pytest.mark.parametrize(('priority', 'first'), [('high', True), ('normal', False), ('low', False)])
async def test_urgent_mail_is_the_first_to_get_its_template(
    ctx, runtime, pool, queue, inbox, priority, first
):
    template_id = await pool.fetchval(
        "INSERT INTO email_templates (name, body_text) VALUES ('reset', 'x') RETURNING id"
    )
    email_id = await queue(priority=priority, template_id=template_id, template_data={})
    asked, fetch_template, fill = (
        [],
        runtime.contents.fetch_template,
        runtime.contents.templates.fill,
    )

    async def fetching(template_id: str, **options: bool) -> Any:
        asked.append(options)
        return await fetch_template(template_id, **options)

    async def filling(*arguments: Any, **options: bool) -> Any:
        asked.append(options)
        return await fill(*arguments, **options)

    runtime.contents.fetch_template, runtime.contents.templates.fill = fetching, filling
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert [options['first'] for options in asked] == [first] * 2


async def test_job_that_comes_after_its_urgent_mail_was_sent_says_so(ctx, runtime, queue, inbox):
    urgent, mine = await queue('urgent@example.com', priority='high'), runtime.sweeper.urgent
    await runtime.sweeper.send_urgent()
    await asyncio.gather(*mine)
    assert (await send_email(ctx, urgent))['status'] == 'sent'
    assert names(inbox) == ['urgent']


async def test_urgent_mail_beyond_a_rate_waits_for_its_turn(runtime, queue, inbox):
    for number in range(3):
        await queue(f'urgent{number}@example.com', priority='high')
    runtime.tunables.rate.set(2)
    await runtime.sweeper.send_urgent()
    assert len(runtime.sweeper.urgent) < 3
    sending = asyncio.create_task(runtime.sweeper.keep_sending_urgent())
    await runtime.sweeper.send_urgent()  # none is allowed now: it asks again when one is
    await wait_until(lambda: len(inbox.accepted()) == 3)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
