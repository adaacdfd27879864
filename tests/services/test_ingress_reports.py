"""Mail to return paths at the ingress: taken without a login, and never sent on."""

import pytest

from db.feedback_effects import apply_reports
from db.feedback_suppression import FeedbackRules
from tests.services.ingress_desk import open_ingress
from tests.services.ops_desk import insert
from tests.unit.bounce_messages import PATHS, dsn


@pytest.fixture
async def desk(database):
    """An ingress that asks everybody else for a token."""
    async with open_ingress(database.dsn, needs_token=True, return_paths=PATHS) as desk:
        yield desk


async def give(client, *recipients, data=None, sender=b''):
    """Return the last reply."""
    reply = await client.begins(sender, *(to.encode() for to in recipients))
    if not reply.startswith('354'):
        return reply
    return await client.says((data or dsn()) + b'\r\n.\r\n')


async def test_report_to_a_signed_return_path_changes_its_e_mail(desk, pool):
    email_id = await insert(
        pool, status='sent', attempts=1, sent_at='sql:now()', recipient='anna@example.net'
    )
    client = await desk.connect()
    assert (await give(client, PATHS.of(email_id))).startswith('250')
    assert (await give(client, PATHS.of(email_id))).startswith('250')  # the same once more
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 1
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
    await apply_reports(pool, FeedbackRules())
    status = await pool.fetchval('SELECT status FROM outbound_emails')
    assert status == 'bounced'


async def test_return_path_that_was_not_made_here_is_refused(desk, pool):
    client = await desk.connect()
    await client.says(b'EHLO mx.example.net\r\n')
    assert (await client.says(b'MAIL FROM:<>\r\n')).startswith('250')
    forged = PATHS.of(1).replace('+1-', '+2-').encode()
    assert (await client.says(b'RCPT TO:<%b>\r\n' % forged)).startswith('550 5.1.1')
    assert (await client.says(b'RCPT TO:<anna@example.com>\r\n')).startswith('530')
    assert (await client.says(b'DATA\r\n')).startswith('530')


async def test_what_is_no_report_is_taken_and_forgotten(desk, pool):
    client = await desk.connect()
    data = b'Subject: buy this\r\n\r\nNow.'
    assert (await give(client, PATHS.address, data=data, sender=b'a@b.example')).startswith('250')
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 0
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_reports_and_other_mail_do_not_mix(database, pool):
    async with open_ingress(database.dsn, return_paths=PATHS) as desk:
        client = await desk.connect()
        await client.says(b'EHLO client.example.com\r\n')
        await client.says(b'MAIL FROM:<noreply@example.com>\r\n')
        assert (await client.says(b'RCPT TO:<anna@example.com>\r\n')).startswith('250')
        bounces = PATHS.address.encode()
        assert (await client.says(b'RCPT TO:<%b>\r\n' % bounces)).startswith('452')


async def test_without_return_paths_strangers_are_turned_away_at_mail(database):
    async with open_ingress(database.dsn, needs_token=True) as desk:
        client = await desk.connect()
        await client.says(b'EHLO client.example.com\r\n')
        assert (await client.says(b'MAIL FROM:<>\r\n')).startswith('530')
