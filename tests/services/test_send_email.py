"""The job on real servers: what it sends, and what it says when there is nothing to send."""

import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from email import policy
from email.parser import BytesParser
from functools import partial
from typing import Any

import pytest

from db import claims
from engine.wire import serialize
from jobs.send_email import send_email
from tests.services.other_worker import another


def only_message(inbox: Any, recipient: str) -> Any:
    (entry,) = inbox.accepted(recipient)
    return BytesParser(policy=policy.default).parsebytes(inbox.message(entry))


async def test_text_is_sent_over_tls_and_recorded(ctx, pool, queue, row, inbox):
    email_id = await queue('text@example.com', subject='Hello', body_text='Hello,\n.\n.. Anna.\n')
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    stored = await row(email_id)
    assert (stored['status'], stored['attempts'], stored['relay'], stored['smtp_code'],
        stored['enhanced_code']) == (
        'sent', 1, 'primary', 250, '2.0.0',
    )  # fmt: skip
    assert stored['sent_at'] is not None
    assert (stored['claim_token'], stored['lease_expires_at'], stored['next_retry_at']) == (
        None,
        None,
        None,
    )
    (entry,) = inbox.accepted('text@example.com')
    assert (entry['relay'], entry['tls'], entry['auth']) == ('primary', True, 'primary')
    assert (entry['mail_from'], entry['message_id']) == (
        'noreply@example.com',
        stored['message_id'],
    )
    message = only_message(inbox, 'text@example.com')
    assert message.get_content() == 'Hello,\r\n.\r\n.. Anna.\r\n'
    assert message['date'].datetime == stored['message_date'].replace(microsecond=0)
    (attempt,) = await pool.fetch('SELECT * FROM email_attempts')
    assert (attempt['email_id'], attempt['outcome'], attempt['phase'], attempt['worker']) == (
        email_id, 'accepted', 'replied', 'tests@localhost:1',
    )  # fmt: skip
    assert ctx['runtime'].claimer.leases.held() == []


async def test_html_comes_with_its_text_alternative(ctx, queue, inbox):
    email_id = await queue(
        'html@example.com', body_text='Plain.', body_html='<p>Rich & <b>bold</b>.</p>'
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'html@example.com')
    assert message.get_content_type() == 'multipart/alternative'
    assert message.get_body(('plain',)).get_content().strip() == 'Plain.'
    assert message.get_body(('html',)).get_content().strip() == '<p>Rich & <b>bold</b>.</p>'


async def test_subject_and_names_beyond_ascii_arrive_as_written(ctx, queue, inbox):
    subject = 'Grüße aus Köln ✓ 領収書 ' + 'ä' * 80
    email_id = await queue(
        '"Jörg Müller, 王" <umlaut@example.com>', subject=subject, body_text='Schöne Grüße ✓'
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'umlaut@example.com')
    assert message['subject'] == subject
    (to,) = message['to'].addresses
    assert (to.display_name, to.addr_spec) == ('Jörg Müller, 王', 'umlaut@example.com')
    assert message.get_content().strip() == 'Schöne Grüße ✓'
    (entry,) = inbox.accepted('umlaut@example.com')
    head, _, body = inbox.message(entry).partition(b'\r\n\r\n')
    assert head.isascii()
    assert body.decode() == 'Schöne Grüße ✓\r\n'  # the relay offers 8BITMIME


async def test_unknown_id_is_not_claimable_and_looked_for_once_more(ctx, redis):
    for _ in range(2):
        result = await send_email(ctx, 4711)
        assert (result['email_id'], result['status'], result['state']) == (
            4711,
            'not-claimable',
            None,
        )
    (wake_up,) = await redis.queued_jobs()
    assert wake_up.args == (4711,)


async def test_wrong_types_are_refused_with_a_plain_result(ctx, redis):
    for wrong in ('12x', '-1', '', True, 1.0, None, b'1', [1], -1, 0, 2**63, 2**70, 'x' * 10_000):
        result = await send_email(ctx, wrong)  # type: ignore[arg-type]
        assert (result['status'], result['state']) == ('not-claimable', None), wrong
        assert 'positive integer' in result['reason']
        assert pickle.loads(serialize(result)) == result
    assert await redis.queued_jobs() == []
    assert ctx['runtime'].activity.refused.counts == {'arguments': 13}


