"""The job on real servers: what it sends, and what it says when there is nothing to send."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import policy
from email.parser import BytesParser
from functools import partial
from typing import Any

import pytest

from db import claims
from db.content import COLLECTION, store_attachments
from db.pools import open_mongo
from dev.ports import free_port
from fleet.leases import Leases
from fleet.wire import deserialize, serialize
from jobs.send_email import CONTENT_RETRY_S, send_email
from mail.envelope import Attachment

MAKE_DUE = 'UPDATE outbound_emails SET next_retry_at = now() WHERE id = $1'
ADD_TEMPLATE = (
    'INSERT INTO email_templates (name, subject, body_text, body_html) '
    'VALUES (gen_random_uuid()::text, $1, $2, $3) RETURNING id'
)

EVERY_BYTE = bytes(range(256)) * 1500  # more than is rendered in the event loop
DOTS = b'.\r\n..\r\n\r\n.\r\nQUIT\r\n\n.\n'


def only_message(inbox: Any, recipient: str) -> Any:
    (entry,) = inbox.accepted(recipient)
    return BytesParser(policy=policy.default).parsebytes(inbox.message(entry))


async def test_text_is_sent_over_tls_and_recorded(ctx, pool, queue, row, inbox):
    email_id = await queue('text@example.com', subject='Hello', body_text='Hello,\n.\n.. Anna.\n')
    assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'sent', 'attempts': 1}
    stored = await row(email_id)
    assert (stored['status'], stored['attempts'], stored['relay'], stored['smtp_code'], stored['enhanced_code']) == (
        'sent', 1, 'primary', 250, '2.0.0',
    )  # fmt: skip
    assert stored['sent_at'] is not None
    assert (stored['claim_token'], stored['lease_expires_at'], stored['next_retry_at']) == (None, None, None)
    (entry,) = inbox.accepted('text@example.com')
    assert (entry['relay'], entry['tls'], entry['auth']) == ('primary', True, 'primary')
    assert (entry['mail_from'], entry['message_id']) == ('noreply@example.com', stored['message_id'])
    message = only_message(inbox, 'text@example.com')
    assert message.get_content() == 'Hello,\n.\n.. Anna.\n'
    assert message['date'].datetime == stored['message_date'].replace(microsecond=0)
    (attempt,) = await pool.fetch('SELECT * FROM email_attempts')
    assert (attempt['email_id'], attempt['outcome'], attempt['phase'], attempt['worker']) == (
        email_id, 'accepted', 'replied', 'tests@localhost:1',
    )  # fmt: skip
    assert ctx['runtime'].leases.held() == []


async def test_html_comes_with_its_text_alternative(ctx, queue, inbox):
    email_id = await queue('html@example.com', body_text='Plain.', body_html='<p>Rich & <b>bold</b>.</p>')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'html@example.com')
    assert message.get_content_type() == 'multipart/alternative'
    assert message.get_body(('plain',)).get_content().strip() == 'Plain.'
    assert message.get_body(('html',)).get_content().strip() == '<p>Rich & <b>bold</b>.</p>'


async def test_subject_and_names_beyond_ascii_arrive_as_written(ctx, queue, inbox):
    subject = 'Grüße aus Köln ✓ 領収書 ' + 'ä' * 80
    email_id = await queue('"Jörg Müller, 王" <umlaut@example.com>', subject=subject, body_text='Schöne Grüße ✓')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'umlaut@example.com')
    assert message['subject'] == subject
    (to,) = message['to'].addresses
    assert (to.display_name, to.addr_spec) == ('Jörg Müller, 王', 'umlaut@example.com')
    assert message.get_content().strip() == 'Schöne Grüße ✓'
    (entry,) = inbox.accepted('umlaut@example.com')
    assert inbox.message(entry).isascii()


async def test_template_fills_every_part_and_escapes_in_html_alone(ctx, pool, queue, inbox):
    template = await pool.fetchval(ADD_TEMPLATE, 'Hello {{ name }}', 'Dear {{ name }}', '<p>{{ name }}</p>')
    data = {'name': 'A & <b>\r\nBcc: thief@example.com'}
    email_id = await queue('template@example.com', template_id=template, template_data=data, body_text='not this')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'template@example.com')
    assert message['subject'] == 'Hello A & <b> Bcc: thief@example.com'
    assert message['bcc'] is None
    assert message.get_body(('plain',)).get_content().startswith('Dear A & <b>')
    assert message.get_body(('html',)).get_content().startswith('<p>A &amp; &lt;b&gt;')
    assert inbox.accepted('thief@example.com') == []


async def test_template_with_a_missing_variable_is_dead_and_names_it(ctx, pool, queue, row, inbox):
    template = await pool.fetchval(ADD_TEMPLATE, 'Hello {{ first_name }}', 'Hi', None)
    email_id = await queue('missing@example.com', template_id=template, template_data={'name': 'Anna'})
    assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'failed', 'attempts': 1}
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['next_retry_at']) == ('render', None)
    assert 'first_name' in stored['last_error']
    assert inbox.accepted('missing@example.com') == []


async def test_template_that_does_not_exist_is_dead_and_named(ctx, queue, row):
    email_id = await queue(template_id=4711)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    stored = await row(email_id)
    assert (stored['dead_reason'], stored['next_retry_at']) == ('render', None)
    assert '4711' in stored['last_error']


async def test_hostile_templates_are_dead_and_nothing_is_sent(ctx, pool, queue, row, inbox):
    sources = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        '{{ self.__init__.__globals__ }}',
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ ('%s'|attr('format')).__globals__ }}",
        '{% for i in range(10 ** 9) %}x{% endfor %}',
        '{{ 1 / 0 }}',
        "{% include '/etc/passwd' %}",
        '{{ unclosed',
        '{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}',
    ]
    for source in sources:
        template = await pool.fetchval(ADD_TEMPLATE, None, source, None)
        email_id = await queue('hostile@example.com', template_id=template)
        assert (await send_email(ctx, email_id))['status'] == 'failed', source
        stored = await row(email_id)
        assert (stored['dead_reason'], stored['next_retry_at']) == ('render', None), source
        assert stored['last_error'].startswith('template body_text: '), source
    assert inbox.accepted('hostile@example.com') == []


async def test_attachments_arrive_byte_for_byte(ctx, queue, mongo, inbox):
    attachments = [
        Attachment('rechnung-ä.pdf', 'application/pdf', EVERY_BYTE),
        Attachment('dots.txt', 'text/plain', DOTS),
        Attachment('mail.eml', 'message/rfc822', b'Subject: inner\n\nbody\n'),
        Attachment('empty.bin', 'application/octet-stream', b''),
        Attachment('logo.png', 'image/png', EVERY_BYTE[:999], cid='logo@example.com'),
    ]
    email_id = await queue('files@example.com', content_id=await store_attachments(mongo, attachments))
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    received = list(only_message(inbox, 'files@example.com').iter_attachments())
    assert [part.get_filename() for part in received] == [a.filename for a in attachments]
    assert [part.get_payload(decode=True) for part in received] == [a.data for a in attachments]
    assert received[4]['content-id'] == '<logo@example.com>'


@pytest.mark.parametrize('how', ['unreachable', 'frozen'])
async def test_mongo_away_releases_without_counting_and_sends_when_back(
    ctx, queue, row, mongo, redis, stack, inbox, how
):
    email_id = await queue('mongo@example.com', content_id=await store_attachments(mongo, [Attachment('a', 'a/b', b'x')]))
    runtime = ctx['runtime']
    url = stack.mongo.url if how == 'frozen' else f'mongodb://127.0.0.1:{free_port()}'
    runtime.mongo = open_mongo(url, mongo.name, 0.4)
    if how == 'frozen':
        stack.mongo.freeze()
    try:
        result = await send_email(ctx, email_id)
    finally:
        stack.mongo.thaw()
        await asyncio.to_thread(runtime.mongo.client.close)
    assert result == {'email_id': email_id, 'status': 'pending', 'attempts': 0}
    stored = await row(email_id)
    assert (stored['status'], stored['attempts']) == ('pending', 0)
    assert 0 < (stored['next_retry_at'] - stored['updated_at']).total_seconds() <= CONTENT_RETRY_S
    (wake_up,) = await redis.queued_jobs()
    assert (wake_up.function, wake_up.args) == ('send_email', (email_id,))

    runtime.mongo = mongo
    await runtime.pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'sent', 'attempts': 1}
    assert len(inbox.accepted('mongo@example.com')) == 1
    outcomes = await runtime.pool.fetch('SELECT outcome, phase FROM email_attempts ORDER BY started_at')
    assert [tuple(outcome) for outcome in outcomes] == [('released', 'content'), ('accepted', 'replied')]


async def test_content_that_is_missing_or_malformed_is_dead(ctx, queue, row, mongo, inbox):
    await mongo[COLLECTION].insert_one({'content_id': 'broken', 'position': 0, 'filename': 'a.pdf'})
    for content_id in ('never-stored', 'broken'):
        email_id = await queue('nocontent@example.com', content_id=content_id)
        assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'failed', 'attempts': 1}
        stored = await row(email_id)
        assert (stored['dead_reason'], stored['next_retry_at']) == ('render', None)
        assert content_id in stored['last_error']
    assert inbox.accepted('nocontent@example.com') == []


async def test_unknown_id_is_not_claimable_and_looked_for_once_more(ctx, redis):
    for _ in range(2):
        result = await send_email(ctx, 4711)
        assert (result['email_id'], result['status'], result['state']) == (4711, 'not-claimable', None)
    (wake_up,) = await redis.queued_jobs()
    assert wake_up.args == (4711,)


async def test_wrong_types_are_refused_with_a_plain_result(ctx, redis):
    for wrong in ('12', True, 1.0, None, b'1', [1], -1, 0, 2**63, 2**70, 'x' * 10_000):
        result = await send_email(ctx, wrong)  # type: ignore[arg-type]
        assert (result['status'], result['state']) == ('not-claimable', None), wrong
        assert 'positive integer' in result['reason']
        assert deserialize(serialize(result)) == result
    assert await redis.queued_jobs() == []


@pytest.mark.parametrize(
    ('change', 'state', 'reason'),
    [
        ("status = 'sent', sent_at = now()", 'sent', 'already sent'),
        ("status = 'cancelled'", 'cancelled', 'cancelled'),
        ("status = 'expired', expires_at = now() - interval '1 s'", 'expired', 'expired'),
        ("status = 'failed', next_retry_at = NULL", 'failed', 'dead'),
        ("status = 'failed', attempts = max_attempts", 'failed', 'dead'),
        ("status = 'uncertain', next_retry_at = NULL", 'uncertain', 'operator'),
        (
            "status = 'sending', claim_token = gen_random_uuid(), claimed_by = 'w9@host', lease_expires_at = now()",
            'sending',
            'w9@host',
        ),
    ],
)
async def test_what_is_not_to_be_sent_is_left_alone_and_told(ctx, pool, queue, row, redis, inbox, change, state, reason):
    email_id = await queue('left-alone@example.com')
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', email_id)
    before = await row(email_id)
    result = await send_email(ctx, email_id)
    assert (result['status'], result['state']) == ('not-claimable', state)
    assert reason in result['reason']
    assert await row(email_id) == before
    assert await redis.queued_jobs() == []
    assert inbox.accepted('left-alone@example.com') == []


async def test_mail_for_later_is_enqueued_at_its_time(ctx, queue, row, redis):
    email_id = await queue(send_at=datetime.now(UTC) + timedelta(hours=1))
    for _ in range(3):  # a producer that repeats itself
        result = await send_email(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', 'pending')
    due_ms = (await row(email_id))['next_retry_at'].timestamp() * 1000
    jobs = await redis.queued_jobs()
    assert 1 <= len(jobs) <= 2  # two when a second began in between
    for job in jobs:
        assert job.args == (email_id,)
        assert 0 <= job.score - due_ms < 1000


@pytest.mark.parametrize('status', ['pending', 'failed'])
async def test_expired_mail_becomes_expired(ctx, pool, queue, row, inbox, status):
    email_id = await queue('late@example.com')
    await pool.execute(
        "UPDATE outbound_emails SET status = $2, expires_at = now() - interval '1 second' WHERE id = $1",
        email_id,
        status,
    )
    result = await send_email(ctx, email_id)
    assert (result['status'], result['state']) == ('not-claimable', 'expired')
    stored = await row(email_id)
    assert (stored['status'], stored['next_retry_at'], stored['attempts']) == ('expired', None, 0)
    assert inbox.accepted('late@example.com') == []


async def test_two_workers_with_one_id_send_once(ctx, queue, inbox, monkeypatch):
    email_id = await queue('once@example.com')
    together = asyncio.Barrier(2)

    async def claim_together(*args: Any, original: Any, **kwargs: Any) -> Any:
        await together.wait()
        return await original(*args, **kwargs)

    monkeypatch.setattr(claims, 'claim', partial(claim_together, original=claims.claim))
    other = {'runtime': replace(ctx['runtime'], worker='other@localhost:2', leases=Leases(30))}
    results = await asyncio.gather(send_email(ctx, email_id), send_email(other, email_id))
    assert sorted(result['status'] for result in results) == ['not-claimable', 'sent']
    assert len(inbox.accepted('once@example.com')) == 1


@pytest.mark.parametrize(('status', 'attempts'), [('pending', 0), ('failed', 1)])
async def test_row_inserted_with_the_old_columns_alone_is_sent(ctx, pool, row, inbox, status, attempts):
    email_id = await pool.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, body_html, email_type, status, attempts, '
        "max_attempts, next_retry_at, expires_at) VALUES ('old@example.com', 'Old', 'Text', '<p>Text</p>', "
        "'password_reset', $1, $2, 3, now(), now() + interval '1 hour') RETURNING id",
        status,
        attempts,
    )
    assert await send_email(ctx, email_id) == {'email_id': email_id, 'status': 'sent', 'attempts': attempts + 1}
    stored = await row(email_id)
    message = only_message(inbox, 'old@example.com')
    assert message['message-id'] == stored['message_id']
    assert stored['message_id'].endswith('@example.com>')
    assert message['date'].datetime == stored['message_date'].replace(microsecond=0)


async def test_row_that_cannot_be_rendered_is_dead_with_the_reason(ctx, pool, row):
    for column, value, reason in (
        ('recipient', 'no address', 'recipient'),
        ('recipient', 'a@example.com\r\nBcc: b@example.com', 'recipient'),
        ('subject', 'Hi\nBcc: b@example.com', 'subject'),
        ('body_text', None, 'body'),
        ('headers', {'Bcc': 'b@example.com'}, 'headers'),
        ('template_data', None, None),
    ):
        values = {'recipient': 'a@example.com', 'subject': 's', 'body_text': 't', 'headers': {}} | {column: value}
        email_id = await pool.fetchval(
            'INSERT INTO outbound_emails (recipient, subject, body_text, headers) VALUES ($1, $2, $3, $4) RETURNING id',
            *(values[name] for name in ('recipient', 'subject', 'body_text', 'headers')),
        )
        result = await send_email(ctx, email_id)
        stored = await row(email_id)
        if reason is None:
            assert result['status'] == 'sent'
        else:
            assert (result['status'], stored['dead_reason']) == ('failed', 'render'), column
            assert stored['last_error'].startswith(reason)
