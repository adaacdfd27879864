"""What operators paused is left alone, loses nothing, and is sent at once when it is resumed."""

import asyncio

import pytest

from cron import Schedule, run_slot
from db import switches as stored
from db.switches import SwitchKind
from db.wakeups import listen
from delivery.tunables import Switches
from fleet import switches as heeding
from fleet.duties import Duty
from fleet.switches import keep_switches
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_email
from mail.route import PAUSED_WAIT_S, SwitchableRelays
from mail.route_table import RouteTable
from tests.conftest import wait_until
from tests.services.other_worker import another


@pytest.fixture
def ctx(ctx):
    runtime = ctx['runtime']
    relays = SwitchableRelays(list(runtime.tunables.relays))
    return {'runtime': another(runtime, relays=relays, switches=Switches('arq:queue'))}


@pytest.fixture
def switch(ctx, pool):
    """Pause something, and have the worker heed it."""

    async def switch(*paused):
        await pool.execute('DELETE FROM mail_switches')
        for kind, name in paused:
            assert await stored.pause(pool, kind, name, reason=None, by='tests')
        ctx['runtime'].tunables.switches.update(await stored.read_switches(pool))
        ctx['runtime'].tunables.relays.pause(ctx['runtime'].tunables.switches.relays)

    return switch


async def test_pause_is_kept_once_with_who_and_why_and_ends_once(pool):
    assert await stored.pause(pool, SwitchKind.RELAY, 'primary', reason='moving', by='anna@host')
    assert not await stored.pause(pool, SwitchKind.RELAY, 'primary', reason='other', by='bert@host')
    (found,) = await stored.read_switches(pool)
    assert (found.kind, found.name, found.reason, found.paused_by) == (
        SwitchKind.RELAY,
        'primary',
        'moving',
        'anna@host',
    )
    assert await stored.resume(pool, SwitchKind.RELAY, 'primary')
    assert not await stored.resume(pool, SwitchKind.RELAY, 'primary')
    assert await stored.read_switches(pool) == []


async def test_paused_type_stays_due_for_jobs_and_sweeps_while_others_are_sent(
    ctx, queue, row, redis, switch, inbox
):
    await switch((SwitchKind.EMAIL_TYPE, 'news'))
    news, more = await queue(email_type='news'), await queue(email_type='news')
    receipt, untyped = await queue(email_type='reset'), await queue()
    result = await send_email(ctx, news)
    assert (result['status'], result['reason']) == (
        'not-claimable',
        'e-mails of type news are paused',
    )
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 2}
    assert [(await row(i))['status'] for i in (receipt, untyped)] == ['sent', 'sent']
    for email_id in (news, more):
        waiting = await row(email_id)
        assert (waiting['status'], waiting['attempts'], waiting['claim_token']) == (
            'pending',
            0,
            None,
        )
    assert await redis.queued_jobs() == []  # nobody looks again and again
    await switch()
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 2}


async def test_paused_type_is_left_alone_among_suspects(ctx, pool, queue, switch):
    email_id = await queue(email_type='news')
    await pool.execute(
        'UPDATE outbound_emails SET lost_attempts = 1, next_retry_at = now() WHERE id = $1',
        email_id,
    )
    await switch((SwitchKind.EMAIL_TYPE, 'news'))
    assert await ctx['runtime'].claimer.claim_suspects(1, 10) == []
    await switch()
    assert [claim.email.id for claim in await ctx['runtime'].claimer.claim_suspects(1, 10)] == [
        email_id
    ]


async def test_paused_relay_is_not_used_and_the_other_is(ctx, queue, row, switch, inbox):
    await switch((SwitchKind.RELAY, 'primary'))
    email_id = await queue()
    await send_email(ctx, email_id)
    assert (await row(email_id))['relay'] == 'backup'
    await switch()
    email_id = await queue()
    await send_email(ctx, email_id)
    assert (await row(email_id))['relay'] == 'primary'


