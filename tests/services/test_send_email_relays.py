"""What the job makes of the relays' answers, on the real inbox."""

import asyncio
import time
from typing import Any

import pytest

from db import claims, results
from db.results import Result
from jobs.process_pending_emails import process_pending_emails
from jobs.retry_failed_email import retry_failed_email
from jobs.send_email import send_claimed, send_email
from mail.outcome import Decision, Delivery, Outcome, Phase, Status
from mail_outbox.envelope import BY_LIFE

MAKE_DUE = 'UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1'
BASE_S = 60  # of the policy in conftest.py


async def outcomes_of(pool: Any, email_id: int) -> list[str]:
    rows = await pool.fetch(
        'SELECT outcome FROM email_attempts WHERE email_id = $1 ORDER BY started_at', email_id
    )
    return [row['outcome'] for row in rows]


def wait_s(stored: dict[str, Any]) -> float:
    """How long after its result an e-mail is due, in seconds."""
    return (stored['next_retry_at'] - stored['updated_at']).total_seconds()


def asked(inbox: Any, relay: str) -> tuple[int, int]:
    stats = inbox.control.stats()[relay]
    return stats['connections'], stats['transactions']


def cool_until(runtime: Any, moment: float) -> None:
    for relay in runtime.tunables.relays:
        relay.health._cool_until = moment


async def test_4xx_is_retried_after_the_doubled_wait_by_a_deferred_job(
    ctx, pool, queue, row, redis, inbox
):
    recipient = 'backoff+4xx-twice@example.com'
    email_id = await queue(recipient)
    for attempt in (1, 2):
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'failed',
            'attempts': attempt,
        }
        stored = await row(email_id)
        assert 0.89 * BASE_S * 2 ** (attempt - 1) <= wait_s(stored) <= BASE_S * 2 ** (attempt - 1)
        assert (stored['smtp_code'], stored['enhanced_code'], stored['dead_reason']) == (
            451,
            '4.7.1',
            None,
        )
        assert 'Greylisted' in stored['smtp_response']
        jobs = await redis.queued_jobs()
        assert len(jobs) == attempt
        latest = max(jobs, key=lambda job: job.score)
        assert (latest.function, latest.args) == ('send_email', (email_id,))
        assert 0 <= latest.score - stored['next_retry_at'].timestamp() * 1000 < 1000
        await pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 3,
    }
    assert await outcomes_of(pool, email_id) == ['deferred', 'deferred', 'accepted']
    assert len(inbox.accepted(recipient)) == 1


async def test_4xx_at_the_last_attempt_is_dead(ctx, queue, row, redis):
    email_id = await queue('last+4xx-data@example.com', max_attempts=1)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 1,
    }
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['next_retry_at'], stored['smtp_code']) == (
        'exhausted',
        None,
        452,
    )
    assert await redis.queued_jobs() == []


@pytest.mark.parametrize(
    ('tag', 'code', 'enhanced_code'), [('5xx-rcpt', 550, '5.1.1'), ('5xx-data', 554, '5.7.1')]
)
async def test_5xx_is_dead_at_once_and_no_second_relay_is_asked(
    ctx, pool, queue, row, redis, inbox, tag, code, enhanced_code
):
    before = asked(inbox, 'backup')
    email_id = await queue(f'refused+{tag}@example.com')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 1,
    }
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['next_retry_at']) == ('rejected', None)
    assert (stored['smtp_code'], stored['enhanced_code'], stored['relay']) == (
        code,
        enhanced_code,
        'primary',
    )
    assert await outcomes_of(pool, email_id) == ['rejected']
    assert await redis.queued_jobs() == []
    assert asked(inbox, 'backup') == before


@pytest.mark.parametrize('text', ['5.7.3 STARTTLS is required', '5.1.1 no such user'])
async def test_transient_reply_is_tried_again_whatever_its_enhanced_code_says(
    ctx, queue, row, inbox, text
):
    inbox.control.misbehave('rcpt', 'refuse', code=451, text=text)
    email_id = await queue('enhanced@example.com')
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['enhanced_code']) == (None, text[:5])
    assert stored['next_retry_at'] is not None


