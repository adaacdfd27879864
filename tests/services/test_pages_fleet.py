"""What a person does at the desk about everything but mail, and what every page stands."""

import html
import re
from html.parser import HTMLParser
from typing import ClassVar

import pytest

from actions.tokens import ApiScope
from dev.desk_content import fill
from reporting.kinds import KINDS
from reporting.seen_at import SEEN_AT
from tests.services.api_desk import fields_of, open_desk
from tests.services.ops_desk import insert
from tests.services.test_ops_status import register

XSS = (
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    'javascript:alert(1)', '{{ 7 * 7 }}', '</title></textarea></style><svg onload=alert(1)>',
    '\x1b[31m\u202e<b>x', '&lt;script&gt;', '`<i>x</i>`',
)  # fmt: skip
PAGES = (
    '/templates',
    '/', '/mail', '/mail?status=dead', '/workers', '/relays', '/duties', '/suppressions',
    '/senders', '/quotas', '/tokens', '/webhooks', '/changes',
)  # fmt: skip


OURS = {
    'html', 'head', 'meta', 'title', 'link', 'script', 'noscript', 'body', 'a', 'header', 'nav',
    'div', 'span', 'form', 'input', 'button', 'p', 'strong', 'main', 'h1', 'h2', 'h3', 'section',
    'ul', 'li', 'ol', 'dl', 'dt', 'dd', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'b', 'small',
    'code', 'pre', 'label', 'select', 'option', 'datalist', 'details', 'summary', 'time', 'iframe',
    'progress', 'figure', 'figcaption', 'i', 'svg', 'g', 'rect', 'polyline',
}  # fmt: skip


