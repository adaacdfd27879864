"""What a person does at the desk, from the log-in to the mail in the inbox."""

import asyncio

import pytest

from db.suppressions import add
from mail_outbox import queue_email
from mail_outbox.envelope import Attachment
from tests.conftest import wait_until
from tests.services.ops_desk import insert, statuses
from tests.services.test_pages_fleet import XSS

PHONE = {'viewport': {'width': 390, 'height': 844}, 'has_touch': True, 'is_mobile': True}
PATHS = (
    '/', '/mail', '/mail?status=dead', '/mail/1', '/mail/1/content', '/mail/1/recipient',
    '/decide?do=retry&of=all&status=dead', '/workers', '/relays', '/duties', '/suppressions',
    '/senders', '/tokens', '/webhooks', '/changes', '/changes/1', '/person', '/confirm',
    '/bounces',
    '/act/pause?kind=email_type&name=receipt', '/no/such/page',
)  # fmt: skip
WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']


@pytest.fixture
async def dead(pool):
    """An e-mail that a relay refused for its address."""
    email_id = await insert(
        pool, recipient='anna@exmaple.com', subject='Your receipt', email_type='receipt',
        body_html='<p>Thank you.</p><script>document.title = "broken"</script>', status='failed',
        attempts=1, dead_reason='rejected', smtp_code=550,
        last_error='550 5.1.1 no such user here', relay='primary',
    )  # fmt: skip
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, '
        "smtp_code, reply, duration_ms) VALUES ($1, now(), 1, 'w@host:1', 'rejected', 'rcpt', "
        "'primary', 550, '550 5.1.1 no such user here', 12)",
        email_id,
    )
    return email_id


async def test_failing_mail_is_found_understood_corrected_and_sent(
    person, dead, start_worker, inbox, pool
):
    await start_worker().started()
    page = await person.page()
    await page.click('nav >> text=Mail')
    await page.keyboard.press('/')
    await page.keyboard.type('anna@exmaple.com')
    await page.keyboard.press('Enter')
    await page.click('text=anna@exmaple.com')
    assert 'The relay refused it for good: 550 5.1.1' in await page.inner_text('.explained')
    assert 'rejected by primary at RCPT TO' in await page.inner_text('.timeline')
    await page.click('text=Correct the recipient')
    await page.fill('#recipient', 'anna@example.com')
    await page.fill('#reason', 'a typo')
    await page.click('button.main >> text=Go on')
    await page.click('button.main >> text=Send it to anna@example.com')
    await page.wait_for_selector('h1 .badge.fine >> text=sent')  # by itself
    (entry,) = inbox.accepted('anna@example.com')
    assert b'Your receipt' in inbox.message(entry)
    assert 'lena: readdressed' in await page.inner_text('.timeline')
    assert await pool.fetchval('SELECT recipient FROM outbound_emails') == 'anna@example.com'


async def test_all_that_match_are_sent_again_by_a_double_click_once(
    person, pool, start_worker, inbox
):
    for n in range(120):
        await insert(pool, recipient=f'all{n}@example.com', status='failed', attempts=5,
                     last_error='452 mailbox full')  # fmt: skip
    await insert(pool, recipient='other@example.com', status='failed', attempts=5,
                 last_error='550 refused')  # fmt: skip
    await start_worker().started()
    page = await person.page()
    await page.goto(f'{person.address}/mail?status=dead&error=mailbox')
    await page.select_option('#of', 'all')
    await page.click('button >> text=Send again')
    assert 'Send again: 120 e-mails' in await page.inner_text('h1')
    await page.fill('#reason', 'they have room again')
    await page.dblclick('button.main >> text=Send again (120)')
    await page.wait_for_selector('text=120 e-mails changed')
    await wait_until(lambda: len(inbox.accepted()) == 120)
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action = 'email.retry'") == 1

    async def all_are_recorded():
        return sorted(set((await statuses(pool)).values())) == ['failed', 'sent']

    await wait_until(all_are_recorded)


