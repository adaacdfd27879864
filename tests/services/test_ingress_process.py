"""`python -m ingress` as its user starts it."""

import asyncio
import signal
import smtplib
import socket
import ssl
import subprocess
import sys

import pytest

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
from fleet.ingresses import INGRESSES, read_ingresses
from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.ingress_desk import MESSAGE
from tests.services.ops_desk import ops
from tests.unit.bounce_messages import PATHS, dsn


class IngressProcess:
    """The process, with its log in a file."""

    def __init__(self, env, directory):
        self.log_path = directory / 'ingress.log'
        with self.log_path.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'ingress'], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    @property
    def log(self):
        return self.log_path.read_text()

    async def port(self):
        await wait_until(lambda: 'ingress.started' in self.log or self.process.poll() is not None)
        assert self.process.poll() is None, self.log
        return int(self.log.partition('"place":"')[2].partition('"')[0].rpartition(':')[2])


@pytest.fixture
def start_ingress(env, tmp_path_factory):
    started = []

    def start(**variables):
        own = {'INGRESS_PORT': '0', 'LOG_FORMAT': 'json', 'SMTP_FROM_EMAIL': 'noreply@example.com'}
        started.append(IngressProcess(env | own | variables, tmp_path_factory.mktemp('ingress')))
        return started[-1]

    yield start
    for ingress in started:
        ingress.process.kill()
        ingress.process.wait()


async def test_it_takes_mail_and_ends_with_0_on_sigterm_after_the_message_under_way(
    start_ingress, pool
):
    ingress = start_ingress()
    port = await ingress.port()

    def talk():
        idle = smtplib.SMTP('127.0.0.1', port, timeout=DEADLINE_S)
        busy = smtplib.SMTP('127.0.0.1', port, timeout=DEADLINE_S)
        busy.sendmail('noreply@example.com', ['anna@example.com'], MESSAGE)
        busy.mail('noreply@example.com')
        busy.rcpt('bert@example.com')
        assert busy.docmd('DATA')[0] == 354
        ingress.process.send_signal(signal.SIGTERM)
        assert idle.getreply()[0] == 421
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(('127.0.0.1', port), timeout=DEADLINE_S)
        busy.send(MESSAGE + b'.\r\n')
        assert busy.getreply()[0] == 250
        assert busy.getreply()[0] == 421

    await asyncio.to_thread(talk)
    assert await asyncio.to_thread(ingress.process.wait, DEADLINE_S) == 0
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 2
    assert 'ingress.stopped' in ingress.log
    assert 'Traceback' not in ingress.log


async def test_reports_come_by_lmtp_where_that_is_set(start_ingress, pool, tmp_path):
    lmtp = tmp_path / 'lmtp'
    ingress = start_ingress(INGRESS_LMTP=str(lmtp), BOUNCE_ADDRESS=PATHS.address)
    await ingress.port()

    def talk():
        with smtplib.LMTP(str(lmtp), timeout=DEADLINE_S) as client:
            assert client.sendmail('', [PATHS.address], dsn()) == {}

    await asyncio.to_thread(talk)
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 1
    ingress.process.terminate()
    assert await asyncio.to_thread(ingress.process.wait, DEADLINE_S) == 0
    assert not lmtp.exists()


@pytest.mark.parametrize(
    ('lmtp', 'reason'),
    [
        ('/run/lmtp', 'needs BOUNCE_ADDRESS'),
        ('0.0.0.0:24', 'HOST:PORT of this machine'),
        ('mx.example.com:24', 'HOST:PORT of this machine'),
        ('2424', 'HOST:PORT of this machine'),
        ('127.0.0.1:99999', 'HOST:PORT of this machine'),
        (f'/{"x" * 200}', '107 bytes at most'),
    ],
)
async def test_lmtp_that_cannot_be_is_refused_at_the_start_by_its_name(start_ingress, lmtp, reason):
    ingress = start_ingress(INGRESS_LMTP=lmtp)
    assert await asyncio.to_thread(ingress.process.wait, DEADLINE_S) != 0
    assert 'INGRESS_LMTP' in ingress.log
    assert reason in ingress.log
    assert 'Traceback' not in ingress.log


