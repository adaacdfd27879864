"""Mail by SMTP into the outbox: what is stored, what is refused, and when 250 is said."""

import asyncio
import base64
import smtplib
import time
from email.message import EmailMessage

import pytest

from actions.tokens import ApiScope, create_token
from db.audit import Actor
from db.senders import allow_senders
from db.wakeups import CHANNEL
from ingress.incoming import MAX_DISCARDED_BYTES
from reporting.servers import ServerAddresses, Servers
from tests.conftest import DEADLINE_S, wait_until
from tests.services.gate import Gate, Way
from tests.services.ingress_desk import MESSAGE, open_ingress


@pytest.fixture
async def desk(database):
    async with open_ingress(database.dsn) as desk:
        yield desk


@pytest.fixture
async def token_for(database):
    """Make a token with these scopes."""
    servers = Servers(ServerAddresses(database.dsn, ''))

    async def make(*scopes, **more):
        name = f'token {len(scopes)} {more}'
        made = await create_token(servers, name, scopes, by=Actor('anna', 'tests'), **more)
        return made.token

    yield make
    await servers.close()


def send(data=MESSAGE, sender='noreply@example.com', recipients=('anna@example.com',), options=()):
    return lambda client: client.sendmail(sender, recipients, data, options)


def stuffed(data):
    return data.replace(b'\r\n.', b'\r\n..')


async def stored(pool):
    return await pool.fetch('SELECT * FROM outbound_emails ORDER BY id')


async def refusal(desk, talk):
    """The code and the text with which a message is refused."""
    with pytest.raises(smtplib.SMTPResponseException) as caught:
        await desk.smtplib(talk)
    return caught.value.smtp_code, caught.value.smtp_error.decode()


async def test_message_is_stored_as_it_is_with_its_envelope_and_wakes_workers(desk, pool):
    woken = asyncio.Event()
    async with pool.acquire() as conn:
        await conn.add_listener(CHANNEL, lambda *_: woken.set())
        refused = await desk.smtplib(send(recipients=['anna@example.com', 'bert@example.org']))
        async with asyncio.timeout(DEADLINE_S):
            await woken.wait()
        await conn.reset()
    assert refused == {}
    (row,) = await stored(pool)
    assert bytes(row['raw_message']) == MESSAGE
    assert row['recipient'] == 'anna@example.com, bert@example.org'
    assert (row['envelope_from'], row['status']) == ('noreply@example.com', 'pending')
    assert (row['message_id'], row['idempotency_key']) == ('<1@example.com>', None)


async def test_worker_sends_it_byte_for_byte_but_for_bcc(desk, pool, inbox, start_worker):
    signed = (
        b'DKIM-Signature: v=1; a=rsa-sha256; d=example.com;\r\n\tbh=abc=;\r\n b=def=\r\n'
        b'From: noreply@example.com\r\nTo: "Anna, B" <anna@example.com>\r\n'
        b'Bcc: hidden@example.com\r\nSUBJECT:no space\r\nDate: Mon, 30 Nov 2026 10:00:00 +0000\r\n'
        b'Message-ID: <dots@example.com>\r\nMIME-Version: 1.0\r\n'
        b'Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
        b'.\r\n..\r\n.dot\r\n  gr\xc3\xbc\xc3\x9fe \t \r\n\r\n\r\nFrom here\r\n.\r\n'
    )
    start_worker()
    await desk.smtplib(send(signed, recipients=['anna@example.com', 'hidden@example.com'],
                            options=['BODY=8BITMIME']))  # fmt: skip
    entry = (await wait_until(lambda: inbox.accepted('hidden@example.com')))[0]
    assert inbox.message(entry) == signed.replace(b'Bcc: hidden@example.com\r\n', b'')
    assert sorted(entry['rcpt_to']) == ['anna@example.com', 'hidden@example.com']


async def test_international_addresses_and_header_are_taken_with_smtputf8(desk, pool):
    message = EmailMessage()
    message['From'], message['To'] = 'noreply@example.com', 'bücher@exämple.com'
    message['Subject'] = 'Grüße'
    message.set_content('Hello')
    await desk.smtplib(lambda client: client.send_message(message))
    (row,) = await stored(pool)
    assert row['recipient'] == 'bücher@xn--exmple-cua.com'
    assert 'bücher@exämple.com'.encode() in bytes(row['raw_message'])


async def test_null_sender_is_taken(desk, pool):
    client = await desk.connect()
    assert (await client.begins(b'')).startswith('354')
    assert (await client.says(MESSAGE + b'.\r\n')).startswith('250 2.0.0 queued as 1')
    assert (await stored(pool))[0]['envelope_from'] == '<>'


