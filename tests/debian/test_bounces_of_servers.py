"""What Exim, OpenSMTPD and Postfix send back: to the ingress, and into the e-mail's state."""

import asyncio
import smtplib

import pytest

from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from ingress.certificate import Certificate
from mail.bounce.return_path import ReturnPaths
from tests.conftest import wait_until
from tests.debian.mail_servers import REPORTS, tls_files
from tests.services.ingress_desk import open_ingress
from tests.services.ops_desk import insert

PATHS = ReturnPaths(f'bounces@{REPORTS}', ('a secret of sixteen',))
MESSAGE = (
    'From: shop@example.com\r\nTo: {to}\r\nSubject: Hello\r\nMessage-ID: <m{n}@example.com>\r\n'
    'Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n\r\nHello.\r\n'
)
# What the servers behind them say to RCPT, and what is to come of it.
REFUSALS = {
    'unknown.test': ('550 5.1.1 no such user here', 'bounce', '5.1.1'),
    'full.test': ('552 5.2.2 mailbox is full', 'soft-bounce', '5.2.2'),
    'plain.test': ('550 User unknown', 'bounce', '5.0.0'),
    'policy.test': ('554-5.7.1 We do not\r\n554 5.7.1 like you', 'soft-bounce', '5.7.1'),
}


async def refuse(reader, writer):
    """Be a server that refuses every recipient."""
    writer.write(b'220 mx.test ESMTP\r\n')
    while line := await reader.readline():
        domain = line.decode().strip().partition('>')[0].rpartition('@')[2]
        is_rcpt = line.upper().startswith(b'RCPT')
        reply = REFUSALS[domain][0] if is_rcpt else '250 ok'
        writer.write(f'{reply}\r\n'.encode())
        if line.upper().startswith(b'QUIT'):
            break
    writer.close()


@pytest.fixture
async def ingress(database, outside, tmp_path):
    certificate = Certificate(
        *tls_files(tmp_path / 'tls', 0)
    )  # servers use STARTTLS where they can
    refusing = await asyncio.start_server(refuse, '127.0.0.1', outside.refusing)
    rules = {'needs_token': True, 'return_paths': PATHS, 'port': outside.ingress}
    rules['certificate'] = certificate
    async with refusing, open_ingress(database.dsn, **rules) as desk:
        yield desk


async def send_by(server, email_id, *recipients):
    def send():
        with smtplib.SMTP('127.0.0.1', server.ports['plain'], timeout=20) as client:
            message = MESSAGE.format(to=', '.join(recipients), n=email_id)
            client.sendmail(PATHS.of(email_id), recipients, message)

    await asyncio.to_thread(send)


async def has(pool, count):
    return await pool.fetchval('SELECT count(*) FROM email_feedback') == count


async def test_its_reports_change_the_e_mails_they_are_about(server, ingress, pool):
    emails = {}
    for domain in REFUSALS:
        to = f'anna@{domain}'
        emails[to] = await insert(
            pool, status='sent', attempts=1, sent_at='sql:now()', recipient=to
        )
        await send_by(server, emails[to], to)
    both = ('anna@example.com', 'bob@unknown.test')  # the first is delivered
    emails[both[1]] = await insert(
        pool, status='sent', attempts=1, sent_at='sql:now()', recipient=', '.join(both)
    )
    await send_by(server, emails[both[1]], *both)
    await wait_until(lambda: has(pool, len(emails)))
    await apply_reports(pool, FeedbackRules())
    for report in await pool.fetch('SELECT * FROM email_feedback'):
        _, kind, code = REFUSALS[report['recipient'].partition('@')[2]]
        email_id = emails.pop(report['recipient'])
        assert (report['kind'], report['enhanced_code'], report['source']) == (kind, code, 'dsn')
        assert (report['email_id'], report['message_id']) == (
            email_id,
            f'<m{email_id}@example.com>',
        )
    assert emails == {}
    states = await pool.fetch('SELECT DISTINCT status FROM outbound_emails')
    assert [row['status'] for row in states] == ['bounced']
    suppressed = await pool.fetch('SELECT address FROM email_suppressions ORDER BY 1')
    assert [row['address'] for row in suppressed] == [
        'anna@plain.test', 'anna@unknown.test', 'bob@unknown.test',
    ]  # fmt: skip
