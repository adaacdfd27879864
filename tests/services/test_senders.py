"""Who an e-mail may be from: asked when it is queued, and again before it is sent."""

import pytest

from db.senders import allow_senders, note_own_sender, read_senders, sender_pattern
from jobs.send_email import send_email
from mail.route import Relays
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.outbox import queue_emails
from tests.services.ops_desk import rendered, run
from tests.unit.scripted_relay import ScriptedRelay


@pytest.fixture
async def server(ctx):
    async with ScriptedRelay() as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        yield server


async def test_an_e_mail_is_from_whom_its_row_says_and_has_an_outcome_for_each_recipient(
    ctx, pool, queue, row, server
):
    await allow_senders(pool, ['billing@example.com', '@bounces.example.com'])
    email_id = await queue(
        ['anna@example.com'],
        from_address='Billing <Billing@example.com>',
        envelope_from='b+1@bounces.example.com',
        reply_to='help@example.com',
        cc=['Cora <cora@example.com>', 'carl@example.com'],
        bcc='boss@example.com',
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    everybody = ['anna@example.com', 'cora@example.com', 'carl@example.com', 'boss@example.com']
    assert server.recipients == everybody
    assert 'MAIL FROM:<b+1@bounces.example.com>' in server.sessions[0].lines[1]
    stored = await row(email_id)
    assert {to: said[0] for to, said in stored['recipient_outcomes'].items()} == dict.fromkeys(
        everybody, 'accepted'
    )
    [message] = server.bodies
    assert b'From: Billing <Billing@example.com>\r\n' in message
    assert b'Cc: Cora <cora@example.com>, carl@example.com\r\n' in message
    assert b'boss' not in message


@pytest.mark.parametrize('field', ['from_address', 'sender_address', 'envelope_from'])
async def test_sender_that_nobody_allowed_is_refused_when_it_is_queued_and_when_sent(
    env, ctx, pool, queue, row, server, field
):
    with pytest.raises(InvalidEmailError, match=rf'^{field}: eve@example\.org .*ops sender add'):
        await queue(**{field: 'eve@example.org'})
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0
    email_id = await pool.fetchval(
        f'INSERT INTO outbound_emails (recipient, subject, body_text, {field}) '
        "VALUES ('anna@example.com', 's', 't', 'eve@example.org') RETURNING id"
    )
    given = await run(env, 'explain', str(email_id))
    assert 'Nobody has allowed its sender' in rendered('explain', given)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    stored = await row(email_id)
    assert stored['dead_reason'] == 'render'
    assert f'{field}: eve@example.org is no allowed sender' in stored['last_error']
    assert server.bodies == []


async def test_an_organisations_sender_is_not_anothers(pool, queue):
    await allow_senders(pool, ['@tenant.example'], organization_id='7')
    assert await queue(from_address='a@tenant.example', organization_id=7)
    for other in (8, None):
        with pytest.raises(InvalidEmailError, match='from_address'):
            await queue(from_address='a@tenant.example', organization_id=other)


async def test_many_are_checked_each_and_nothing_is_queued_when_one_is_refused(pool):
    await allow_senders(pool, ['a@example.com'])
    letter = {'recipient': 'x@example.com', 'subject': 's', 'body_text': 't'}
    async with pool.acquire() as conn:
        good = letter | {'from_address': 'a@example.com'}
        assert len(await queue_emails(conn, [good, letter, good])) == 3
        with pytest.raises(InvalidEmailError, match='e-mail 1: from_address: b@example'):
            await queue_emails(conn, [good, letter | {'from_address': 'b@example.com'}])
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 3


async def test_the_workers_own_address_may_be_named(ctx, pool, queue, server):
    own = ctx['runtime'].tunables.sender.address
    await note_own_sender(pool, own)
    await note_own_sender(pool, own)  # each worker does
    assert (await send_email(ctx, await queue(from_address=f'Us <{own}>')))['status'] == 'sent'
    assert (await read_senders(pool, limit=9))[1][0]['source'] == 'SMTP_FROM_EMAIL'


async def test_operators_list_add_and_take_off_senders(env, pool):
    given = await run(env, 'sender', 'add', 'Billing@Bücher.example', '@example.com', '--dry-run')
    assert 'Would be added: billing@xn--bcher-kva.example' in rendered('sender', given)
    assert (await read_senders(pool, limit=9))[0] == 0
    words = ('@example.com', '--organization', '7', '--yes')
    given = await run(env, 'sender', 'add', *words)
    assert given.document['added'] == ['@example.com']
    given = await run(env, 'sender', 'add', *words)
    assert 'Allowed already: @example.com' in rendered('sender', given)
    given = await run(env, 'sender', 'ls', '--organization', '7')
    assert '@example.com' in rendered('sender', given)
    given = await run(env, 'sender', 'rm', '@example.com', '--yes')
    assert 'not on the list' in given.problems[0].line
    given = await run(env, 'sender', 'rm', *words)
    assert given.document['removed'] == ['@example.com']
    assert (await read_senders(pool, limit=9))[0] == 0


@pytest.mark.parametrize('text', ['', '@', 'nobody', 'a@b@c', '*@example.com\n'])
def test_what_is_no_address_is_no_pattern(text):
    with pytest.raises(InvalidEmailError):
        sender_pattern(text)


async def test_message_id_tags_and_metadata_are_kept_and_only_the_first_is_sent(
    ctx, queue, row, server
):
    email_id = await queue(
        message_id='order-5@shop.example',
        tags={'campaign': 'spring'},
        metadata={'order': {'id': 5}},
        headers=[('X-Tag', 'one'), ('X-Tag', 'two')],
    )
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    stored = await row(email_id)
    assert stored['message_id'] == '<order-5@shop.example>'
    assert (stored['tags'], stored['metadata']) == ({'campaign': 'spring'}, {'order': {'id': 5}})
    [message] = server.bodies
    assert b'Message-ID: <order-5@shop.example>\r\n' in message
    assert b'X-Tag: one\r\nX-Tag: two\r\n' in message
    assert b'spring' not in message


async def test_server_that_takes_no_writes_keeps_no_worker_from_starting(pool):
    async with pool.acquire() as conn, conn.transaction(readonly=True):
        await note_own_sender(conn, 'shop@example.com')
    assert (await read_senders(pool, limit=9))[0] == 0