async def test_keyboard_alone_selects_and_holds(person, pool):
    email_id = await insert(pool, subject='Urgent', status='pending', next_retry_at='sql:now()')
    page = await person.page()
    await page.goto(f'{person.address}/mail')
    await page.focus('#of')
    reached = []
    for _ in range(20):
        await page.keyboard.press('Tab')
        focused = await page.evaluate(
            '[document.activeElement.tagName, document.activeElement.value]'
        )
        reached.append(focused)
        if focused == ['INPUT', str(email_id)]:
            break
    assert reached[-1] == ['INPUT', str(email_id)], reached
    await page.keyboard.press('Space')
    assert await page.inner_text('#count') == '1 selected'
    for _ in range(20):
        await page.keyboard.press('Shift+Tab')
        if await page.evaluate('document.activeElement.value') == 'hold':
            break
    await page.keyboard.press('Enter')
    await page.wait_for_selector('h1 >> text=Hold: 1 e-mail')
    await page.focus('#reason')
    await page.keyboard.press('Enter')
    await page.wait_for_selector('text=1 e-mail changed')
    assert (await statuses(pool))[email_id] == 'held'


async def focus_by_tab(page, selector):
    """Press Tab until an element has the focus."""
    wanted = await page.locator(selector).first.element_handle()
    for _ in range(80):
        await page.keyboard.press('Tab')
        if await page.evaluate('wanted => document.activeElement === wanted', wanted):
            return
    raise AssertionError(f'{selector} is not reached by Tab')


@pytest.mark.parametrize('options', [{}, PHONE], ids=['wide', 'phone'])
async def test_keyboard_alone_finds_corrects_and_sends_again(person, dead, pool, options):
    page = await person.page(**options)
    await focus_by_tab(page, 'nav a:has-text("Mail")')
    await page.keyboard.press('Enter')
    await page.wait_for_url('**/mail')
    await page.keyboard.press('/')
    await page.keyboard.type('anna@exmaple.com')
    await page.keyboard.press('Enter')
    await page.wait_for_url('**/mail?q=*')
    await focus_by_tab(page, '.to a')
    await page.keyboard.press('Enter')
    await page.wait_for_url(f'**/mail/{dead}')
    await focus_by_tab(page, 'a:has-text("Correct the recipient")')
    await page.keyboard.press('Enter')
    await page.wait_for_selector('#recipient:focus')
    await page.keyboard.press('Control+a')
    await page.keyboard.type('anna@example.com')
    await page.keyboard.press('Enter')
    await page.wait_for_selector('button:has-text("Send it to anna@example.com")')
    await focus_by_tab(page, 'button:has-text("Send it to anna@example.com")')
    await page.keyboard.press('Enter')
    await page.wait_for_selector('h1 .badge >> text=pending')
    row = await pool.fetchrow('SELECT recipient, status FROM outbound_emails')
    assert tuple(row) == ('anna@example.com', 'pending')


async def test_attachment_is_saved_as_a_file(person, pool, tmp_path):
    given = [Attachment('receipt.html', 'text/html', b'<script>alert(1)</script>')]
    async with pool.acquire() as conn:
        email_id = await queue_email(
            conn, recipient='anna@example.com', subject='x', body_text='y', attachments=given
        )
    page = await person.page()
    await page.goto(f'{person.address}/mail/{email_id}')
    async with page.expect_download() as saved:
        await page.click('text=receipt.html')
    download = await saved.value
    assert download.suggested_filename == 'receipt.html'
    await download.save_as(tmp_path / 'saved')
    assert await asyncio.to_thread((tmp_path / 'saved').read_bytes) == given[0].data


async def test_everything_works_without_javascript(person, dead, pool):
    page = await person.page(java_script_enabled=False)
    await page.goto(f'{person.address}/mail?q=anna@exmaple.com')
    await page.check(f'input[value="{dead}"]')
    await page.click('button >> text=Send again')
    await page.click('button.main')
    await page.wait_for_url('**/changes/*')
    assert '1 e-mail changed' in await page.inner_text('main')
    assert (await statuses(pool))[dead] == 'pending'
    await page.click('text=Hold those that have not gone out')
    await page.click('button.main')
    assert (await statuses(pool))[dead] == 'held'