async def test_recipients_settle_one_by_one_and_nobody_gets_two_copies(
    ctx, pool, queue, row, inbox
):
    at_once, later, never = (
        'at-once@example.com',
        'later+4xx-twice@example.com',
        'never+5xx-rcpt@example.com',
    )
    email_id = await queue(f'{at_once}, {later}, {never}')
    for attempt in (1, 2):
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'failed',
            'attempts': attempt,
        }
        assert (await row(email_id))['next_retry_at'] is not None
        await pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 3,
    }
    settled = (await row(email_id))['recipient_outcomes']
    assert {address: outcome for address, (outcome, _) in settled.items()} == {
        at_once: 'accepted', later: 'accepted', never: 'rejected',
    }  # fmt: skip
    assert '5.1.1' in settled[never][1]
    assert [entry['rcpt_to'] for entry in inbox.accepted()] == [[at_once], [later]]
    assert len({entry['message_id'] for entry in inbox.accepted()}) == 1


async def test_one_refused_of_two_is_sent_and_the_refused_one_is_named(ctx, queue, row):
    email_id = await queue('fine@example.com, gone+5xx-rcpt@example.com')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert 'gone+5xx-rcpt@example.com' in (await row(email_id))['last_error']


async def test_retry_of_mail_whose_recipients_were_all_refused_asks_the_relay_again(
    ctx, queue, row, inbox
):
    email_id = await queue('one@example.com, two@example.com')
    inbox.control.misbehave('rcpt', 'refuse', code=550, text='5.1.1 no such user', times=2)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    inbox.control.behave()
    result = await retry_failed_email(ctx, email_id)
    stored = await row(email_id)
    assert (result['status'], stored['last_error']) == ('sent', None)
    assert len(inbox.accepted('one@example.com')) == 1


@pytest.mark.parametrize('junk', ['nul \0', 'é in Latin-1 \udce9'])
async def test_reply_that_is_no_text_about_one_of_two_recipients_is_recorded(
    pool, queue, row, junk
):
    # aiosmtplib hands on the bytes of a reply as surrogates where they are not UTF-8.
    email_id = await queue('a@example.com, b@example.com')
    who = {'worker': 'w', 'lease_s': 30, 'message_id_domain': 'example.com'}
    (claim,) = await claims.claim(pool, [email_id], **who)
    recipients = {
        'a@example.com': (Outcome.ACCEPTED, '250 ok'),
        'b@example.com': (Outcome.REJECTED, f'550 {junk}'),
    }
    delivery = Delivery(Outcome.ACCEPTED, Phase.REPLIED, 'primary', recipients=recipients)
    await results.record(pool, [Result(claim, delivery, Decision(Status.SENT), 0.1)], worker='w')
    assert (await row(email_id))['recipient_outcomes']['b@example.com'][0] == 'rejected'


async def test_reply_with_nul_about_one_of_two_recipients_does_not_lose_the_acceptance(
    ctx, queue, row, inbox
):
    inbox.control.misbehave('rcpt', 'refuse', code=550, text='5.1.1 nul \0 here', times=1)
    email_id = await queue('nul@example.com, accepted@example.com')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert (await row(email_id))['status'] == 'sent'
    assert len(inbox.accepted('accepted@example.com')) == 1


async def test_drop_after_the_dot_is_uncertain_and_repeats_the_same_message(
    ctx, pool, queue, row, inbox
):
    recipient = 'twin+drop-dot@example.com'
    before = asked(inbox, 'backup')
    email_id = await queue(recipient)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'uncertain',
        'attempts': 1,
    }
    stored = await row(email_id)
    assert 0.89 * BASE_S <= wait_s(stored) <= BASE_S
    assert asked(inbox, 'backup') == before
    await pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 2,
    }
    first, second = inbox.accepted(recipient)
    assert (first['answered'], second['answered']) == (False, True)
    assert first['message_id'] == second['message_id'] == stored['message_id']
    assert inbox.message(first) == inbox.message(second)
    assert await outcomes_of(pool, email_id) == ['uncertain', 'accepted']


async def test_uncertain_mail_of_a_hold_type_waits_for_an_operator(
    ctx, pool, queue, row, redis, inbox
):
    recipient = 'held+drop-dot@example.com'
    email_id = await queue(recipient, email_type='receipt')
    assert (await send_email(ctx, email_id))['status'] == 'uncertain'
    assert (await row(email_id))['next_retry_at'] is None
    assert await redis.queued_jobs() == []
    result = await send_email(ctx, email_id)
    assert (result['status'], result['state']) == ('not-claimable', 'uncertain')
    assert (await process_pending_emails(ctx))['affected'] == 0
    assert len(inbox.accepted(recipient)) == 1