async def test_decimal_string_is_an_id(ctx, queue, inbox):
    email_id = await queue('text@example.com')
    assert await send_email(ctx, str(email_id)) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    assert len(inbox.accepted('text@example.com')) == 1


LEFT_ALONE = [  # change, state, reason
    ("status = 'cancelled'", 'cancelled', 'cancelled'),
    ("status = 'expired', expires_at = now() - interval '1 s'", 'expired', 'expired'),
    ("status = 'failed', next_retry_at = NULL", 'failed', 'dead'),
    ("status = 'failed', attempts = max_attempts", 'failed', 'dead'),
    ("status = 'uncertain', next_retry_at = NULL", 'uncertain', 'operator'),
    (
        (
            "status = 'sending', claim_token = gen_random_uuid(), claimed_by = 'w9@host', "
            'lease_expires_at = now()'
        ),
        'sending',
        'w9@host',
    ),
]


async def test_what_is_not_to_be_sent_is_left_alone_and_told(ctx, pool, queue, row, redis, inbox):
    for change, state, reason in LEFT_ALONE:
        email_id = await queue('left-alone@example.com')
        await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', email_id)
        before = await row(email_id)
        result = await send_email(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', state), change
        assert reason in result['reason']
        assert await row(email_id) == before
    assert await redis.queued_jobs() == []
    assert inbox.accepted('left-alone@example.com') == []


async def test_mail_that_was_sent_before_is_not_sent_again(ctx, queue, row, inbox):
    email_id = await queue('before@example.com')
    await send_email(ctx, email_id)
    before = await row(email_id)
    result = await send_email(ctx, email_id)
    assert result == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
        'reason': 'already sent',
    }
    assert await row(email_id) == before
    assert len(inbox.accepted('before@example.com')) == 1


async def test_mail_for_later_is_enqueued_at_its_time(ctx, queue, row, redis):
    email_id = await queue(send_at=datetime.now(UTC) + timedelta(hours=1))
    for _ in range(9):  # a producer that repeats itself
        result = await send_email(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', 'pending')
    due_ms = (await row(email_id))['next_retry_at'].timestamp() * 1000
    jobs = await redis.queued_jobs()
    assert 1 <= len(jobs) < 9  # one for each second in which it was asked
    for job in jobs:
        assert job.args == (email_id,)
        assert 0 <= job.score - due_ms < 1000


async def test_expired_mail_becomes_expired(ctx, pool, queue, row, inbox):
    for status in ('pending', 'failed'):
        email_id = await queue('late@example.com')
        await pool.execute(
            (
                "UPDATE outbound_emails SET status = $2, expires_at = now() - interval '1 "
                "second' WHERE id = $1"
            ),
            email_id,
            status,
        )
        result = await send_email(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', 'expired')
        stored = await row(email_id)
        assert (stored['status'], stored['next_retry_at'], stored['attempts']) == (
            'expired',
            None,
            0,
        )
    assert inbox.accepted('late@example.com') == []


async def test_two_workers_with_one_id_send_once(ctx, queue, inbox, monkeypatch):
    email_id = await queue('once@example.com')
    together = asyncio.Barrier(2)

    async def claim_together(*args: Any, original: Any, **kwargs: Any) -> Any:
        await together.wait()
        return await original(*args, **kwargs)

    monkeypatch.setattr(claims, 'claim', partial(claim_together, original=claims.claim))
    other = {'runtime': another(ctx['runtime'], worker='other@localhost:2')}
    results = await asyncio.gather(send_email(ctx, email_id), send_email(other, email_id))
    assert len([result for result in results if 'reason' not in result]) == 1
    assert len(inbox.accepted('once@example.com')) == 1


@pytest.mark.parametrize(('status', 'attempts'), [('pending', 0), ('failed', 1)])
async def test_row_inserted_with_the_old_columns_alone_is_sent(
    ctx, pool, row, inbox, status, attempts
):
    email_id = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type, '
        'status, attempts, '
        "max_attempts, next_retry_at, expires_at) VALUES ('old@example.com', 'Old', 'Text', "
        "'<p>Text</p>', "
        "'password_reset', $1, $2, 3, now(), now() + interval '1 hour') RETURNING id",
        status,
        attempts,
    )
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': attempts + 1,
    }
    stored = await row(email_id)
    message = only_message(inbox, 'old@example.com')
    assert message['message-id'] == stored['message_id']
    assert stored['message_id'].endswith('@example.com>')
    assert message['date'].datetime == stored['message_date'].replace(microsecond=0)
