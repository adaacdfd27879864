"""EMAIL_DROP_CONTENT: what an e-mail said is gone once it is sent, and not before."""

from dataclasses import replace
from typing import Any

import pytest

from actions.readdress import readdress
from actions.retry import RetryTerms, retry_ids, retry_selected
from actions.safety import RequestError
from db.leases import rescue
from db.personal import find_person, person_of
from delivery.rules import EVERY_TYPE
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_claimed, send_email
from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import Attachment
from reporting.mail_filter import MailFilter
from reporting.servers import ServerAddresses, Servers

PDF = Attachment('invoice.pdf', 'application/pdf', b'%PDF-1.7')
SAID = ('body_text', 'body_html', 'template_data', 'calendar', 'raw_message', 'content_id')


@pytest.fixture
def drop(runtime: Any, monkeypatch: Any) -> Any:
    """Name the types whose content goes."""

    def drop(*types: str) -> None:
        rules = runtime.recorder._rules
        retention = replace(rules.retention, drop_content=frozenset(types))
        monkeypatch.setattr(runtime.recorder, '_rules', replace(rules, retention=retention))

    return drop


async def test_what_it_said_is_gone_and_what_became_of_it_stays(ctx, pool, queue, row, inbox, drop):
    drop('password_reset')
    email_id = await queue(
        'gone@example.com', email_type='password_reset', subject='Reset',
        body_text='secret link', body_html='<p>secret link</p>', attachments=[PDF],
    )  # fmt: skip
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    (entry,) = inbox.accepted('gone@example.com')
    assert b'secret link' in inbox.message(entry)
    stored = await row(email_id)
    assert [stored[name] for name in SAID] == ['', '', None, None, b'', None]
    assert (stored['recipient'], stored['subject'], stored['smtp_code']) == (
        'gone@example.com', 'Reset', 250,
    )  # fmt: skip
    assert await pool.fetchval('SELECT count(*) FROM email_attachments') == 0
    assert 'secret' not in str(stored)


async def test_template_data_and_finished_messages_go_as_well(ctx, pool, queue, row, drop):
    drop(EVERY_TYPE)
    template = await pool.fetchval(
        'INSERT INTO email_templates (name, subject, body_text) '
        "VALUES (gen_random_uuid()::text, 'Hi', '{{ code }}') RETURNING id"
    )
    filled = await queue(template_id=template, template_data={'code': '4711'}, body_text=None)
    await pool.execute("INSERT INTO allowed_senders (pattern) VALUES ('@example.com')")
    raw = await queue(
        raw=b'From: noreply@example.com\r\nSubject: x\r\n\r\n4711\r\n', subject=None, body_text=None
    )
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 2}
    for email_id in (filled, raw):
        stored = await row(email_id)
        assert stored['status'] == 'sent'
        assert '4711' not in str(stored)


async def test_other_types_and_what_is_not_sent_keep_it(ctx, queue, row, drop):
    drop('newsletter')
    receipt = await queue(email_type='receipt', body_text='A receipt')
    refused = await queue('dead+5xx-rcpt@example.com', email_type='newsletter', body_text='News')
    untyped = await queue(email_type=None, body_text='Plain')
    await process_pending_emails(ctx)
    assert [(await row(i))['body_text'] for i in (receipt, refused, untyped)] == [
        'A receipt', 'News', 'Plain',
    ]  # fmt: skip


async def test_types_in_one_batch_are_told_apart(ctx, pool, queue, drop):
    drop('newsletter')
    for kind in ('newsletter', 'receipt') * 20:
        await queue(f'{kind}@example.com', email_type=kind, body_text='Words')
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 40}
    rows = await pool.fetch(
        'SELECT email_type, body_text, count(*) FROM outbound_emails GROUP BY 1, 2 ORDER BY 1'
    )
    assert [tuple(row) for row in rows] == [('newsletter', '', 20), ('receipt', 'Words', 20)]
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 40


async def test_files_in_mongodb_are_orphans_from_then_on(ctx, mongo, queue, row, drop):
    drop(EVERY_TYPE)
    content_id = await store_attachments(mongo, [PDF])
    email_id = await queue(content_id=content_id)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert (await row(email_id))['content_id'] is None


