"""Attachments in PostgreSQL: stored with their row, sent with it, and deleted with it."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta

import pytest

import delivery.assemble
from db.attachments import delete_unowned, list_stored
from delivery.content import Contents
from jobs.check_service_health import check_service_health
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.send_email import send_email
from mail.route import Relays
from mail_outbox.envelope import Attachment, InvalidEmailError
from mail_outbox.outbox import queue_email, queue_emails
from tests.conftest import wait_until
from tests.services.ops_desk import rendered, run
from tests.unit.scripted_relay import ScriptedRelay

PDF = Attachment('receipt.pdf', None, b'%PDF-1.7 \0\xff')
LOGO = Attachment('logo.png', None, b'\x89PNG', cid='logo')
LETTER = {'recipient': 'anna@example.com', 'subject': 's', 'body_text': 't'}


@pytest.fixture
async def server(ctx):
    async with ScriptedRelay() as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        yield server


@pytest.fixture
def no_mongo(ctx):
    """The worker of an installation without MongoDB."""
    runtime = ctx['runtime']
    runtime.stores = replace(runtime.stores, mongo=None)
    contents = runtime.contents
    runtime.contents = Contents(
        runtime.stores.pool, None, contents.max_message_bytes, contents.large, runtime.tunables
    )
    runtime.steps = delivery.assemble._steps(runtime)


@pytest.mark.usefixtures('no_mongo')
async def test_attachments_are_stored_in_the_callers_transaction_and_sent(ctx, pool, queue, server):
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await queue_email(conn, **LETTER, attachments=[PDF])
        await transaction.rollback()
    assert await pool.fetchval('SELECT count(*) FROM email_attachments') == 0
    email_id = await queue(attachments=[PDF, LOGO], body_html='<img src="cid:logo">')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    [message] = server.bodies
    assert b'Content-Type: application/pdf\r\n' in message
    assert b'multipart/related' in message
    assert b'Content-Type: image/png\r\n' in message


async def test_large_attachments_wait_for_room_like_other_large_content(ctx, queue, server):
    data = os.urandom(3_000_000)
    email_id = await queue(attachments=[Attachment('a.bin', None, data)])
    claim = await ctx['runtime'].claimer.claim_one(email_id)
    assert claim.is_whole
    assert await ctx['runtime'].contents.large_bytes(claim) == len(data)
    _, content = await ctx['runtime'].contents.fetch(claim)
    assert content.attachments[0].data == data


async def test_many_e_mails_have_each_its_own_attachments(pool):
    letters = [
        LETTER | {'attachments': [Attachment(f'{n}-{i}.txt', None, b'x') for i in range(n)]}
        for n in range(4)
    ]
    async with pool.acquire() as conn:
        ids = await queue_emails(conn, letters)
    for n, email_id in enumerate(ids):
        names = [row['filename'] for row in await list_stored(pool, email_id)]
        assert names == [f'{n}-{i}.txt' for i in range(n)]


async def test_known_key_adds_no_attachments_to_the_first_e_mail(pool):
    async with pool.acquire() as conn:
        plain = await queue_email(conn, **LETTER, idempotency_key='plain')
        with_pdf = await queue_email(
            conn, **LETTER, idempotency_key='pdf', attachments=[PDF], organization_id=1
        )
        again = await queue_email(
            conn, **LETTER, idempotency_key='pdf', attachments=[PDF], organization_id=1
        )
    assert again == with_pdf
    assert len(await list_stored(pool, with_pdf)) == 1
    assert await list_stored(pool, plain) == []


@pytest.mark.parametrize(
    ('attachments', 'why'),
    [
        ([Attachment('a', 'no type', b'')], 'is no content type'),
        ([Attachment('a\n', None, b'')], 'not a file name'),
        ([Attachment('a', None, 'text')], 'data must be bytes, not str'),
        ([b'x'], 'attachments: has a bytes'),
        (b'x', 'attachments: must be a list'),
        ([Attachment('a', None, b'x' * 2000)], 'attachments: 2666 bytes in base64'),
        ([PDF] * 501, 'attachments: 501'),
    ],
)
async def test_attachments_that_can_never_be_sent_are_refused_when_queued(
    pool, queue, attachments, why
):
    with pytest.raises(InvalidEmailError, match=why):
        await queue(attachments=attachments, max_bytes=1000)
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_row_whose_attachments_are_gone_is_dead_and_explained(env, ctx, pool, queue, row):
    email_id = await queue(attachments=[PDF])
    given = await run(env, 'show', str(email_id))
    assert given.document['attachments'] == [
        {'filename': 'receipt.pdf', 'content_type': None, 'cid': None, 'size_bytes': 11}
    ]
    assert 'receipt.pdf' in rendered('show', given)
    await pool.execute('DELETE FROM email_attachments')
    given = await run(env, 'explain', str(email_id))
    assert 'Its attachments are gone.' in rendered('explain', given)
    findings = (await run(env, 'doctor', 'content')).document['findings']
    assert any('email_attachments does not have' in finding['what'] for finding in findings)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    assert 'email_attachments has none' in (await row(email_id))['last_error']


async def test_retention_deletes_attachments_with_their_row_and_orphans_later(ctx, pool, queue):
    old, kept, orphaned = [await queue(attachments=[PDF, LOGO]) for _ in range(3)]
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now(), "
        "created_at = now() - interval '1 year', updated_at = now() - interval '1 year' "
        'WHERE id = $1',
        old,
    )
    await pool.execute('DELETE FROM outbound_emails WHERE id = $1', orphaned)
    assert (await cleanup_expired_emails(ctx))['removed'] == 1
    ids = {row[0] for row in await pool.fetch('SELECT email_id FROM email_attachments')}
    assert ids == {kept, orphaned}
    assert await delete_unowned(pool, timedelta(0)) == 2
    assert len(await list_stored(pool, kept)) == 2


@pytest.mark.usefixtures('no_mongo')
async def test_without_mongodb_duties_leave_it_out_and_its_mail_waits(ctx, queue, row, server):
    assert 'mongodb' not in (await check_service_health(ctx))['services']
    assert (await cleanup_expired_emails(ctx))['content_removed'] == 0
    email_id = await queue(content_id='c1')
    assert (await send_email(ctx, email_id)) == {
        'email_id': email_id,
        'status': 'pending',
        'attempts': 0,
    }
    assert 'MONGODB_URL is not set' in (await row(email_id))['last_error']


async def test_worker_and_doctor_do_without_mongodb(env, start_worker, pool, inbox, queue):
    without = env | {'MONGODB_URL': ''}
    await start_worker(MONGODB_URL='').started()
    email_id = await queue(attachments=[PDF])
    async with asyncio.timeout(30):
        await wait_until(lambda: inbox.accepted('anna@example.com'))
    assert email_id
    findings = (await run(without, 'doctor')).document['findings']
    assert [f for f in findings if 'Mongo' in str(f)] == []
    await queue(content_id='c1')
    findings = (await run(without, 'doctor', 'content')).document['findings']
    assert any('attachments in MongoDB, and there is none' in f['what'] for f in findings)