async def test_one_connection_brings_many_messages_pipelined(desk, pool):
    client = await desk.connect()
    await client.says(b'EHLO client.example.com\r\n')
    for _ in range(5):
        client.writer.write(
            b'MAIL FROM:<noreply@example.com>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n'
        )
        assert [(await client.reply())[:3] for _ in range(3)] == ['250', '250', '354']
        # What comes behind the dot belongs to the next command.
        client.writer.write(MESSAGE + b'.\r\nNOOP\r\n')
        assert [(await client.reply())[:3] for _ in range(2)] == ['250', '250']
    client.writer.write(b'QUIT\r\n')
    assert await client.all_replies() == ['221']
    assert len(await stored(pool)) == 5


async def test_client_that_closes_its_side_behind_quit_gets_its_replies(desk, pool):
    client = await desk.connect()
    assert (await client.begins()).startswith('354')
    client.writer.write(MESSAGE + b'.\r\nQUIT\r\n')
    client.writer.write_eof()  # as Exim does
    assert (await client.reply()).startswith('250 2.0.0 queued as ')
    assert (await client.reply()).startswith('221')
    assert await client.reply() == ''
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1


@pytest.mark.parametrize('end', [b'', b'NOOP', b'NOOP\r\n', b'half a message'])
async def test_client_that_closes_its_side_in_the_middle_is_let_go(desk, pool, end):
    client = await desk.connect()
    if end.startswith(b'half'):
        assert (await client.begins()).startswith('354')
    client.writer.write(end)
    client.writer.write_eof()
    if end.endswith(b'\n'):
        assert (await client.reply()).startswith('250')
    assert await client.reply() == ''
    await wait_until(lambda: desk.listener.open_sessions == 0)
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_messages_that_come_together_share_transactions_and_one_bad_one_fails_alone(
    desk, pool
):
    sent = await asyncio.gather(
        *(desk.smtplib(send(MESSAGE.replace(b'<1@', b'<%d@' % n))) for n in range(20)),
        desk.smtplib(send(MESSAGE.replace(b'noreply@', b'mallory@'))),
        return_exceptions=True,
    )
    assert sent[:20] == [{}] * 20
    assert isinstance(sent[20], smtplib.SMTPDataError)
    assert sent[20].smtp_code == 550
    rows = await pool.fetch('SELECT xmin, message_id FROM outbound_emails')
    assert len({row['message_id'] for row in rows}) == 20
    assert len({row['xmin'] for row in rows}) < 20


@pytest.mark.parametrize(
    ('data', 'code', 'reason'),
    [
        (MESSAGE.replace(b'From:', b'X-From:'), 550, 'has no From field'),
        (MESSAGE.replace(b'To:', b'From: x@example.com\r\nTo:'), 550, 'the field from twice'),
        (MESSAGE.replace(b'Subject:', b'Sub ject:'), 550, 'is no header field'),
        (MESSAGE.replace(b'Hello,', b'\0'), 550, 'NUL'),
        (MESSAGE.replace(b'Hello,', b'x' * 999), 550, 'a line of more than 998 bytes'),
        (MESSAGE.replace(b'Hello,', b'x' * 500_000), 550, 'a line of more than 998 bytes'),
        (MESSAGE.replace(b'Hello\r', b'Gr\xfc\xdfe\r'), 550, 'neither ASCII nor UTF-8'),
        (b'', 550, 'no From'),
    ],
)  # fmt: skip
async def test_what_can_never_be_sent_is_refused_with_the_reason(desk, pool, data, code, reason):
    client = await desk.connect()
    await client.begins()
    reply = await client.says(data + b'.\r\n')
    assert reply.startswith(f'{code} 5.6.0 ')
    assert reason in reply
    assert (await client.says(b'NOOP\r\n')).startswith('250')
    assert await stored(pool) == []


async def test_sender_that_nobody_has_allowed_is_refused_with_the_remedy(desk, pool):
    message = MESSAGE.replace(b'noreply@example.com', b'billing@example.org')
    code, reason = await refusal(desk, send(message))
    assert code == 550
    assert '5.7.1' in reason
    assert '`python -m ops sender add billing@example.org`' in reason
    code, reason = await refusal(desk, send(sender='bounces@example.org'))
    assert (code, 'envelope_from' in reason) == (550, True)
    await allow_senders(pool, ['@example.org'])
    await desk.smtplib(send(message, sender='bounces@example.org'))
    assert len(await stored(pool)) == 1


