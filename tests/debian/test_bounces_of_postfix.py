"""What Debian's Postfix sends back: by SMTP to the ingress, and into the e-mail's state."""

import asyncio
import contextlib
import smtplib

import pytest

from bench.postfix import find_postfix, running_postfix
from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from dev.watchdog import Watchdog
from tests.conftest import wait_until
from tests.services.ingress_desk import open_ingress
from tests.services.ops_desk import insert
from tests.unit.bounce_messages import PATHS

MESSAGE = (
    'From: shop@example.com\r\nTo: {to}\r\nSubject: Hello\r\nMessage-ID: <m{n}@example.com>\r\n'
    'Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n\r\nHello.\r\n'
)
# What the servers behind it say to RCPT, and what is to come of it.
REFUSALS = {
    'unknown.test': ('550 5.1.1 no such user here', 'bounced', '5.1.1', True),
    'full.test': ('552 5.2.2 mailbox is full', 'bounced', '5.2.2', False),
    'plain.test': ('550 User unknown', 'bounced', '5.0.0', True),
}


async def refuse(reader, writer):
    """Be a server that refuses every recipient."""
    writer.write(b'220 mx.test ESMTP\r\n')
    while line := await reader.readline():
        domain = line.decode().strip().rstrip('>').rpartition('@')[2]
        is_rcpt = line.upper().startswith(b'RCPT')
        reply = REFUSALS[domain][0] if is_rcpt else '250 ok'
        writer.write(f'{reply}\r\n'.encode())
        if line.upper().startswith(b'QUIT'):
            break
    writer.close()


@pytest.fixture
async def refusing_port():
    server = await asyncio.start_server(refuse, '127.0.0.1', 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def desk(database):
    async with open_ingress(database.dsn, needs_token=True, return_paths=PATHS) as desk:
        yield desk


@pytest.fixture
async def postfix(desk, refusing_port, tmp_path):
    assert find_postfix(), 'apt-get install postfix; these tests need root'
    tmp_path.chmod(0o711)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o711)
    to_us = f'example.com = smtp:[127.0.0.1]:{desk.port}'
    transports = [to_us, *(f'{name} = smtp:[127.0.0.1]:{refusing_port}' for name in REFUSALS)]
    settings = {
        'smtpd_client_restrictions': '',
        'transport_maps': 'inline:{' + ', '.join('{ ' + one + ' }' for one in transports) + '}',
    }
    watchdog = Watchdog()
    with running_postfix(tmp_path, watchdog, settings) as postfix:
        await wait_until(lambda: asyncio.to_thread(_greets, postfix.port))
        yield postfix
    watchdog.close()


def _greets(port):
    with contextlib.suppress(OSError), smtplib.SMTP('127.0.0.1', port, timeout=5) as client:
        return client.noop()[0] == 250
    return False


@pytest.mark.parametrize('domain', REFUSALS)
async def test_its_reports_change_the_e_mail_they_are_about(postfix, pool, domain):
    _, status, code, is_suppressed = REFUSALS[domain]
    to = f'anna@{domain}'
    email_id = await insert(pool, status='sent', attempts=1, sent_at='sql:now()', recipient=to)

    def send():
        with smtplib.SMTP('127.0.0.1', postfix.port, timeout=20) as client:
            client.sendmail(PATHS.of(email_id), [to], MESSAGE.format(to=to, n=email_id))

    await asyncio.to_thread(send)
    await wait_until(lambda: pool.fetchval('SELECT count(*) FROM email_feedback'))
    await apply_reports(pool, FeedbackRules())
    row = await pool.fetchrow('SELECT status, feedback FROM outbound_emails')
    report = await pool.fetchrow('SELECT * FROM email_feedback')
    assert (row['status'], report['enhanced_code']) == (status, code)
    assert report['recipient'] == to
    assert report['message_id'] == f'<m{email_id}@example.com>'
    assert bool(await pool.fetchval('SELECT count(*) FROM email_suppressions')) == is_suppressed
