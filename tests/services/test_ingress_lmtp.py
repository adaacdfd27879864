"""Reports by LMTP (RFC 2033): an answer for each recipient, and nothing but reports."""

import asyncio
import contextlib
import smtplib
import socket as stdlib_socket

import pytest

from tests.conftest import DEADLINE_S, wait_until
from tests.services.gate import Gate, Way
from tests.services.ingress_desk import RawClient, open_ingress
from tests.services.ops_desk import insert
from tests.unit.bounce_messages import PATHS, dsn


@contextlib.asynccontextmanager
async def opened(dsn, socket, **rules):
    """An ingress that other machines reach, so it wants STARTTLS and a token; LMTP does not."""
    rules = {'needs_token': True, 'is_local': False, 'return_paths': PATHS} | rules
    async with open_ingress(dsn, **rules) as desk:
        await desk.listener.open_lmtp(str(socket))
        reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
        client = RawClient(reader, writer)
        assert (await client.reply()).startswith('220 ingress.example.com LMTP')
        try:
            yield client
        finally:
            writer.close()


@pytest.fixture
async def client(database, tmp_path):
    async with opened(database.dsn, tmp_path / 'lmtp') as client:
        yield client


async def replies(client, count):
    return [await client.reply() for _ in range(count)]


async def begins(client, *recipients):
    """The replies to RCPT, up to that to DATA."""
    await client.says(b'LHLO mx.example.net\r\n')
    assert (await client.says(b'MAIL FROM:<>\r\n')).startswith('250 2.')
    said = [await client.says(f'RCPT TO:<{to}>\r\n'.encode()) for to in recipients]
    return [*said, await client.says(b'DATA\r\n')]


async def sent(pool, count):
    return [
        await insert(pool, status='sent', attempts=1, sent_at='sql:now()', recipient='a@b.example')
        for _ in range(count)
    ]


async def test_each_recipient_is_answered_in_the_order_of_rcpt(client, pool):
    first, second = await sent(pool, 2)
    said = await begins(
        client, PATHS.of(first), 'anna@example.com', PATHS.of(second), PATHS.of(first)
    )
    assert [reply[:9] for reply in said] == [
        '250 2.1.5', '550 5.1.1', '250 2.1.5', '250 2.1.5', '354 end t',
    ]  # fmt: skip
    client.writer.write(dsn() + b'\r\n.\r\nNOOP\r\n')
    assert [reply[:9] for reply in await replies(client, 4)] == ['250 2.0.0'] * 4
    reported = await pool.fetch('SELECT email_id FROM email_feedback ORDER BY 1')
    assert [row['email_id'] for row in reported] == [first, second]


async def test_lhlo_offers_what_lmtp_must_and_neither_login_nor_tls(client):
    offered = await client.says(b'LHLO mx.example.net\r\n')
    assert {'PIPELINING', 'ENHANCEDSTATUSCODES', '8BITMIME'} <= set(
        offered.replace('-', ' ').split()
    )
    assert 'AUTH' not in offered
    assert 'STARTTLS' not in offered
    for command in (b'EHLO mx\r\n', b'HELO mx\r\n', b'AUTH PLAIN x\r\n', b'STARTTLS\r\n'):
        assert (await client.says(command)).startswith('500 5.')
    assert (await client.says(b'RSET\r\n')).startswith('250 2.0.0')
    assert (await client.says(b'QUIT\r\n')).startswith('221 2.0.0')


async def test_data_without_a_recipient_is_refused(client):
    *_, reply = await begins(client, 'anna@example.com', PATHS.of(1).replace('+1-', '+2-'))
    assert reply.startswith('503 5.5.1')
    assert (await client.says(b'NOOP\r\n')).startswith('250')


async def test_refused_message_is_refused_for_each(database, pool, tmp_path):
    async with opened(database.dsn, tmp_path / 'lmtp', max_message_bytes=1000) as client:
        await begins(client, *(PATHS.of(n) for n in (1, 2)))
        client.writer.write(b'x' * 70 + b'\r\n' + b'y' * 950 + b'\r\n.\r\n')
        assert [reply[:9] for reply in await replies(client, 2)] == ['552 5.3.4'] * 2
        assert (await client.says(b'NOOP\r\n')).startswith('250')


async def test_each_is_told_to_come_again_while_postgresql_is_away(database, pool, tmp_path):
    async with (
        Gate(database.dsn) as gate,
        opened(gate.url, tmp_path / 'lmtp', deadline_s=0.5) as client,
    ):
        gate.turn(Way.AWAY)
        await begins(client, *(PATHS.of(n) for n in (1, 2)))
        client.writer.write(dsn() + b'\r\n.\r\n')
        assert [reply[:3] for reply in await replies(client, 2)] == ['451'] * 2


async def test_socket_is_gone_with_the_listener_and_a_stale_one_is_no_obstacle(database, tmp_path):
    socket = tmp_path / 'lmtp'
    async with opened(database.dsn, socket):
        pass
    assert not socket.exists()
    with contextlib.closing(stdlib_socket.socket(stdlib_socket.AF_UNIX)) as stale:
        stale.bind(str(socket))  # as a process leaves it behind that was killed
    async with opened(database.dsn, socket):
        assert socket.is_socket()


async def test_place_that_is_taken_stops_the_start_with_its_name(database, tmp_path):
    async with open_ingress(database.dsn, return_paths=PATHS) as desk:
        with pytest.raises(SystemExit, match=f'INGRESS_LMTP=127.0.0.1:{desk.port}'):
            await desk.listener.open_lmtp(f'127.0.0.1:{desk.port}')
        with pytest.raises(SystemExit, match='INGRESS_LMTP=/nowhere/lmtp: No such file'):
            await desk.listener.open_lmtp('/nowhere/lmtp')


async def test_smtplibs_lmtp_client_delivers(database, pool, tmp_path):
    (email_id,) = await sent(pool, 1)
    async with opened(database.dsn, tmp_path / 'lmtp'):

        def deliver():
            with smtplib.LMTP(str(tmp_path / 'lmtp'), timeout=DEADLINE_S) as client:
                return client.sendmail('', [PATHS.of(email_id)], dsn())

        assert await asyncio.to_thread(deliver) == {}
        await wait_until(lambda: pool.fetchval('SELECT count(*) FROM email_feedback'))