async def test_html_of_a_mail_runs_no_script_and_reaches_no_network(person, pool):
    reached = []
    tracker = await asyncio.start_server(lambda *who: reached.append(who), '127.0.0.1', 0)
    place = f'http://127.0.0.1:{tracker.sockets[0].getsockname()[1]}'
    email_id = await insert(
        pool, body_html=f'<p id="x">Hello</p><img src="{place}/x.gif">'
        f'<link rel="stylesheet" href="{place}/x.css"><IFrame src="{place}"></IFrame>'
        f'<object data="{place}"></object><embed src="{place}">'
        f'<script>parent.document.title = "broken"</script><script src="{place}/x.js"></script>'
        f'<meta http-equiv="refresh" content="0;url={place}"><body background="{place}/b.gif">'
        f'<style>p {{ color: red; background: url({place}/c.gif) }}</style>',
    )  # fmt: skip
    page = await person.page()
    await page.goto(f'{person.address}/mail/{email_id}/content')
    frame = page.frame_locator('iframe.body')
    assert await frame.locator('#x').inner_text() == 'Hello'
    await page.wait_for_load_state('networkidle')
    assert await page.title() == f'Content of {email_id} - E-mail desk'
    assert reached == []
    # The browser tells of what it did not fetch, and of nothing else.
    refused = ('Content Security Policy', 'Refused to execute the redirect')
    person.complaints[:] = [
        said for said in person.complaints if not any(words in said for words in refused)
    ]
    tracker.close()


async def test_type_is_paused_and_every_page_says_so(person, pool, dead):
    page = await person.page()
    await page.goto(f'{person.address}/act/pause?kind=email_type&name=receipt')
    await page.fill('#reason', 'wrong prices')
    await page.click('button.main')
    await page.wait_for_url('**/changes/*')
    await page.goto(f'{person.address}/mail')
    strip = await page.inner_text('.strip')
    assert 'the e-mail type receipt, by lena' in strip
    assert 'wrong prices' in strip
    await page.click('.strip >> text=Resume')
    await page.click('button.main')
    await page.wait_for_url('**/changes/*')
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 0


async def test_overview_changes_by_itself(person, pool):
    page = await person.page()
    await page.wait_for_selector('.tile:has-text("dead") b:text-is("0")')
    await insert(pool, status='failed', attempts=5)
    await page.wait_for_selector('.tile:has-text("dead") b:text-is("1")')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('options', [{}, PHONE], ids=['wide', 'phone'])
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    person, dead, pool, axe, scheme, options
):
    for status in ('pending', 'held', 'uncertain', 'cancelled', 'expired'):
        await insert(pool, status=status)
    await pool.execute(
        'INSERT INTO mail_switches (kind, name, reason, paused_by) '
        "VALUES ('relay', 'primary', 'asked', 'lena')"
    )
    await add(pool, ['gone@example.com'], reason='asked by phone', email_type='newsletter')
    outside = await person.page(logged_in=False, color_scheme=scheme, **options)
    await outside.goto(f'{person.address}/login')
    pages = [(outside, '/login')]
    page = await person.page(color_scheme=scheme, **options)
    pages += [(page, path) for path in PATHS]
    for shown, path in pages:
        await shown.goto(f'{person.address}{path}')
        await shown.evaluate(axe)
        found = await shown.evaluate(
            'tags => axe.run({exclude: ["iframe"]}, {runOnly: tags})', WCAG
        )
        violations = [
            (v['id'], [node['html'][:200] for node in v['nodes'][:3]]) for v in found['violations']
        ]
        assert violations == [], path
        wider = await shown.evaluate('document.documentElement.scrollWidth - innerWidth')
        assert wider <= 0, path
    # The page that is none is told as such.
    person.complaints[:] = [said for said in person.complaints if '404' not in said]


async def test_no_value_of_a_row_runs_in_the_browser(person, pool):
    for text in XSS:
        await insert(pool, recipient=text, subject=text, body_text=text, email_type=text,
                     last_error=text, status='failed', attempts=1)  # fmt: skip
    page = await person.page()
    page.on('dialog', lambda dialog: person.complaints.append(dialog.message))
    for path in ('/mail', *(f'/mail/{n + 1}{part}' for n in range(len(XSS))
                            for part in ('', '/recipient', '/content'))):  # fmt: skip
        await page.goto(f'{person.address}{path}')
    await page.goto(f'{person.address}/mail')
    assert await page.locator('.to a').first.inner_text() != ''
