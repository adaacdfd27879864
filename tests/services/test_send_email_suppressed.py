"""Recipients on the list of those who get no mail."""

import asyncio

from db.suppressions import add, remove
from jobs.send_email import send_email


async def test_suppressed_recipient_gets_no_mail_and_the_row_says_why(ctx, pool, queue, row, inbox):
    await add(pool, ['anna@example.com'], reason='hard bounce')
    email_id = await queue('Anna@Example.com')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 1,
    }
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['last_error']) == (
        'suppressed',
        'suppressed: hard bounce',
    )
    assert stored['next_retry_at'] is None
    phase = await pool.fetchval('SELECT phase FROM email_attempts WHERE email_id = $1', email_id)
    assert phase == 'recipients'
    assert inbox.accepted() == []


async def test_other_recipients_get_theirs_and_the_outcomes_are_told_one_by_one(
    ctx, pool, queue, row, inbox
):
    await add(pool, ['@example.org'], reason='closed')
    email_id = await queue('anna@example.com, bob@example.org')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert [entry['rcpt_to'] for entry in inbox.accepted()] == [['anna@example.com']]
    outcomes = (await row(email_id))['recipient_outcomes']
    assert outcomes['bob@example.org'] == ['rejected', 'suppressed: closed']
    assert outcomes['anna@example.com'][0] == 'accepted'


async def test_who_got_it_before_the_others_were_suppressed_gets_no_second_copy(
    ctx, pool, queue, row, inbox
):
    email_id = await queue('anna@example.com, bob+4xx-twice@example.org')
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    await pool.execute('UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1', email_id)
    await add(pool, ['@example.org'], reason='closed')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert len(inbox.accepted()) == 1


async def test_who_is_taken_off_the_list_gets_the_mail_an_operator_retries(ctx, pool, queue, inbox):
    await add(pool, ['anna@example.com'], reason='mistake')
    email_id = await queue()
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    await remove(pool, ['anna@example.com'])
    await pool.execute(
        "UPDATE outbound_emails SET status = 'pending', next_retry_at = now() WHERE id = $1",
        email_id,
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert len(inbox.accepted()) == 1


async def test_who_wants_no_mail_of_a_type_gets_all_other_mail(ctx, pool, queue, row, inbox):
    await add(pool, ['anna@example.com'], reason='unsubscribed', email_type='newsletter')
    news = await queue('Anna@Example.com', email_type='newsletter')
    reset, plain = await queue(email_type='password-reset'), await queue()
    assert (await send_email(ctx, news))['status'] == 'failed'
    stored = await row(news)
    assert (stored['dead_reason'], stored['last_error']) == (
        'suppressed', 'suppressed: unsubscribed (of the type newsletter)',
    )  # fmt: skip
    for email_id in (reset, plain):
        assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert len(inbox.accepted('anna@example.com')) == 2


async def test_mails_of_several_types_are_looked_up_together_and_each_by_its_own(
    ctx, pool, queue, inbox
):
    await add(pool, ['@example.org'], reason='asked', email_type='newsletter')
    await add(pool, ['bob@example.org'], reason='gone')
    wanted = {
        await queue('anna@example.org', email_type='newsletter'): 'failed',
        await queue('anna@example.org', email_type='invoice'): 'sent',
        await queue('bob@example.org', email_type='invoice'): 'failed',
        await queue('carl@example.com', email_type='newsletter'): 'sent',
    }
    results = await asyncio.gather(*(send_email(ctx, email_id) for email_id in wanted))
    assert {result['email_id']: result['status'] for result in results} == wanted