@pytest.mark.parametrize('tag', ['drop-rcpt', 'drop-data'])
async def test_drop_before_the_dot_is_deferred(ctx, pool, queue, row, inbox, tag):
    email_id = await queue(f'dropped+{tag}@example.com')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 1,
    }
    assert (await row(email_id))['next_retry_at'] is not None
    assert await outcomes_of(pool, email_id) == ['deferred']
    assert inbox.accepted() == []


async def test_backup_is_used_while_the_primary_is_down(ctx, pool, queue, row, inbox):
    inbox.control.listen('primary', on=False)
    ids = [await queue(f'backup{n}@example.com') for n in range(2)]
    for n, email_id in enumerate(ids):
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'sent',
            'attempts': 1,
        }
        (entry,) = inbox.accepted(f'backup{n}@example.com')
        assert (entry['relay'], entry['auth']) == ('backup', 'backup')
        assert (await row(email_id))['relay'] == 'backup'


async def test_backup_takes_over_what_the_primary_defers(ctx, queue, row, inbox):
    inbox.control.misbehave('rcpt', 'refuse', relay='primary')
    email_id = await queue('deferred@example.com')
    assert (await send_email(ctx, email_id))['attempts'] == 1
    assert [entry['relay'] for entry in inbox.accepted()] == ['backup']
    assert (await row(email_id))['last_error'] is None


@pytest.mark.parametrize(('fault', 'attempts'), [('no connection', 0), ('closed at MAIL', 1)])
async def test_both_relays_down_costs_at_most_the_first_mail_an_attempt(
    ctx, pool, queue, row, redis, inbox, fault, attempts
):
    for relay in ('primary', 'backup'):
        if fault == 'no connection':
            inbox.control.listen(relay, on=False)
        else:
            inbox.control.misbehave('mail', 'drop', relay=relay)
    runtime = ctx['runtime']
    first, second, third = [await queue() for _ in range(3)]
    status = 'failed' if attempts else 'pending'
    assert await send_email(ctx, first) == {
        'email_id': first,
        'status': status,
        'attempts': attempts,
    }
    assert wait_s(await row(first)) >= (0.89 * BASE_S if attempts else 1.0)
    assert runtime.tunables.relays.unavailable_for_s() > 0
    cool_until(runtime, time.monotonic() + 3600)  # its own 2 s may be over too soon

    result = await send_email(ctx, second)
    assert result['status'] == 'not-claimable'
    assert 'no relay' in result['reason']
    stored = await row(second)
    assert (stored['status'], stored['attempts'], stored['last_attempt_at']) == ('pending', 0, None)
    assert {job.args for job in await redis.queued_jobs()} == {(first,), (second,)}

    claim = await runtime.claimer.claim_one(third)  # claimed before the relays went
    assert await send_claimed(runtime.steps, claim) == {
        'email_id': third,
        'status': 'pending',
        'attempts': 0,
    }
    assert wait_s(await row(third)) > 0.4
    assert await outcomes_of(pool, third) == ['released']

    for relay in ('primary', 'backup'):
        inbox.control.listen(relay, on=True)
    inbox.control.behave()
    cool_until(runtime, 0.0)
    for email_id in (first, second, third):
        await pool.execute(MAKE_DUE, email_id)
    results = [await send_email(ctx, email_id) for email_id in (first, second, third)]
    assert [(r['status'], r['attempts']) for r in results] == [
        ('sent', attempts + 1),
        ('sent', 1),
        ('sent', 1),
    ]


async def test_relay_that_is_away_for_long_costs_no_attempt_however_often_it_is_asked(
    ctx, pool, queue, inbox
):
    for relay in ('primary', 'backup'):
        inbox.control.listen(relay, on=False)
    email_id = await queue(max_attempts=1)
    for _ in range(7):
        cool_until(ctx['runtime'], 0.0)
        await pool.execute(MAKE_DUE, email_id)
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'pending',
            'attempts': 0,
        }
    for relay in ('primary', 'backup'):
        inbox.control.listen(relay, on=True)
    cool_until(ctx['runtime'], 0.0)
    await pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }


