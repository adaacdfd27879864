"""Recipients on the list of those who get no mail."""

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