async def test_email_with_every_relay_paused_stays_unclaimed_and_loses_no_attempt(
    ctx, queue, row, switch, inbox
):
    await switch((SwitchKind.RELAY, 'primary'), (SwitchKind.RELAY, 'backup'))
    email_id = await queue()
    assert (await send_email(ctx, email_id))['status'] == 'not-claimable'
    assert (await process_pending_emails(ctx))['affected'] == 0
    waiting = await row(email_id)
    assert (waiting['status'], waiting['attempts']) == ('pending', 0)
    assert ctx['runtime'].tunables.relays.unavailable_for_s() == PAUSED_WAIT_S
    await switch()
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 1}


async def test_worker_of_a_paused_queue_claims_nothing_and_leaves_its_jobs_to_others(
    ctx, queue, row, redis, switch
):
    await switch((SwitchKind.QUEUE, 'arq:queue'))
    email_id = await queue()
    result = await send_email(ctx, email_id)
    assert result['status'] == 'not-claimable'
    assert 'this worker is paused' in result['reason']
    assert [job.args for job in await redis.queued_jobs()] == [(email_id,)]
    assert (await process_pending_emails(ctx))['affected'] == 0
    assert await ctx['runtime'].claimer.claim_due(5) == []
    assert (await row(email_id))['attempts'] == 0
    await switch((SwitchKind.QUEUE, 'high_priority'))
    assert (await send_email(ctx, email_id))['status'] == 'sent'


async def test_slot_of_a_paused_duty_is_skipped_and_recorded_as_such(ctx, pool, switch):
    ran = []

    async def duty(ctx):
        ran.append(1)
        return {'affected': 1}

    await switch((SwitchKind.CRON, 'duty'))
    schedule = Schedule(Duty(duty.__name__, 86400, missed='once'), duty)
    assert await run_slot(ctx, schedule) is None
    assert await pool.fetchval('SELECT outcome FROM cron_runs') == 'skipped'
    await switch()
    assert await run_slot(ctx, schedule) is None  # this slot is over
    assert ran == []


async def test_worker_hears_of_a_switch_at_once_and_without_the_notification_a_little_later(
    pool, database, monkeypatch
):
    switches, changed, applied = Switches('arq:queue'), asyncio.Event(), []
    monkeypatch.setattr(heeding, 'LOOK_EVERY_S', 600)
    tasks = [
        asyncio.create_task(
            keep_switches(pool, switches, changed, lambda: applied.append(switches.claims_paused))
        ),
        asyncio.create_task(listen(database.dsn, 5, lambda: None, {stored.CHANNEL: changed.set})),
    ]
    try:
        await wait_until(
            lambda: pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%mail_s%'"
            )
        )
        await stored.pause(pool, SwitchKind.QUEUE, 'arq:queue', reason=None, by='tests')
        await wait_until(lambda: applied == [True])
        assert switches.reasons() == ['queue arq:queue is paused by tests']
        monkeypatch.setattr(heeding, 'LOOK_EVERY_S', 0.01)
        changed.set()
        await pool.execute('DELETE FROM mail_switches')
        await wait_until(lambda: applied == [True, False])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_last_word_stands_while_postgresql_is_away(pool):
    switches, changed = Switches('arq:queue'), asyncio.Event()
    await stored.pause(pool, SwitchKind.QUEUE, 'arq:queue', reason=None, by='tests')
    switches.update(await stored.read_switches(pool))
    pool.terminate()
    keeping = asyncio.create_task(keep_switches(pool, switches, changed, lambda: None))
    changed.set()
    await wait_until(lambda: not changed.is_set())
    assert not keeping.done()
    assert switches.claims_paused
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_replaced_relays_serve_the_next_email_and_connections_of_the_old_are_closed(
    ctx, queue, row, inbox
):
    for on in (False, True):  # cuts what other tests left open
        inbox.control.listen('primary', on=on)
    await send_email(ctx, await queue())
    relays = ctx['runtime'].tunables.relays
    _, backup = relays
    assert inbox.control.stats()['primary']['open'] == 1
    relays.replace([backup], RouteTable(), drain_s=60)
    email_id = await queue()
    await send_email(ctx, email_id)
    assert (await row(email_id))['relay'] == 'backup'
    await wait_until(lambda: inbox.control.stats()['primary']['open'] == 0)