async def test_mail_that_says_nothing_of_attempts_outlasts_six_hours_of_deferrals(
    ctx, pool, queue, row, inbox
):
    email_id, with_its_own = (
        await queue('anna@example.com'),
        await queue('ben@example.com', max_attempts=5),
    )
    await pool.execute(
        f'ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT {BY_LIFE}'
    )
    by_sql = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text) VALUES '
        "('c@example.com', 'Hi', 'x') RETURNING id"
    )
    await pool.execute('ALTER TABLE outbound_emails ALTER COLUMN max_attempts SET DEFAULT 5')
    for relay in ('primary', 'backup'):
        inbox.control.misbehave('mail', 'refuse', code=452, relay=relay)
    for attempt in range(1, 14):
        for who in (email_id, by_sql):
            result = await send_email(ctx, who)
            assert (result['status'], result['attempts']) == ('failed', attempt)
            assert (await row(who))['next_retry_at'] is not None
            await pool.execute(MAKE_DUE, who)
        await send_email(ctx, with_its_own)
        await pool.execute(MAKE_DUE + ' AND next_retry_at IS NOT NULL', with_its_own)
    stored = await row(with_its_own)
    assert (stored['attempts'], stored['dead_reason']) == (5, 'exhausted')
    inbox.control.behave()
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 14,
    }
    assert await send_email(ctx, by_sql) == {'email_id': by_sql, 'status': 'sent', 'attempts': 14}


async def test_uncertain_mail_that_says_nothing_of_attempts_gets_a_number_of_them(
    ctx, pool, queue, row, inbox
):
    inbox.control.misbehave('dot', 'drop')
    email_id = await queue()
    for attempt in range(1, 6):
        assert (await send_email(ctx, email_id))['status'] == 'uncertain'
        assert (await row(email_id))['max_attempts'] == 5
        assert ((await row(email_id))['next_retry_at'] is None) == (attempt == 5)
        await pool.execute(MAKE_DUE + ' AND next_retry_at IS NOT NULL', email_id)


@pytest.mark.parametrize('expires_at', ["'infinity'", 'NULL', "now() + interval '18000 years'"])
async def test_mail_with_any_time_to_live_is_deferred_and_sent(
    ctx, pool, queue, row, inbox, expires_at
):
    inbox.control.misbehave('mail', 'refuse', code=452)
    email_id = await queue()
    await pool.execute(
        f'UPDATE outbound_emails SET expires_at = {expires_at} WHERE id = $1', email_id
    )
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    assert await pool.fetchval(
        "SELECT next_retry_at < now() + interval '2 min' FROM outbound_emails"
    )


@pytest.mark.parametrize(
    ('verb', 'code'), [('auth', 535), ('rcpt', 421), ('connect', 421), ('dot', 421)]
)
async def test_relay_that_sends_us_away_costs_no_attempt(ctx, pool, queue, row, inbox, verb, code):
    inbox.control.misbehave(verb, 'refuse', code=code)
    email_id = await queue('away@example.com')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'pending',
        'attempts': 0,
    }
    assert all(relay.health._cool_until > 0 for relay in ctx['runtime'].tunables.relays)
    assert (await row(email_id))['next_retry_at'] is not None
    assert await outcomes_of(pool, email_id) == ['released']
    assert inbox.accepted() == []


async def test_kept_connection_that_the_relay_closed_is_replaced_without_an_attempt(
    ctx, queue, inbox
):
    assert (await send_email(ctx, await queue()))['status'] == 'sent'
    inbox.control.listen('primary', on=False)  # cuts the idle connection
    inbox.control.listen('primary', on=True)
    assert (await send_email(ctx, await queue('again@example.com')))['attempts'] == 1
    (entry,) = inbox.accepted('again@example.com')
    assert entry['relay'] == 'primary'


async def test_many_mails_share_few_connections(ctx, queue, inbox):
    before = inbox.control.stats()['primary']['connections']
    ids = [await queue(f'many{n}@example.com') for n in range(60)]
    results = await asyncio.gather(*(send_email(ctx, email_id) for email_id in ids))
    assert {result['status'] for result in results} == {'sent'}
    assert inbox.control.stats()['primary']['connections'] - before <= 20
