"""What Exim, OpenSMTPD and Postfix send back: to the ingress, and into the e-mail's state."""

import asyncio
import smtplib

import pytest

from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from ingress.certificate import Certificate
from mail.bounce.return_path import ReturnPaths
from tests.conftest import wait_until
from tests.debian.mail_servers import BY_LMTP, REPORTS, tls_files
from tests.debian.refusing import REFUSALS
from tests.services.ingress_desk import open_ingress
from tests.services.ops_desk import insert

PATHS = {
    domain: ReturnPaths(f'bounces@{domain}', ('a secret of sixteen',))
    for domain in (REPORTS, BY_LMTP)
}
MESSAGE = (
    'From: shop@example.com\r\nTo: {to}\r\nSubject: Hello\r\nMessage-ID: <m{n}@example.com>\r\n'
    'Date: Mon, 30 Nov 2026 12:00:00 +0000\r\n\r\nHello.\r\n'
)


@pytest.fixture(params=PATHS)
async def paths(request):
    return PATHS[request.param]


@pytest.fixture
async def ingress(database, outside, tmp_path, paths):
    certificate = Certificate(
        *tls_files(tmp_path / 'tls', 0)
    )  # servers use STARTTLS where they can
    rules = {'needs_token': True, 'return_paths': paths, 'port': outside.ingress}
    rules['certificate'] = certificate
    async with open_ingress(database.dsn, **rules) as desk:
        await desk.listener.open_lmtp(f'127.0.0.1:{outside.lmtp}')
        yield desk


async def send_by(server, sender, email_id, *recipients):
    def send():
        with smtplib.SMTP('127.0.0.1', server.ports['plain'], timeout=20) as client:
            message = MESSAGE.format(to=', '.join(recipients), n=email_id)
            client.sendmail(sender, recipients, message)

    await asyncio.to_thread(send)


async def has(pool, count):
    return await pool.fetchval('SELECT count(*) FROM email_feedback') == count


async def test_its_reports_change_the_e_mails_they_are_about(server, ingress, paths, pool):
    emails = {}
    for domain in REFUSALS:
        to = f'anna@{domain}'
        emails[to] = await insert(
            pool, status='sent', attempts=1, sent_at='sql:now()', recipient=to
        )
        await send_by(server, paths.of(emails[to]), emails[to], to)
    both = ('anna@example.com', 'bob@unknown.test')  # the first is delivered
    emails[both[1]] = await insert(
        pool, status='sent', attempts=1, sent_at='sql:now()', recipient=', '.join(both)
    )
    await send_by(server, paths.of(emails[both[1]]), emails[both[1]], *both)
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
        assert code == '5.0.0' or code in report['diagnostic']
        assert 'original message' not in report['diagnostic']
    assert emails == {}
    states = await pool.fetch('SELECT DISTINCT status FROM outbound_emails')
    assert [row['status'] for row in states] == ['bounced']
    suppressed = await pool.fetch('SELECT address FROM email_suppressions ORDER BY 1')
    assert [row['address'] for row in suppressed] == [
        'anna@plain.test', 'anna@unknown.test', 'bob@unknown.test',
    ]  # fmt: skip


async def test_report_of_an_address_beyond_ascii_names_it(server, ingress, paths, pool):
    if server.name == 'opensmtpd':
        pytest.skip('it takes no such mail')
    to = 'jürgen@unknown.test'
    email_id = await insert(pool, status='sent', attempts=1, sent_at='sql:now()', recipient=to)

    def send():
        with smtplib.SMTP('127.0.0.1', server.ports['plain'], timeout=20) as client:
            client.ehlo()
            client.mail(paths.of(email_id), ['SMTPUTF8', 'BODY=8BITMIME'])
            assert client.docmd(f'RCPT TO:<{to}>'.encode().decode('latin-1'))[0] == 250
            client.data(MESSAGE.format(to=to, n=email_id).encode())

    await asyncio.to_thread(send)
    await wait_until(lambda: has(pool, 1))
    await apply_reports(pool, FeedbackRules())
    report = await pool.fetchrow('SELECT * FROM email_feedback')
    # The server behind it offers no SMTPUTF8 (RFC 6531, 3.5); Exim asks it all the same.
    kind = {'exim': 'bounce', 'postfix': 'soft-bounce'}[server.name]
    assert (report['email_id'], report['recipient'], report['kind']) == (email_id, to, kind)
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'bounced'
