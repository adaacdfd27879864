"""STARTTLS of the SMTP ingress: what comes before it, during it, and a certificate that changes."""

import asyncio
import ssl
import time

import pytest

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
from ingress.certificate import Certificate
from reporting.checks.ingress import ask_as_stranger
from tests.conftest import DEADLINE_S, wait_until
from tests.services.ingress_desk import open_ingress


@pytest.fixture
def certificate(tmp_path):
    server_tls_context(tmp_path)
    return Certificate(tmp_path / CERTIFICATE_NAME, tmp_path / KEY_NAME)


@pytest.fixture
async def desk(database, certificate):
    rules = {'certificate': certificate, 'is_local': False, 'needs_token': True, 'timeout_s': 0.7}
    async with open_ingress(database.dsn, **rules) as desk:
        yield desk


def anybody():
    """A client's context that looks at no certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def serial(client):
    """Which certificate a client was shown."""
    return client.writer.get_extra_info('ssl_object').getpeercert(binary_form=True)


async def encrypted(desk):
    client = await desk.connect()
    await client.says(b'EHLO x\r\n')
    assert (await client.says(b'STARTTLS\r\n')).startswith('220')
    await client.writer.start_tls(anybody())
    return client


async def test_commands_that_came_with_starttls_are_dropped_and_nothing_said_before_counts(desk):
    client = await desk.connect()
    await client.says(b'EHLO x\r\n')
    client.writer.write(b'STARTTLS\r\nEHLO injected\r\nNOOP\r\nAUTH PLAIN AGEAYg==\r\n')
    assert (await client.reply()).startswith('220')
    await client.writer.start_tls(anybody())
    assert (await client.says(b'MAIL FROM:<noreply@example.com>\r\n')).startswith('503')
    hello = await client.says(b'EHLO x\r\n')
    assert '250-AUTH LOGIN PLAIN' in hello
    assert 'STARTTLS' not in hello
    assert (await client.says(b'STARTTLS\r\n'))[:1] in {'4', '5'}
    assert (await client.says(b'MAIL FROM:<noreply@example.com>\r\n')).startswith('530')


@pytest.mark.parametrize('said', [b'', b'garbage instead of a handshake\r\n' * 3, b'\x16\x03\x01'])
async def test_handshake_that_does_not_come_ends_the_connection_and_no_other(desk, said):
    client = await desk.connect()
    await client.says(b'EHLO x\r\n')
    assert (await client.says(b'STARTTLS\r\n')).startswith('220')
    began = time.monotonic()
    client.writer.write(said)
    assert '250' not in await client.all_replies()
    assert time.monotonic() - began < DEADLINE_S / 2
    other = await encrypted(desk)
    assert (await other.says(b'NOOP\r\n')).startswith('250')
    assert desk.listener.open_sessions == 1


@pytest.mark.parametrize('ending', ['close', 'abort'])
async def test_client_that_goes_during_the_handshake_leaves_nothing(desk, ending):
    for _ in range(3):
        client = await desk.connect()
        await client.says(b'EHLO x\r\n')
        await client.says(b'STARTTLS\r\n')
        getattr(client.writer.transport, ending)()
    await wait_until(lambda: desk.listener.open_sessions == 0)


async def test_renewed_certificate_is_shown_to_who_comes_next_and_nobody_is_cut_off(
    desk, certificate, tmp_path, monkeypatch
):
    monkeypatch.setattr('ingress.certificate.LOOK_EVERY_S', 0.02)
    keeping = asyncio.create_task(certificate.keep_fresh())
    before = await encrypted(desk)
    first, expires_at = await serial(before), certificate.expires_at
    # In two steps, as renewals are: a certificate without its key is no use, and the old one stays.
    renewed = tmp_path / 'renewed'
    renewed.mkdir()
    server_tls_context(renewed)
    (renewed / CERTIFICATE_NAME).replace(tmp_path / CERTIFICATE_NAME)
    assert await serial(await encrypted(desk)) == first
    (renewed / KEY_NAME).replace(tmp_path / KEY_NAME)

    async def is_renewed():
        return await serial(await encrypted(desk)) != first

    await wait_until(is_renewed)
    assert (await before.says(b'NOOP\r\n')).startswith('250')
    assert certificate.expires_at >= expires_at
    (tmp_path / KEY_NAME).unlink()
    certificate.read_again()
    assert await serial(await encrypted(desk)) != first
    keeping.cancel()


async def test_doctor_sees_that_strangers_are_refused_and_when_the_certificate_ends(
    desk, certificate
):
    answer = await ask_as_stranger(f'127.0.0.1:{desk.port}')
    assert (answer.failure, answer.has_tls, answer.mail_code) == (None, True, 530)
    assert answer.expires_at == certificate.expires_at
