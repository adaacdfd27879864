"""What the job sends and fetches for it: templates from PostgreSQL, attachments from MongoDB."""

import asyncio
import json
from email import policy
from email.parser import BytesParser
from typing import Any

import pytest

from db.mongo import open_mongo
from dev.ports import free_port
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import CONTENT_RETRY_S, send_email
from mail_outbox.attachments import COLLECTION, store_attachments
from mail_outbox.envelope import Attachment, InvalidEmailError
from tests.services.other_worker import another

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


async def test_template_fills_every_part_and_escapes_in_html_alone(ctx, pool, queue, inbox):
    template = await pool.fetchval(
        ADD_TEMPLATE, 'Hello {{ name }}', 'Dear {{ name }}', '<p>{{ name }}</p>'
    )
    data = {'name': 'A & <b>\r\nBcc: thief@example.com'}
    email_id = await queue(
        'template@example.com', template_id=template, template_data=data, body_text='not this'
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    message = only_message(inbox, 'template@example.com')
    assert message['subject'] == 'Hello A & <b> Bcc: thief@example.com'
    assert message['bcc'] is None
    assert message.get_body(('plain',)).get_content().startswith('Dear A & <b>')
    assert message.get_body(('html',)).get_content().startswith('<p>A &amp; &lt;b&gt;')
    assert inbox.accepted('thief@example.com') == []


async def test_template_with_a_missing_variable_is_dead_and_names_it(ctx, pool, queue, row, inbox):
    template = await pool.fetchval(ADD_TEMPLATE, 'Hello {{ first_name }}', 'Hi', None)
    email_id = await queue(
        'missing@example.com', template_id=template, template_data={'name': 'Anna'}
    )
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 1,
    }
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
    email_id = await queue(
        'files@example.com', content_id=await store_attachments(mongo, attachments)
    )
    assert (await asyncio.wait_for(send_email(ctx, email_id), 15))['status'] == 'sent'
    received = list(only_message(inbox, 'files@example.com').iter_attachments())
    assert [part.get_filename() for part in received] == [a.filename for a in attachments]
    (message,) = (part for part in received if part.get_content_type() == 'message/rfc822')
    assert (message.get_content()['Subject'], message.get_content().get_content()) == (
        'inner',
        'body\r\n',
    )
    files = [a for a in attachments if a.content_type != 'message/rfc822']
    assert [part.get_payload(decode=True) for part in received if part is not message] == [
        a.data for a in files
    ]
    assert received[4]['content-id'] == '<logo@example.com>'


@pytest.mark.parametrize('how', ['unreachable', 'frozen'])
async def test_mongo_away_releases_without_counting_and_sends_when_back(
    ctx, pool, queue, row, mongo, redis, stack, inbox, how
):
    email_id = await queue(
        'mongo@example.com',
        content_id=await store_attachments(mongo, [Attachment('a', 'a/b', b'x')]),
    )
    url = stack.mongo.url if how == 'frozen' else f'mongodb://127.0.0.1:{free_port()}'
    away = open_mongo(url, mongo.name, 0.4)
    if how == 'frozen':
        stack.mongo.freeze()
    try:
        result = await send_email({'runtime': another(ctx['runtime'], mongo=away)}, email_id)
    finally:
        stack.mongo.thaw()
        await asyncio.to_thread(away.client.close)
    assert result == {'email_id': email_id, 'status': 'pending', 'attempts': 0}
    stored = await row(email_id)
    assert (stored['status'], stored['attempts']) == ('pending', 0)
    assert 0 < (stored['next_retry_at'] - stored['updated_at']).total_seconds() <= CONTENT_RETRY_S
    (wake_up,) = await redis.queued_jobs()
    assert (wake_up.function, wake_up.args) == ('send_email', (email_id,))

    await pool.execute(MAKE_DUE, email_id)
    assert await send_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'sent',
        'attempts': 1,
    }
    assert len(inbox.accepted('mongo@example.com')) == 1
    outcomes = await pool.fetch('SELECT outcome, phase FROM email_attempts ORDER BY started_at')
    assert [tuple(outcome) for outcome in outcomes] == [
        ('released', 'content'),
        ('accepted', 'replied'),
    ]


async def test_content_that_is_missing_or_malformed_is_dead(ctx, queue, row, mongo, inbox):
    await mongo[COLLECTION].insert_one({'content_id': 'broken', 'position': 0, 'filename': 'a.pdf'})
    for content_id, named in (('never-stored', 'never-stored'), ('broken', 'a.pdf')):
        email_id = await queue('nocontent@example.com', content_id=content_id)
        assert await send_email(ctx, email_id) == {
            'email_id': email_id,
            'status': 'failed',
            'attempts': 1,
        }
        stored = await row(email_id)
        assert (stored['dead_reason'], stored['next_retry_at']) == ('render', None)
        assert named in stored['last_error']
    assert inbox.accepted('nocontent@example.com') == []


