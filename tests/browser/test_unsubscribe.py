"""A recipient clicks the link of an e-mail: without a login, without JavaScript, on a phone."""

import asyncio
import contextlib

import pytest

from dev.screenshots import chromium
from mail.unsubscribe import UnsubscribeLinks
from mail_outbox.envelope import Email
from tests.browser.conftest import Person
from tests.browser.test_desk import PHONE, WCAG
from tests.services.test_web_process import place_of

SECRET = 'a secret of sixteen'


@pytest.fixture
async def recipient(start_web):
    """Somebody with a browser who knows no desk, and a link."""
    web = start_web(
        WEB_PORT='0', UNSUBSCRIBE_SECRET=SECRET, UNSUBSCRIBE_URL='http://127.0.0.1:1',
        UNSUBSCRIBE_TYPES='news=Our newsletter',
    )  # fmt: skip
    address = place_of(await web.hears('READY=1'))
    links = UnsubscribeLinks(address, (SECRET,), {'news': ''})
    async with chromium() as browser:
        person = Person(browser, address, None)
        person.link = links.url_of(Email(7, 'anna@example.com', email_type='news'))
        yield person
        assert person.complaints == []


async def test_a_person_on_a_phone_without_javascript_unsubscribes_and_back(recipient, pool):
    page = await recipient.page(logged_in=False, java_script_enabled=False, **PHONE)
    count = 'SELECT count(*) FROM email_type_suppressions'
    await page.goto(recipient.link)
    assert 'Our newsletter' in await page.inner_text('main')
    assert await pool.fetchval(count) == 0
    await page.click('button >> text=Unsubscribe')
    assert await page.inner_text('h1') == 'Unsubscribed'
    assert await pool.fetchval(count) == 1
    await page.goto(recipient.link)
    assert await page.inner_text('h1') == 'Unsubscribed'
    await page.click('button >> text=Subscribe again')
    assert await page.inner_text('h1') == 'Subscribed again'
    assert await pool.fetchval(count) == 0


async def test_a_double_click_is_one_unsubscription(recipient, pool):
    page = await recipient.page(logged_in=False)
    await page.goto(recipient.link)
    with contextlib.suppress(Exception):  # the second click may meet the next page
        await asyncio.wait_for(page.dblclick('button.main'), 5)
    await page.wait_for_selector('h1 >> text=Unsubscribed')
    assert await pool.fetchval('SELECT count(*) FROM mail_audit') == 1


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('options', [{}, PHONE], ids=['wide', 'phone'])
async def test_axe_finds_nothing_on_any_of_its_pages(recipient, pool, axe, scheme, options):
    page = await recipient.page(logged_in=False, color_scheme=scheme, **options)

    async def look(title):
        assert await page.inner_text('h1') == title
        await page.evaluate(axe)
        found = await page.evaluate('tags => axe.run({runOnly: tags})', WCAG)
        assert [v['id'] for v in found['violations']] == []
        assert await page.evaluate('document.documentElement.scrollWidth - innerWidth') <= 0

    await page.goto(recipient.link)
    await look('Unsubscribe')
    await page.click('button.main')
    await look('Unsubscribed')
    await page.click('text=Subscribe again')
    await look('Subscribed again')
    await page.goto(recipient.link + 'A')
    await look('This link is not valid')
    recipient.complaints[:] = [said for said in recipient.complaints if '404' not in said]
