"""What reports change, on a real PostgreSQL: states, the suppression list, and nothing twice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from db.feedback import read_feedback, store_reports
from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from db.suppressions import add, suppressed
from db.transitions import retry
from jobs.apply_feedback import apply_feedback
from mail.bounce.reading import read_returned_message
from mail.bounce.report import FeedbackKind, Report
from tests.services.ops_desk import insert
from tests.unit.bounce_messages import PATHS, complaint, dsn

RULES = FeedbackRules()
SENT = {'status': 'sent', 'attempts': 1, 'sent_at': 'sql:now()', 'last_attempt_at': 'sql:now()'}
NOW = datetime.now(UTC)


def bounce(email_id=None, recipient='anna@example.net', **parts):
    kind = parts.pop('kind', FeedbackKind.BOUNCE)
    key = parts.pop('key', f'{email_id} {recipient} {kind}')
    parts = {'enhanced_code': '5.1.1', 'diagnostic': 'smtp; 550 5.1.1 unknown'} | parts
    return Report(kind=kind, source='dsn', key=key, recipient=recipient, email_id=email_id, **parts)


async def take_in(pool, *reports, rules=RULES):
    await store_reports(pool, reports)
    return await apply_reports(pool, rules)


async def look_again(pool, rules=RULES):
    await pool.execute('UPDATE email_feedback SET look_at = now()')
    return await apply_reports(pool, rules)


async def state(pool, email_id):
    return dict(
        await pool.fetchrow(
            'SELECT status, feedback_at, feedback, next_retry_at, recipient_outcomes '
            'FROM outbound_emails WHERE id = $1',
            email_id,
        )
    )


async def sent_to(pool, recipient='anna@example.net', **columns):
    return await insert(pool, **SENT | {'recipient': recipient} | columns)


async def test_hard_bounce_changes_the_row_and_the_list(pool):
    email_id = await sent_to(pool)
    [applied] = await take_in(pool, bounce(email_id))
    assert applied.effect == 'it is bounced'
    row = await state(pool, email_id)
    assert (row['status'], row['feedback']) == ('bounced', 'smtp; 550 5.1.1 unknown')
    assert NOW - timedelta(minutes=5) < row['feedback_at']
    assert await suppressed(pool, ['anna@example.net']) == {
        'anna@example.net': 'smtp; 550 5.1.1 unknown'
    }
    entry = await pool.fetchrow('SELECT * FROM email_suppressions')
    assert (entry['source'], entry['created_by']) == ('bounce', 'dsn')
    assert entry['expires_at'] > NOW + timedelta(days=179)
    assert [f['effect'] for f in await read_feedback(pool, email_id)] == ['it is bounced']


async def test_replayed_report_changes_nothing(pool):
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id))
    await pool.execute('DELETE FROM email_suppressions')
    await retry(pool, [email_id], expiry_hours=24)
    assert await store_reports(pool, [bounce(email_id)]) == 0
    assert await take_in(pool, bounce(email_id)) == []
    row = await state(pool, email_id)
    assert (row['status'], row['feedback_at'], row['feedback']) == ('pending', None, None)
    assert await suppressed(pool, ['anna@example.net']) == {}


@pytest.mark.parametrize(
    ('kind', 'status', 'is_suppressed'),
    [
        (FeedbackKind.BOUNCE, 'bounced', True),
        (FeedbackKind.SOFT_BOUNCE, 'bounced', False),
        (FeedbackKind.DELAY, 'sent', False),
        (FeedbackKind.COMPLAINT, 'complained', True),
    ],
)
async def test_what_each_kind_does(pool, kind, status, is_suppressed):
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id, kind=kind))
    assert (await state(pool, email_id))['status'] == status
    assert bool(await suppressed(pool, ['anna@example.net'])) == is_suppressed


async def test_report_that_comes_before_the_record_waits_for_it(pool):
    sending = {
        'status': 'sending', 'claimed_by': 'w@h:1', 'lease_expires_at': 'sql:now()',
        'claim_token': 'sql:gen_random_uuid()', 'attempts': 1,
    }  # fmt: skip
    email_id = await insert(pool, **sending, recipient='anna@example.net')
    assert await take_in(pool, bounce(email_id)) == []
    assert (await state(pool, email_id))['status'] == 'sending'
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now() WHERE id = $1", email_id
    )
    assert await apply_reports(pool, RULES) == []  # not due yet
    [applied] = await look_again(pool)
    assert applied.effect == 'it is bounced'


@pytest.mark.parametrize('status', ['uncertain', 'expired', 'cancelled', 'failed'])
async def test_whatever_is_over_may_have_been_sent_after_all(pool, status):
    email_id = await insert(pool, status=status, attempts=1, recipient='anna@example.net')
    await take_in(pool, bounce(email_id))
    assert (await state(pool, email_id))['status'] == 'bounced'


async def test_uncertain_e_mail_that_bounced_is_not_sent_again(pool):
    email_id = await insert(
        pool, status='uncertain', attempts=1, next_retry_at='sql:now()',
        recipient='anna@example.net',
    )  # fmt: skip
    await take_in(pool, bounce(email_id))
    assert (await state(pool, email_id))['next_retry_at'] is None


async def test_others_of_an_e_mail_still_get_it(pool):
    email_id = await insert(
        pool, status='failed', attempts=1, next_retry_at='sql:now()',
        recipient='anna@example.net, bob@example.net',
    )  # fmt: skip
    assert await take_in(pool, bounce(email_id)) == []
    assert (await state(pool, email_id))['status'] == 'failed'


async def test_complaint_is_more_than_a_bounce(pool):
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id))
    await take_in(pool, bounce(email_id, kind=FeedbackKind.COMPLAINT, diagnostic='abuse'))
    await take_in(pool, bounce(email_id, key='later'))
    assert (await state(pool, email_id))['status'] == 'complained'
    sources = await pool.fetch('SELECT source FROM email_suppressions')
    assert [row['source'] for row in sources] == ['complaint']


async def test_a_recipient_s_outcome_says_that_his_copy_came_back(pool):
    outcomes = {'Anna@example.net': ['accepted', '250'], 'bob@x.example': ['accepted', '250']}
    email_id = await sent_to(pool, 'Anna@example.net, bob@x.example', recipient_outcomes=outcomes)
    await take_in(pool, bounce(email_id))
    row = await state(pool, email_id)
    assert row['status'] == 'bounced'
    assert row['recipient_outcomes'] == outcomes | {
        'Anna@example.net': ['rejected', 'bounced: smtp; 550 5.1.1 unknown']
    }


async def test_report_about_somebody_else_changes_nothing(pool):
    email_id = await sent_to(pool, 'anna@example.net, bob@x.example')
    [applied] = await take_in(pool, bounce(email_id, 'victim@example.org'))
    assert applied.effect == 'the address is none of its recipients'
    assert (await state(pool, email_id))['status'] == 'sent'
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


async def test_an_address_that_was_forwarded_stands_for_the_only_recipient(pool):
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id, 'anna.private@example.org'))
    assert await suppressed(pool, ['anna@example.net', 'anna.private@example.org']) == {
        'anna@example.net': 'smtp; 550 5.1.1 unknown'
    }


async def test_nobody_is_suppressed_on_the_word_of_a_stranger(pool):
    reports = [bounce(None, 'victim@example.org'), bounce(10**9, 'victim@example.org')]
    await store_reports(pool, reports)
    await pool.execute("UPDATE email_feedback SET received_at = now() - interval '1 hour'")
    assert {a.effect for a in await apply_reports(pool, RULES)} == {'its e-mail is not known'}
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


async def test_a_provider_s_word_is_enough(pool):
    await take_in(pool, bounce(None, 'gone@example.org', is_trusted=True))
    assert await suppressed(pool, ['gone@example.org'])


async def test_message_id_and_the_date_of_what_came_back_find_the_e_mail(pool):
    email_id = await sent_to(pool, message_id='<m1@example.com>')
    await pool.execute(
        "INSERT INTO email_attempts VALUES ($1, '2026-11-30 12:00:00.4+00', 1, 'w', 'accepted', "
        "'replied', 'primary', 250, NULL, '2.0.0 queued as 0100018abcdef')",
        email_id,
    )
    [report] = read_returned_message(dsn()).reports
    [applied] = await take_in(pool, report)
    assert (applied.email_id, applied.effect) == (email_id, 'it is bounced')
    other = replace(report, key='other', message_id='<m2@example.com>')
    assert await take_in(pool, other) == []
    by_relay = bounce(
        None, key='ses', relay_id='0100018abcdef', kind=FeedbackKind.COMPLAINT,
        sent_at=datetime(2026, 11, 30, 12, 0, 1, tzinfo=UTC), is_trusted=True,
    )  # fmt: skip
    [applied] = await take_in(pool, by_relay)
    assert (applied.email_id, applied.effect) == (email_id, 'it is complained')


async def test_complaint_without_a_name_is_about_the_only_recipient(pool):
    email_id = await sent_to(pool)
    [report] = read_returned_message(complaint(original_from=PATHS.of(email_id)), (), PATHS).reports
    await take_in(pool, report)
    assert (await state(pool, email_id))['status'] == 'complained'
    assert await suppressed(pool, ['anna@example.net'])


async def test_what_an_operator_decided_stays(pool):
    await add(pool, ['anna@example.net'], reason='asked by phone')
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id))
    assert await suppressed(pool, ['anna@example.net']) == {'anna@example.net': 'asked by phone'}


async def test_without_days_only_the_state_changes(pool):
    email_id = await sent_to(pool)
    await take_in(pool, bounce(email_id), rules=FeedbackRules(0, 0))
    assert (await state(pool, email_id))['status'] == 'bounced'
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


async def test_who_knows_one_address_cannot_fill_the_table(pool):
    email_id = await sent_to(pool)
    for start in range(0, 500, 50):
        await store_reports(pool, [bounce(email_id, key=str(start + n)) for n in range(50)])
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') <= 250


async def test_duty_applies_what_others_stored(ctx, pool):
    email_id = await sent_to(pool)
    await store_reports(pool, [bounce(email_id)])
    assert await apply_feedback(ctx) == {'affected': 1}
    assert (await state(pool, email_id))['status'] == 'bounced'


async def bounces_of_two(pool):
    """An e-mail with which something will be wrong, a good one, and a bounce of each."""
    ids = await sent_to(pool), await sent_to(pool, 'bob@example.net')
    await store_reports(pool, [bounce(ids[0]), bounce(ids[1], 'bob@example.net')])
    return ids


async def test_row_that_refuses_to_be_bounced_holds_up_nobody_and_its_recipient_gets_no_mail(pool):
    odd, good = await bounces_of_two(pool)
    await pool.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = {odd} THEN RAISE 'not this one' USING ERRCODE = 'SHOP1'; END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON outbound_emails FOR EACH ROW
            EXECUTE FUNCTION refuse()"""
    )
    try:
        applied = await apply_reports(pool, RULES)
    finally:
        await pool.execute('DROP TRIGGER refuse ON outbound_emails; DROP FUNCTION refuse')
    assert {a.email_id: a.effect for a in applied} == {
        odd: 'its row refuses to be bounced: not this one', good: 'it is bounced',
    }  # fmt: skip
    assert set(await suppressed(pool, ['anna@example.net', 'bob@example.net'])) == {
        'anna@example.net', 'bob@example.net',
    }  # fmt: skip