async def test_large_message_is_taken_whole_and_a_larger_one_refused(database, pool):
    limit = 3_000_000
    async with open_ingress(database.dsn, max_message_bytes=limit) as desk:
        line = b'.' * 70 + b'\r\n'
        large = MESSAGE + line * ((limit - len(MESSAGE)) // len(line))
        await desk.smtplib(send(large))
        assert bytes((await stored(pool))[0]['raw_message']) == large
        assert (await refusal(desk, send(large + line)))[0] == 552
        client = await desk.connect()
        hello = await client.says(b'EHLO x\r\n')
        assert f'250-SIZE {limit}\r\n' in hello
        told = await client.says(f'MAIL FROM:<noreply@example.com> SIZE={limit + 1}\r\n'.encode())
        assert told.startswith('552')
        await client.begins()  # without SIZE
        reply = await client.says(stuffed(large + line) + b'.\r\n')
        assert reply.startswith('552 5.3.4')
        assert 'EMAIL_MAX_BYTES' in reply
        assert (await client.says(b'NOOP\r\n')).startswith('250')
        # Who does not stop is cut off.
        await client.begins()
        client.writer.write(line * ((limit + MAX_DISCARDED_BYTES) // len(line) + 100_000))
        assert await client.all_replies() in ([], ['552'])
    assert len(await stored(pool)) == 1


async def test_more_recipients_than_a_hundred_are_told_to_come_in_another_message(desk, pool):
    refused = await desk.smtplib(send(recipients=[f'r{n}@example.com' for n in range(102)]))
    assert sorted(refused) == ['r100@example.com', 'r101@example.com']
    assert {code for code, _ in refused.values()} == {452}
    (row,) = await stored(pool)
    assert row['recipient'].count('@') == 100


@pytest.mark.parametrize('way', [Way.AWAY, Way.SILENT])
async def test_client_is_told_to_try_again_while_postgresql_is_away(database, pool, way):
    async with Gate(database.dsn) as gate, open_ingress(gate.url, deadline_s=2.0) as desk:
        await desk.smtplib(send())
        gate.turn(way)
        began = time.monotonic()
        code, reason = await refusal(desk, send())
        assert (code, reason[:5]) == (451, '4.3.0')
        assert time.monotonic() - began < 10
        gate.turn(Way.OPEN)

        async def is_taken():
            try:
                return await desk.smtplib(send()) == {}
            except smtplib.SMTPDataError as error:
                return error.smtp_code != 451

        await wait_until(is_taken)
    assert len(await stored(pool)) == 2


async def test_message_id_is_the_key_where_that_is_asked_for(database, pool):
    async with open_ingress(database.dsn, message_id_is_key=True) as desk:
        await desk.smtplib(send())
        await desk.smtplib(send())
        # The same message for others, who did not fit into the first transaction.
        await desk.smtplib(send(recipients=['bert@example.com']))
        code, reason = await refusal(desk, send(MESSAGE.replace(b'Anna.', b'Bert.')))
        assert (code, 'says something else' in reason) == (550, True)
        await asyncio.gather(*(desk.smtplib(send(MESSAGE.replace(b'<1@', b'<2@')))
                               for _ in range(5)))  # fmt: skip
        without = MESSAGE.replace(b'Message-ID: <1@example.com>\r\n', b'')
        await desk.smtplib(send(without))
        await desk.smtplib(send(without))
    assert [row['recipient'] for row in await stored(pool)] == [
        'anna@example.com', 'bert@example.com', 'anna@example.com', 'anna@example.com',
        'anna@example.com',
    ]  # fmt: skip


async def test_token_binds_mail_to_its_organisation(desk, pool, token_for):
    token = await token_for(ApiScope.SEND, organization_id='7')

    def talk(client):
        client.login('whoever', token)
        client.sendmail('noreply@example.com', ['anna@example.com'], MESSAGE)

    await desk.smtplib(talk)
    await desk.smtplib(send())
    rows = await stored(pool)
    assert [row['organization_id'] for row in rows] == [7, None]
    assert [row['queued_by'] for row in rows] == ["token:token 1 {'organization_id': '7'}", None]


@pytest.mark.parametrize('mechanism', ['PLAIN', 'LOGIN', 'plain'])
async def test_where_a_token_is_needed_nothing_goes_without_one(
    database, pool, token_for, mechanism
):
    token = await token_for(ApiScope.SEND)
    reader = await token_for(ApiScope.READ, ApiScope.OPERATE)
    async with open_ingress(database.dsn, needs_token=True) as desk:
        client = await desk.connect()
        assert 'AUTH LOGIN PLAIN' in await client.says(b'EHLO x\r\n')
        for command in (b'MAIL FROM:<noreply@example.com>', b'RCPT TO:<anna@example.com>', b'DATA'):
            assert (await client.says(command + b'\r\n')).startswith('530 5.7.0')
        assert (await logs_in(client, mechanism, reader)).startswith('535 5.7.8')
        assert (await logs_in(client, mechanism, token)).startswith('235')
        await client.begins()
        assert (await client.says(MESSAGE + b'.\r\n')).startswith('250')
        other = await desk.connect()
        await other.says(b'EHLO x\r\n')
        for expected in ('535', '535', '421'):
            assert (await logs_in(other, mechanism, token[:-1] + 'x')).startswith(expected)
        assert await other.reply() == ''
    assert len(await stored(pool)) == 1


async def logs_in(client, mechanism, token):
    if mechanism.upper() == 'PLAIN':
        words = base64.b64encode(b'\0name\0' + token.encode())
        return await client.says(b'AUTH %b %b\r\n' % (mechanism.encode(), words))
    assert (await client.says(b'AUTH LOGIN\r\n')).startswith('334')
    assert (await client.says(base64.b64encode(b'name') + b'\r\n')).startswith('334')
    return await client.says(base64.b64encode(token.encode()) + b'\r\n')