class Markup(HTMLParser):
    """What a browser makes of a page: its tags, attributes, and where they lead."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.targets = set(), set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.targets |= {
            to or '' for name, to in attributes if name in {'href', 'src', 'action', 'formaction'}
        }
        assert tag != 'script' or dict(attributes).get('src', '').startswith('/static/')


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def lena(desk):
    return await desk.person()


async def act(client, address, **more):
    """Ask for an action and confirm it. Returns the page it leads to."""
    page = await client.get(address)
    assert page.status_code == 200, page.text
    path = address.partition('?')[0]
    answer = await client.post(path, data=dict(fields_of(page.text, path)) | more)
    assert answer.status_code == 303, answer.text
    return await client.get(answer.headers['location'])


async def test_paused_thing_says_by_whom_since_when_and_why_on_every_page(lena, pool, redis):
    relay = {'name': 'primary', 'state': 'ready', 'place': 'mx:25', 'tls': 'starttls'}
    await register(redis, relays=[relay])
    done = await act(lena, '/act/pause?kind=relay&name=primary', reason='they greylist us')
    assert '1 worker hears of it within seconds' in done.text
    switch = await pool.fetchrow('SELECT * FROM mail_switches')
    assert (switch['kind'], switch['name'], switch['paused_by'], switch['reason']) == (
        'relay', 'primary', 'lena', 'they greylist us',
    )  # fmt: skip
    for path in ('/mail', '/relays', '/'):
        page = (await lena.get(path)).text
        strip = re.search('class="strip".*?</div>', page, re.DOTALL)
        if strip is None:  # what is known is at most 2 s old
            continue
        assert 'the relay primary, by lena' in strip[0]
        assert 'they greylist us' in strip[0]
    assert 'by lena' in (await lena.get('/relays')).text
    await act(lena, '/act/resume?kind=relay&name=primary')
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 0
    entries = [row['action'] for row in await pool.fetch('SELECT action FROM mail_audit')]
    assert entries[-2:] == ['switch.pause', 'switch.resume']


@pytest.mark.parametrize('kind', ['queue', 'email_type', 'cron', 'relay', 'nothing', ''])
async def test_name_that_nobody_knows_is_refused_with_those_there_are(lena, kind):
    page = await lena.get(f'/act/pause?kind={kind}&name=unheard-of')
    assert page.status_code == 200
    assert '<form method="post" action="/act/' not in page.text
    assert 'class="remedy"' in page.text


async def test_type_queue_and_duty_are_paused_and_a_duty_is_run(lena, pool, redis):
    await register(redis, functions=['cleanup_expired_emails'],
                   duties=[{'name': 'cleanup_expired_emails', 'every_s': 3600}])  # fmt: skip
    await insert(pool, email_type='news')
    page = (await lena.get('/workers')).text
    assert html.unescape(re.search('href="(/act/pause[^"]*news[^"]*)"', page)[1]) == (
        '/act/pause?name=news&kind=email_type'
    )
    await act(lena, '/act/pause?kind=email_type&name=news')
    await act(lena, '/act/pause?kind=queue&name=arq:queue')
    await act(lena, '/act/pause?kind=cron&name=cleanup_expired_emails')
    assert await pool.fetchval('SELECT count(*) FROM mail_switches') == 3
    assert 'paused' in (await lena.get('/duties')).text
    done = await act(lena, '/act/run-duty?name=cleanup_expired_emails')
    assert 'goes to the queue arq:queue' in done.text
    assert await redis.zcard('arq:queue') == 1


async def test_worker_that_does_not_reply_is_told_nothing_and_the_page_says_so(lena, redis):
    page = await lena.get('/act/pause-worker?name=nobody@host:1')
    assert 'no worker' in page.text


async def test_addresses_are_suppressed_and_senders_allowed_and_both_taken_back(lena, pool):
    await act(lena, '/act/suppress?name=Gone@Example.com', reason='asked by phone')
    page = (await lena.get('/suppressions')).text
    assert 'gone@example.com' in page
    assert 'asked by phone' in page
    await act(lena, '/act/unsuppress?name=gone@example.com')
    assert 'nobody is on the list' in (await lena.get('/suppressions')).text
    await act(lena, '/act/allow-sender?name=@shop.example')
    assert '@shop.example' in (await lena.get('/senders')).text
    await act(lena, '/act/disallow-sender?name=@shop.example')
    assert '@shop.example' not in (await lena.get('/senders')).text
    for path in ('/act/suppress?name=nonsense', '/act/allow-sender?name=nonsense'):
        refused = (await lena.get(path)).text
        assert 'is neither an address nor @ and a domain' in refused
        assert '<form method="post" action="/act' not in refused


async def test_one_type_of_mail_is_suppressed_and_the_page_says_which(lena, pool):
    long_type = 'a-type-of-more-than-twenty-characters'
    await act(lena, f'/act/suppress?name=gone@example.com&kind={long_type}', reason='by phone')
    assert await pool.fetchval('SELECT email_type FROM email_type_suppressions') == long_type
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0
    page = (await lena.get('/suppressions')).text
    assert f'<td>{long_type}</td>' in page
    asked = (await lena.get(f'/act/unsuppress?name=gone@example.com&kind={long_type}')).text
    assert f'Let gone@example.com get mail of the type {long_type} again' in asked
    await act(lena, f'/act/unsuppress?name=gone@example.com&kind={long_type}')
    assert 'nobody is on the list' in (await lena.get('/suppressions')).text


async def test_token_is_revoked_and_shown_to_nobody(lena, desk, pool):
    token = await desk.token('oscar', [ApiScope.READ])
    page = (await lena.get('/tokens')).text
    assert 'oscar' in page
    assert token not in page
    await act(lena, '/act/revoke-token?name=oscar', reason='left')
    assert await pool.fetchval(
        "SELECT revoked_at IS NOT NULL FROM mail_api_tokens WHERE name = 'oscar'"
    )


async def test_every_link_leads_somewhere(lena, pool, redis):
    await register(redis, relays=[{'name': 'primary', 'state': 'ready'}])
    for status in ('failed', 'held', 'uncertain', 'pending'):
        await insert(pool, status=status, attempts=0 if status in {'held', 'pending'} else 1)
    seen, to_walk = set(), list(PAGES)
    while to_walk:
        path = to_walk.pop()
        if path in seen or not path.startswith('/'):
            continue
        seen.add(path)
        answer = await lena.get(path)
        assert answer.status_code in {200, 303}, (path, answer.text[:500])
        if 'text/html' not in answer.headers.get('content-type', ''):
            continue
        links = re.findall('(?:href|src)="([^"#]+)"', answer.text)
        to_walk += [link for link in map(html.unescape, links) if link not in seen]
    assert {'/act/pause?name=primary&kind=relay', '/mail/1/content', '/changes/1'} <= seen
    assert len(seen) < 200


async def test_no_value_of_any_row_becomes_markup(lena, pool, redis, desk):
    for n, text in enumerate(XSS):
        clean = text.replace('\x00', '')
        email_id = await insert(
            pool, recipient=clean, subject=clean, body_text=clean, body_html='x', status='failed',
            attempts=1, email_type=clean, last_error=clean, smtp_response=clean, relay=clean,
            message_id=clean, from_address=clean, cc=clean, headers={clean: clean},
            tags={clean: clean}, recipient_outcomes={clean: ['rejected', clean]},
            enhanced_code=clean, claimed_by=clean,
        )  # fmt: skip
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
            "relay, reply, error) VALUES ($1, now(), 1, $2, 'rejected', $2, $2, $2, $2)",
            email_id, clean,
        )  # fmt: skip
        await pool.execute(
            'INSERT INTO mail_audit (actor, origin, action, details, email_ids, problem) '
            'VALUES ($1, $1, $1, $2, $3, $1)',
            clean, {'reason': clean, clean: clean}, [email_id],
        )  # fmt: skip
        await pool.execute(
            'INSERT INTO mail_switches (kind, name, reason, paused_by) VALUES '
            "('relay', $1, $1, $1)", clean,
        )  # fmt: skip
        await pool.execute('INSERT INTO mail_quotas VALUES ($1, 5)', clean)
        await register(redis, worker=f'w{n}@host:1', state=clean, version=clean, queue='arq:queue',
                       relays=[{'name': clean, 'state': clean, 'last_error': clean}])  # fmt: skip
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome, '
        "detail) SELECT t, now(), t, now(), now(), 'error', t FROM unnest($1::text[]) AS t",
        list(XSS),
    )  # fmt: skip
    paths = [*PAGES, *(f'/mail/{n + 1}{part}' for n in range(len(XSS))
                       for part in ('', '/content', '/recipient'))]  # fmt: skip
    paths += [f'/changes/{n + 2}' for n in range(len(XSS))]
    for text in XSS:
        for path in ('/mail', '/changes', '/act/suppress', '/decide', '/login', '/act/pause'):
            names = ('q', 'type', 'error', 'who', 'name', 'kind', 'do', 'id', 'next', 'since')
            paths.append(f'{path}?' + str(httpx_params(names, text)))
    for path in paths:
        answer = await lena.get(path)
        page = Markup()
        page.feed(answer.text)
        assert page.tags <= OURS, path
        assert not [name for name in page.attributes if name.startswith(('on', 'style'))], path
        assert not [to for to in page.targets if not to.startswith(('/', '#'))], path
        assert '\x1b' not in answer.text, path
        assert '\u202e' not in answer.text, path


def httpx_params(names, text):
    from httpx import QueryParams  # noqa: PLC0415 - short

    return QueryParams(dict.fromkeys(names, text))


async def test_overview_streams_itself_anew_when_something_changes(desk, lena):
    from web.pages.overview import _stream  # noqa: PLC0415 - the stream without a socket

    class Asked:
        app = desk.app.app
        scope: ClassVar = {}

    stream = _stream(Asked())
    assert (await anext(stream)).startswith('retry: ')
    first = await anext(stream)
    assert first.startswith('data: <div data-live="first">')
    assert first.endswith('\n\n')
    desk.app.app.state.desk.is_stopping.set()
    assert [part async for part in stream] == []


@pytest.mark.parametrize('path', ['/no/such/page', '/mail/abc', '/changes/0', '/act/nothing'])
async def test_path_that_is_none_is_a_page_for_people_and_a_line_for_programs(lena, path):
    answer = await lena.get(path)
    assert answer.status_code == 404
    assert '<h1>Not Found</h1>' in answer.text
    text = await lena.get(path, headers={'Accept': '*/*'})
    assert text.text == 'Not Found\n'


async def test_fault_of_ours_is_told_without_its_traceback(desk, monkeypatch):
    client = await desk.browser(raise_app_exceptions=False)

    async def break_down(*_):
        raise RuntimeError('geheim')

    monkeypatch.setattr(type(desk.app.app.state.desk.door), 'visitor', break_down)
    answer = await client.get('/mail', headers={'Accept': 'application/json'})
    assert answer.status_code == 500
    assert 'geheim' not in answer.text


def test_every_problem_that_leads_somewhere_is_one_that_can_be_found():
    assert set(SEEN_AT) <= set(KINDS)


async def test_overview_draws_what_happened_and_names_domains_to_who_has_logged_in(
    desk, lena, pool
):
    await fill(pool, 40)
    attempts = await pool.fetchval(
        "SELECT sum(attempts) FROM mail_history WHERE span_s = 3600 AND dimension = 'all' "
        "AND outcome = 'accepted'"
    )
    page = (await lena.get('/?window=7d')).text
    assert page.count('<svg class="chart"') == 2
    assert f'sent <b>{attempts}</b>' in page
    assert 'mail.example.net' in page
    assert 'href="/?window=7d" aria-current="true"' in page
    nobody = await desk.browser()
    page = (await nobody.get('/?window=nonsense')).text
    assert page.count('<svg class="chart"') == 2
    assert 'example.net' not in page


async def test_overview_without_its_history_says_so_and_shows_the_rest(desk, lena, pool):
    await pool.execute('ALTER TABLE mail_history RENAME TO mail_history_away')
    try:
        page = await lena.get('/')
    finally:
        await pool.execute('ALTER TABLE mail_history_away RENAME TO mail_history')
    assert page.status_code == 200
    assert 'not known: ' in page.text
    assert '<h2>Duties</h2>' in page.text