async def test_malformed_content_of_one_mail_spoils_no_other_at_the_same_time(
    ctx, queue, mongo, inbox
):
    await mongo[COLLECTION].insert_one({'content_id': 'broken', 'position': 0, 'filename': 'a.pdf'})
    fine = await store_attachments(mongo, [Attachment('a', 'a/b', b'x')])
    ids = [
        await queue(f'{n}@example.com', content_id=content_id)
        for n, content_id in enumerate(['broken', fine])
    ]
    results = await asyncio.gather(*(send_email(ctx, email_id) for email_id in ids))
    assert [result['status'] for result in results] == ['failed', 'sent']
    assert len(inbox.accepted('1@example.com')) == 1


async def test_templates_of_mails_at_the_same_time_are_not_mixed_up(ctx, pool, queue, inbox):
    templates = [
        await pool.fetchval(ADD_TEMPLATE, f'Template {n}', '{{ n }}', None) for n in range(5)
    ]
    used = [*templates, *templates, 4711]
    ids = [
        await queue(f'mixed{n}@example.com', template_id=t, template_data={'n': n})
        for n, t in enumerate(used)
    ]
    results = await asyncio.gather(*(send_email(ctx, email_id) for email_id in ids))
    assert [result['status'] for result in results] == ['sent'] * 10 + ['failed']
    for n in range(10):
        message = only_message(inbox, f'mixed{n}@example.com')
        assert (message['subject'], message.get_content().strip()) == (f'Template {n % 5}', str(n))


async def test_row_that_cannot_be_rendered_is_dead_with_the_reason(ctx, pool, row):
    for column, value, reason in (
        ('recipient', 'no address', 'recipient'),
        ('recipient', 'a@example.com\r\nBcc: b@example.com', 'recipient'),
        ('subject', 'Hi\nBcc: b@example.com', 'subject'),
        ('body_text', None, 'body'),
        ('headers', {'Bcc': 'b@example.com'}, 'headers'),
    ):
        values = {'recipient': 'a@example.com', 'subject': 's', 'body_text': 't', 'headers': {}} | {
            column: value
        }
        email_id = await pool.fetchval(
            (
                'INSERT INTO outbound_emails (recipient, subject, body_text, headers) VALUES '
                '($1, $2, $3, $4) RETURNING id'
            ),
            *(values[name] for name in ('recipient', 'subject', 'body_text', 'headers')),
        )
        result = await send_email(ctx, email_id)
        stored = await row(email_id)
        assert (result['status'], stored['dead_reason']) == ('failed', 'render'), column
        assert stored['last_error'].startswith(reason)


async def test_attachments_that_another_program_stored_without_a_name_or_a_type_are_sent(
    ctx, queue, mongo, inbox
):
    document = {
        'position': 0,
        'filename': None,
        'content_type': None,
        'cid': '<x@example.com>',
        'data': b'x',
    }
    await mongo[COLLECTION].insert_one(document | {'content_id': 'theirs'})
    assert (await send_email(ctx, await queue('theirs@example.com', content_id='theirs')))[
        'status'
    ] == 'sent'
    (part,) = only_message(inbox, 'theirs@example.com').iter_attachments()
    assert (part.get_content_type(), part.get_filename()) == ('application/octet-stream', None)
    assert (part['Content-ID'], part.get_content()) == ('<x@example.com>', b'x')


async def test_attachment_that_can_never_be_sent_is_not_stored(mongo):
    for attachment in (
        Attachment('a\nb', 'a/b', b''),
        Attachment('a', 'pdf', b''),
        Attachment('a', 'a/b', b'', cid='x y'),
        Attachment('a', 'a/b', b'x' * 20_000_000),
    ):
        with pytest.raises(InvalidEmailError, match=r'^attachment'):
            await store_attachments(mongo, [Attachment('good', 'a/b', b''), attachment])
    assert await mongo[COLLECTION].count_documents({}) == 0


HOSTILE = {
    'recipient': (
        '(é)' * 10_660 + '@example.org',
        '"' * 16_000,
        ',' * 16_000,
        '(' * 16_000,
        '"',
        'a@b@example.org',
    ),
    'message_id': ('<1@example.com>\r\nBcc: eve@example.com', '<ü@example.com>', 'x' * 1000),
    'headers': (
        '{"Reply-To": "anna"}',
        json.dumps({'Reply-To': '"' * 30_000}),
        json.dumps({'References': '<ü@example.com>' * 3000}),
        json.dumps({f'X-{i}': 'x' for i in range(50_000)}),
    ),
    'subject': ('a\r\nBcc: eve@example.com', 'x' * 100_000),
}


async def test_hostile_rows_are_dead_by_the_name_of_their_field_and_the_others_are_sent(
    ctx, pool, queue, row, inbox
):
    hostile = {}
    for column, values in HOSTILE.items():
        for value in values:
            email_id = await queue('eve@example.com')
            await pool.execute(
                f'UPDATE outbound_emails SET {column} = $2 WHERE id = $1', email_id, value
            )
            hostile[email_id] = column
    innocent = [await queue(f'innocent{i}@example.com') for i in range(20)]
    await process_pending_emails(ctx)
    for email_id, column in hostile.items():
        stored = await row(email_id)
        assert (stored['status'], stored['dead_reason'], stored['attempts']) == (
            'failed',
            'render',
            1,
        )
        assert stored['last_error'].startswith(f'{column}: ')
    assert [(await row(email_id))['status'] for email_id in innocent] == ['sent'] * 20
    assert inbox.accepted('eve@example.com') == []
