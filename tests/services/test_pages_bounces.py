"""What came back, and attachments, at the desk."""

import pytest

from actions.tokens import ApiScope
from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import Attachment
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert
from tests.services.test_pages_fleet import XSS


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def lena(desk):
    return await desk.person()


async def report(pool, key, kind='bounce', recipient='anna@example.com', email_id=None, said='550'):
    await pool.execute(
        'INSERT INTO email_feedback (report_key, kind, source, recipient, diagnostic, email_id, '
        "applied_at, effect) VALUES ($1, $2, 'smtp', $3, $4, $5, now(), 'it is bounced')",
        key, kind, recipient, said, email_id,
    )  # fmt: skip


async def test_reports_are_listed_by_kind_and_address_and_stand_on_the_emails_page(lena, pool):
    email_id = await insert(pool)
    await report(pool, 'a', email_id=email_id, said='550 5.1.1 no such user')
    await report(pool, 'b', 'complaint', 'bert@example.com')
    everything = (await lena.get('/bounces')).text
    assert 'anna@example.com' in everything
    assert 'bert@example.com' in everything
    assert f'href="/mail/{email_id}"' in everything
    complaints = (await lena.get('/bounces?kind=complaint')).text
    assert 'bert@example.com' in complaints
    assert 'anna@example.com' not in complaints
    of_anna = (await lena.get('/bounces?q=ANNA@example.com')).text
    assert 'no such user' in of_anna
    assert 'bert@example.com' not in of_anna
    page = (await lena.get(f'/mail/{email_id}')).text
    assert 'What came back' in page
    assert '550 5.1.1 no such user' in page


async def test_reports_go_on_page_by_page_and_none_is_told_as_such(lena, pool):
    assert 'Nothing came back' in (await lena.get('/bounces')).text
    for n in range(101):
        await report(pool, f'r{n}', recipient=f'r{n}@example.com')
    first = (await lena.get('/bounces')).text
    assert 'r0@example.com' not in first
    older = first.partition('/bounces?before=')[2].partition('"')[0]
    assert 'r0@example.com' in (await lena.get(f'/bounces?before={older}')).text


@pytest.mark.parametrize(
    'query', ['before=x', 'before=-1', f'before={"9" * 40}', 'kind=<b>', 'q=%00']
)
async def test_query_that_makes_no_sense_is_no_error(lena, query):
    assert (await lena.get(f'/bounces?{query}')).status_code == 200


async def test_no_value_of_a_report_is_markup(lena, pool):
    for n, text in enumerate(XSS):
        await report(pool, f'x{n}', recipient=text, said=text)
    page = (await lena.get('/bounces')).text
    for text in XSS[:3]:
        assert text not in page


@pytest.mark.parametrize('place', ['postgresql', 'mongodb'])
async def test_attachment_is_given_as_it_was_and_the_audit_has_it(lena, pool, mongo, queue, place):
    given = [Attachment('a.txt', 'text/html', b'<script>'), Attachment('Übér "x".pdf', None, b'%P')]
    stored = {'attachments': given}
    if place == 'mongodb':
        stored = {'content_id': await store_attachments(mongo, given)}
    email_id = await queue('anna@example.com', **stored)
    page = (await lena.get(f'/mail/{email_id}')).text
    assert f'href="/mail/{email_id}/attachments/2"' in page
    first = await lena.get(f'/mail/{email_id}/attachments/1')
    assert first.content == b'<script>'
    assert first.headers['content-type'] == 'application/octet-stream'
    assert first.headers['x-content-type-options'] == 'nosniff'
    assert 'sandbox' in first.headers['content-security-policy']
    second = await lena.get(f'/mail/{email_id}/attachments/2')
    assert second.content == b'%P'
    assert "filename*=UTF-8''%C3%9Cb%C3%A9r%20%22x%22.pdf" in second.headers['content-disposition']
    assert (await lena.get(f'/mail/{email_id}/attachments/3')).status_code == 404
    entries = await pool.fetch("SELECT email_ids FROM mail_audit WHERE action = 'email.read'")
    assert entries[0]['email_ids'] == [email_id]


async def test_who_only_looks_gets_no_attachment_and_a_tenant_none_of_others(desk, queue):
    email_id = await queue('anna@example.com', attachments=[Attachment('a.txt', None, b'x')])
    onlooker = await desk.person('look', [ApiScope.READ])
    tenant = await desk.person('tenant', organization_id='7')
    assert (await onlooker.get(f'/mail/{email_id}/attachments/1')).status_code == 403
    assert (await tenant.get(f'/mail/{email_id}/attachments/1')).status_code == 404
    assert (await tenant.get('/bounces')).status_code == 403