async def test_beyond_this_machine_nothing_goes_without_tls_and_a_token(
    start_ingress, env, pool, tmp_path
):
    token = (
        await ops(env, 'token', 'create', 'me', '--scope', 'send', '--organization', '7', '--json')
    ).document['token']
    server_tls_context(tmp_path)
    certificate, key = sorted(tmp_path.glob('*.pem'), key=lambda path: 'key' in path.name)
    ingress = start_ingress(INGRESS_HOST='0.0.0.0', INGRESS_TLS_CERTIFICATE=str(certificate),
                            INGRESS_TLS_KEY=str(key))  # fmt: skip
    port = await ingress.port()
    context = ssl.create_default_context(cafile=str(certificate))

    def talk():
        with smtplib.SMTP('127.0.0.1', port, timeout=DEADLINE_S) as client:
            client.ehlo()
            assert not client.has_extn('auth')
            assert client.docmd('MAIL', 'FROM:<noreply@example.com>')[0] == 530
            assert client.docmd('AUTH', 'PLAIN AGEAYg==')[0] in (530, 538)
            client._host = 'localhost'
            client.starttls(context=context)
            client.ehlo()
            assert client.docmd('MAIL', 'FROM:<noreply@example.com>')[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login('me', 'wrong')
            client.login('me', token)
            client.sendmail('noreply@example.com', ['anna@example.com'], MESSAGE)

    await asyncio.to_thread(talk)
    assert await pool.fetchval('SELECT organization_id FROM outbound_emails') == 7
    assert token not in ingress.log


async def test_sighup_has_the_certificate_read_again_and_ends_nothing(start_ingress, tmp_path):
    server_tls_context(tmp_path)
    certificate, key = tmp_path / CERTIFICATE_NAME, tmp_path / KEY_NAME
    ingress = start_ingress(INGRESS_TLS_CERTIFICATE=str(certificate), INGRESS_TLS_KEY=str(key))
    port = await ingress.port()
    before = certificate.read_text()

    def shown(client):
        client.starttls()
        return ssl.DER_cert_to_PEM_cert(client.sock.getpeercert(binary_form=True))

    def talk():
        with smtplib.SMTP('127.0.0.1', port, timeout=DEADLINE_S) as open_before:
            assert shown(open_before) == before
            certificate.unlink()
            server_tls_context(tmp_path)
            ingress.process.send_signal(signal.SIGHUP)
            while 'ingress.certificate_read' not in ingress.log:
                assert open_before.noop()[0] == 250
            with smtplib.SMTP('127.0.0.1', port, timeout=DEADLINE_S) as client:
                assert shown(client) == certificate.read_text() != before

    await asyncio.to_thread(talk)
    assert ingress.process.poll() is None


async def test_handshakes_that_fail_give_their_places_back(start_ingress, tmp_path):
    server_tls_context(tmp_path)
    ingress = start_ingress(
        INGRESS_TLS_CERTIFICATE=str(tmp_path / CERTIFICATE_NAME),
        INGRESS_TLS_KEY=str(tmp_path / KEY_NAME), INGRESS_MAX_CONNECTIONS='1',
    )  # fmt: skip
    port = await ingress.port()

    async def handshake(said):
        reader, writer = await asyncio.open_connection('127.0.0.1', port)
        if not (await reader.readline()).startswith(b'220'):  # the one before is about to end
            writer.close()
            return False
        writer.write(b'EHLO x\r\nSTARTTLS\r\n')
        async with asyncio.timeout(DEADLINE_S):
            await reader.readuntil(b'\r\n220 ')
            if said is None:
                writer.transport.abort()
            else:
                writer.write(said)
                await reader.read()
        writer.close()
        return True

    for said in (b'garbage instead of a handshake\r\n', None, b'\x16\x03\x01' + b'x' * 500, None):
        await wait_until(lambda said=said: handshake(said))
    await wait_until(lambda: handshake(None))
    assert ingress.process.poll() is None
    assert 'Traceback' not in ingress.log


async def test_killed_ingress_is_missed_until_it_is_back(start_ingress, env, redis):
    ingress = start_ingress()
    port = await ingress.port()
    await wait_until(lambda: read_ingresses(redis))
    name = (await read_ingresses(redis))[0].ingress
    ingress.process.kill()
    await redis.delete(INGRESSES.prefix + name)  # as it does 15 s later
    status = await ops(env, 'status')
    assert (status.status, f'the SMTP ingress {name} ended without a goodbye' in status.err) == (
        69, True,
    )  # fmt: skip
    again = start_ingress(INGRESS_PORT=str(port))
    await again.port()

    async def is_back():
        return [i.gone_s for i in await read_ingresses(redis)] == [None]

    await wait_until(is_back)
    again.process.terminate()
    assert await asyncio.to_thread(again.process.wait, DEADLINE_S) == 0
    assert await read_ingresses(redis) == []


@pytest.mark.parametrize(
    ('variables', 'said'),
    [
        ({'INGRESS_HOST': '0.0.0.0'}, 'set INGRESS_TLS_CERTIFICATE'),
        ({'INGRESS_TLS_CERTIFICATE': '/no/such/file'}, 'INGRESS_TLS_CERTIFICATE=/no/such/file'),
        ({'INGRESS_TLS_KEY': '/no/such/file'}, 'INGRESS_TLS_KEY needs INGRESS_TLS_CERTIFICATE'),
        ({'INGRESS_HOST': '192.0.2.1', 'INGRESS_TLS_CERTIFICATE': 'CERTIFICATE'},
         'cannot listen on 192.0.2.1:0'),
    ],
)  # fmt: skip
async def test_it_refuses_to_start_and_says_what_to_do(start_ingress, tmp_path, variables, said):
    if variables.get('INGRESS_TLS_CERTIFICATE') == 'CERTIFICATE':
        server_tls_context(tmp_path)
        certificate, key = sorted(tmp_path.glob('*.pem'), key=lambda path: 'key' in path.name)
        variables = variables | {
            'INGRESS_TLS_CERTIFICATE': str(certificate), 'INGRESS_TLS_KEY': str(key),
        }  # fmt: skip
    ingress = start_ingress(**variables)
    assert await asyncio.to_thread(ingress.process.wait, DEADLINE_S) == 1
    assert said in ingress.log
    assert 'Traceback' not in ingress.log