async def test_row_that_the_application_has_locked_holds_up_nobody_and_is_looked_at_later(pool):
    locked, good = await bounces_of_two(pool)
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('SELECT FROM outbound_emails WHERE id = $1 FOR UPDATE', locked)
        assert [a.email_id for a in await apply_reports(pool, RULES)] == [good]
    assert (await state(pool, locked))['status'] == 'sent'
    assert await apply_reports(pool, RULES) == []  # not due yet
    assert [a.effect for a in await look_again(pool)] == ['it is bounced']


async def test_report_that_cannot_be_applied_for_a_month_is_given_up(pool):
    locked, _ = await bounces_of_two(pool)
    await pool.execute("UPDATE email_feedback SET received_at = now() - interval '31 days'")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute('SELECT FROM outbound_emails WHERE id = $1 FOR UPDATE', locked)
        await apply_reports(pool, RULES)
    effect = await pool.fetchval('SELECT effect FROM email_feedback WHERE email_id = $1', locked)
    assert effect == 'it could not be applied: canceling statement due to lock timeout'
    assert (await state(pool, locked))['status'] == 'sent'


async def test_report_about_an_e_mail_of_the_same_id_in_another_installation_changes_nothing(pool):
    """Staging with the BOUNCE_SECRET of production."""
    email_id = await sent_to(pool, message_id='<m1@example.com>')
    [applied] = await take_in(
        pool, bounce(email_id, 'tester@example.org', message_id='<m9@staging.example.com>')
    )
    assert applied.effect == 'neither Message-ID nor address are its own'
    assert (await state(pool, email_id))['status'] == 'sent'
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


@pytest.mark.parametrize(
    ('recipient', 'message_id'),
    [
        ('anna.private@example.org', '<m1@example.com>'),  # forwarded
        ('Anna@Example.net', '<0100-rewritten@relay.example>'),  # the relay wrote another
    ],
)
async def test_one_of_message_id_and_address_may_differ(pool, recipient, message_id):
    email_id = await sent_to(pool, message_id='<m1@example.com>')
    [applied] = await take_in(pool, bounce(email_id, recipient, message_id=message_id))
    assert applied.effect == 'it is bounced'