async def test_application_whose_column_refuses_it_keeps_it_and_the_result(
    ctx, pool, queue, row, inbox, drop
):
    drop(EVERY_TYPE)
    await pool.execute("ALTER TABLE outbound_emails ADD CHECK (body_text <> '')")
    email_id = await queue('kept@example.com', body_text='Words')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    stored = await row(email_id)
    assert (stored['status'], stored['body_text']) == ('sent', 'Words')
    assert len(inbox.accepted('kept@example.com')) == 1
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 1


async def test_one_email_that_has_to_keep_it_keeps_no_other_one(ctx, pool, queue, drop):
    drop(EVERY_TYPE)
    for to in ('a', 'kept', 'b'):
        await queue(f'{to}@example.com', body_text='Words')
    await pool.execute(
        "ALTER TABLE outbound_emails ADD CHECK (body_text <> '' OR recipient <> 'kept@example.com')"
    )
    assert (await process_pending_emails(ctx))['outcomes'] == {'sent': 3}
    rows = await pool.fetch('SELECT recipient, body_text FROM outbound_emails ORDER BY id')
    assert [tuple(row) for row in rows] == [
        ('a@example.com', ''), ('kept@example.com', 'Words'), ('b@example.com', ''),
    ]  # fmt: skip
    assert await pool.fetchval('SELECT count(*) FROM email_attempts') == 3


@pytest.mark.parametrize(('change', 'says'), [('rescued', ''), ('cancelled', 'Words')])
async def test_result_that_comes_after_its_lease_deletes_it_where_the_row_says_sent(
    ctx, pool, queue, row, drop, change, says
):
    drop(EVERY_TYPE)
    email_id = await queue(body_text='Words', attachments=[PDF])
    claim = await ctx['runtime'].claimer.claim_one(email_id)
    if change == 'rescued':
        await pool.execute("UPDATE mail_outbox SET lease_expires_at = now() - interval '1 minute'")
        await rescue(pool, [])
    else:  # by an operator, who had the last word in the row
        await pool.execute("UPDATE outbound_emails SET status = 'cancelled'")
    await send_claimed(ctx['runtime'].steps, claim)
    stored = await row(email_id)
    assert (stored['status'], stored['body_text']) == (
        'sent' if change == 'rescued' else 'cancelled', says,
    )  # fmt: skip
    assert await pool.fetchval('SELECT count(*) FROM email_attachments') == bool(says)


TERMS = RetryTerms(expiry_hours=24.0, queue='arq:queue')


@pytest.fixture
async def servers(env):
    asked = Servers(ServerAddresses(env['DATABASE_URL'], env['ARQ_REDIS_URL']))
    yield asked
    await asked.close()


@pytest.mark.parametrize('parts', [{}, {'body_html': '<p>Hi</p>'}, {'one_copy_each': True}])
async def test_nobody_gets_an_empty_email_when_one_without_content_is_made_due_again(
    ctx, pool, queue, row, inbox, drop, servers, parts
):
    drop(EVERY_TYPE)
    email_id = await queue('once@example.com', body_text='Words', **parts)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    await pool.execute("UPDATE outbound_emails SET status = 'bounced', feedback_at = now()")
    done = await retry_ids(servers, [email_id], TERMS)
    assert (done.retried, [left.reason for left in done.unchanged]) == (
        [], ['what it said was deleted when it was sent (EMAIL_DROP_CONTENT): queue a new one'],
    )  # fmt: skip
    many = await retry_selected(servers, 'bounced', MailFilter(), TERMS, limit=10)
    assert (many.retried, many.passed_over) == ([], 1)
    assert 'EMAIL_DROP_CONTENT' in many.warnings[0]
    with pytest.raises(RequestError, match='EMAIL_DROP_CONTENT'):
        await readdress(servers, email_id, 'other@example.com', TERMS)
    assert (await row(email_id))['status'] == 'bounced'
    await pool.execute("UPDATE outbound_emails SET status = 'pending', next_retry_at = now()")
    assert (await process_pending_emails(ctx))['outcomes'] == {'failed': 1}
    stored = await row(email_id)
    assert (stored['status'], stored['dead_reason']) == ('failed', 'render')
    assert 'EMAIL_DROP_CONTENT' in stored['last_error']
    assert len(inbox.accepted('once@example.com')) == 1


async def test_somebody_erased_leaves_the_others_of_an_email_without_content(
    ctx, pool, queue, drop
):
    drop(EVERY_TYPE)
    email_id = await queue('anna@example.com, ben@example.com')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    found = await find_person(pool, person_of('anna@example.com'))
    assert (found.alone, found.shared) == ([], [email_id])
