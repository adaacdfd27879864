"""What an e-mail can be, from queue_email to the relay: as given, an invite, one copy each."""

import pytest

from db.senders import allow_senders
from jobs.send_email import send_email
from mail.route import Relays
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.outbox import queue_email
from tests.services.ops_desk import rendered, run
from tests.unit.scripted_relay import ScriptedRelay
from tests.unit.test_invitation import INVITE

OFFERS_BOTH = {'EHLO': '250-relay.test\r\n250-8BITMIME\r\n250 SMTPUTF8'}
NOTHING = {'subject': None, 'body_text': None}
RAW = (
    b'From: Shop <shop@example.com>\nTo: anna@example.com\nBcc: boss@example.com\n'
    b'Message-ID: <5@shop.example>\nDate: Thu, 05 Nov 2026 09:30:00 +0000\n\n\xfcber\n'
)


@pytest.fixture
async def server(ctx):
    async with ScriptedRelay(OFFERS_BOTH) as server:
        ctx['runtime'].tunables.relays = Relays([server.relay()])
        yield server


async def test_message_as_given_is_sent_to_whom_it_names(env, ctx, pool, row, server):
    await allow_senders(pool, ['shop@example.com'])
    async with pool.acquire() as conn:
        email_id = await queue_email(conn, recipient='', raw=RAW)
    stored = await row(email_id)
    assert stored['recipient'] == 'anna@example.com, boss@example.com'
    assert stored['message_id'] == '<5@shop.example>'
    given = await run(env, 'show', str(email_id))
    assert f'raw message bytes {len(RAW)}' in ' '.join(rendered('show', given).split())
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert server.recipients == ['anna@example.com', 'boss@example.com']
    assert server.sessions[0].lines[1] == 'MAIL FROM:<shop@example.com> BODY=8BITMIME'
    [message] = server.bodies
    assert message == RAW.replace(b'Bcc: boss@example.com\n', b'').replace(b'\n', b'\r\n')


async def test_writer_of_a_message_as_given_must_be_allowed(ctx, pool, queue, row, server):
    with pytest.raises(InvalidEmailError, match=r'raw: from: shop@example\.com is no allowed'):
        await queue('x@example.com', raw=RAW, subject=None, body_text=None)
    email_id = await pool.fetchval(
        "INSERT INTO outbound_emails (recipient, raw_message) VALUES ('', $1) RETURNING id", RAW
    )
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    assert 'raw: from: shop@example.com is no allowed' in (await row(email_id))['last_error']
    await allow_senders(pool, ['@example.com'])
    await pool.execute("UPDATE outbound_emails SET status = 'pending', next_retry_at = now()")
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert server.recipients == ['anna@example.com', 'boss@example.com']


@pytest.mark.parametrize(
    ('parts', 'why'),
    [
        ({'raw': RAW}, 'subject: cannot be given with raw'),
        ({'raw': RAW, **NOTHING, 'headers': {'X': 'y'}}, '^headers: cannot'),
        ({'raw': 'text', **NOTHING}, '^raw: must be bytes'),
        ({'raw': b'', **NOTHING}, '^raw: has no From'),
        ({'calendar': 'x'}, '^calendar: must be iCalendar'),
        ({'one_copy_each': True, 'cc': 'a@example.com'}, '^one_copy_each: '),
    ],
)  # fmt: skip
async def test_what_can_never_be_sent_is_refused_when_it_is_queued(queue, parts, why):
    with pytest.raises(InvalidEmailError, match=why):
        await queue(**parts)


async def test_invite_goes_beside_the_body(ctx, queue, server):
    email_id = await queue(calendar=INVITE)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    [message] = server.bodies
    assert b'Content-Type: text/calendar; charset="utf-8"; method=REQUEST\r\n' in message


async def test_one_copy_each_has_an_outcome_of_its_own_and_goes_on_where_it_was(
    ctx, queue, row, server
):
    everybody = ['anna@example.com', 'bob@example.com', 'jörg@example.com']
    server.script['RCPT <bob@example.com>'] = '451 4.2.1 later'
    email_id = await queue(everybody, one_copy_each=True)
    assert (await send_email(ctx, email_id))['status'] == 'failed'
    outcomes = (await row(email_id))['recipient_outcomes']
    assert [outcomes[to][0] for to in everybody] == ['accepted', 'deferred', 'accepted']
    assert len(server.bodies) == 2
    del server.script['RCPT <bob@example.com>']
    await ctx['runtime'].stores.pool.execute('UPDATE outbound_emails SET next_retry_at = now()')
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    assert len(server.bodies) == 3
    assert b'To: bob@example.com\r\n' in server.bodies[-1]


async def test_large_message_as_given_waits_for_room_and_is_read_beside_the_loop(
    env, ctx, pool, queue, row, server
):
    await allow_senders(pool, ['shop@example.com'])
    large = RAW + b'x' * 70 + b'\n' + b'y\n' * 1_000_000
    email_id = await queue('', raw=large, **NOTHING)
    explained = await run(env, 'explain', str(email_id))
    assert 'cannot be read' not in rendered('explain', explained)
    claim = await ctx['runtime'].claimer.claim_one(email_id)
    assert not claim.is_whole
    assert claim.email.raw_message is None
    assert await ctx['runtime'].contents.large_bytes(claim) > len(large)
    email, content = await ctx['runtime'].contents.fetch(claim)
    await ctx['runtime'].steps.check_senders(email)
    done = await ctx['runtime'].contents.render(claim, email, content)
    assert done.envelope.recipients == ('anna@example.com', 'boss@example.com')
