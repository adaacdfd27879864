"""The desk below a path: mounted in another application, and behind a proxy with or without it."""

import contextlib
import html
import re
from ipaddress import ip_network
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from dev.desk_content import fill
from settings import load_settings
from tests.conftest import DEADLINE_S, ROOT
from tests.services.api_desk import ALL_SCOPES, PERSON_SCOPES, form_key, open_desk
from tests.services.ops_desk import insert
from web.auth.proxy import TrustedProxy
from web.mounted import MountedDesk
from web.place import PublicPlace, told_prefix

PREFIX = '/mail-desk'
LINK = re.compile(r'(?:href|src|data-stream)="([^"]*)"')
FORM = re.compile(r'(?:<form[^>]* action|formaction)="([^"]*)"')
MOST_WALKED = 400
PROXY = TrustedProxy([ip_network('127.0.0.0/8')])


class Stripped(httpx.AsyncBaseTransport):
    """A proxy that takes the path off, as nginx's `proxy_pass http://desk/;` does."""

    def __init__(self, app, headers):
        self._inner = httpx.ASGITransport(app)
        self._headers = headers

    async def handle_async_request(self, request):
        path = request.url.raw_path.decode()
        assert path == PREFIX or path.startswith((f'{PREFIX}/', f'{PREFIX}?')), path
        request.url = request.url.copy_with(raw_path=(path[len(PREFIX) :] or '/').encode())
        request.headers.update(self._headers)
        return await self._inner.handle_async_request(request)


@contextlib.asynccontextmanager
async def below_a_path(env, way):
    """Yield a browser, and a way to make a token, of a desk that is below PREFIX."""
    place = PublicPlace() if way == 'told' else PublicPlace.of(f'http://localhost{PREFIX}/')
    async with open_desk(env, proxy=PROXY, place=place) as desk:
        app, close = desk.app, None
        if way == 'mounted':
            mounted = MountedDesk(load_settings())
            app, close = FastAPI(), mounted.close
            app.mount(PREFIX, mounted.app)
        told = {'X-Forwarded-Prefix': f'{PREFIX}/'} if way == 'told' else {}
        left_on = way in {'mounted', 'left on'}
        transport = httpx.ASGITransport(app) if left_on else Stripped(app, told)
        async with httpx.AsyncClient(
            transport=transport, base_url='http://localhost', timeout=DEADLINE_S,
            headers={'Accept': 'text/html'},
        ) as client:  # fmt: skip
            yield client, desk
        if close is not None:
            await close()


WAYS = ('mounted', 'left on', 'taken off', 'told')


@pytest.fixture
def settings_of_env(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)


async def log_in(client, desk):
    page = await client.get(f'{PREFIX}/login')
    data = {'form_key': form_key(page.text), 'token': await desk.token('lena', PERSON_SCOPES)}
    return await client.post(f'{PREFIX}/login', data=data)


@pytest.mark.parametrize('way', WAYS)
async def test_every_link_below_a_path_leads_to_a_page_below_it(env, pool, settings_of_env, way):
    await fill(pool, emails=12)
    async with below_a_path(env, way) as (client, desk):
        answer = await log_in(client, desk)
        assert (answer.status_code, answer.headers['location']) == (303, f'{PREFIX}/')
        assert f'Path={PREFIX}' in answer.headers['set-cookie'].split('; ')
        walked = await walk(client)
    paths = {urlsplit(address).path.removeprefix(PREFIX) for address in walked}
    assert {
        '/', '/mail', '/mail/1', '/mail/1/content', '/mail/1/html', '/decide', '/workers',
        '/changes', '/suppressions', '/tokens', '/act/pause', '/live',
    } <= paths  # fmt: skip
    assert ('/metrics' in paths) == ('/api/status' in paths) == (way != 'mounted')  # no token
    assert any(path.startswith('/static/') for path in paths)


async def walk(client):
    """Follow every link from the overview on. Returns the addresses."""
    waiting, seen = [f'{PREFIX}/'], {f'{PREFIX}/'}
    while waiting and len(seen) < MOST_WALKED:
        address = waiting.pop()
        if address.endswith('/live'):
            continue
        answer = await client.get(address)
        if answer.is_redirect:
            found = [answer.headers['location']]
        else:
            assert answer.status_code == 200, (address, answer.status_code)
            is_page = answer.headers['content-type'].startswith('text/html')
            found = LINK.findall(answer.text) if is_page and '/html' not in address else []
            for form in FORM.findall(answer.text) if is_page and '/html' not in address else ():
                assert form.startswith(f'{PREFIX}/'), (address, form)
        for link in map(html.unescape, found):
            if link.startswith('#'):
                continue
            target = urljoin(address, link)
            assert target.startswith(f'{PREFIX}/'), (address, link)
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


@pytest.mark.parametrize('way', WAYS)
async def test_form_below_a_path_changes_and_leads_on_below_it(env, pool, settings_of_env, way):
    email_id = await insert(pool, status='failed', attempts=1)
    async with below_a_path(env, way) as (client, desk):
        wanted = await client.get(f'{PREFIX}/mail?q=anna')
        assert wanted.headers['location'] == f'{PREFIX}/login?next=%2Fmail%3Fq%3Danna'
        await log_in(client, desk)
        page = await client.get(f'{PREFIX}/decide?do=retry&id={email_id}')
        fields = dict(re.findall('<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text))
        assert f'action="{PREFIX}/decide"' in page.text
        answer = await client.post(f'{PREFIX}/decide', data=fields)
        assert answer.headers['location'].startswith(f'{PREFIX}/changes/')
        page = await client.get(answer.headers['location'])
        assert '1 e-mail changed' in page.text
        out = await client.post(f'{PREFIX}/logout', data={'form_key': form_key(page.text)})
        assert out.headers['location'] == f'{PREFIX}/login'
        assert (await client.get(f'{PREFIX}/mail')).status_code == 303
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'pending'


@pytest.mark.parametrize('way', WAYS)
async def test_api_below_a_path_sends_and_its_description_names_the_path(
    env, pool, settings_of_env, way
):
    async with below_a_path(env, way) as (client, desk):
        headers = {'Authorization': f'Bearer {await desk.token("api", ALL_SCOPES)}'}
        body = {
            'from': 'noreply@example.com', 'to': 'anna@example.com', 'subject': 'x', 'text': 'y',
        }  # fmt: skip
        sent = await client.post(f'{PREFIX}/emails', json=body, headers=headers)
        assert sent.status_code == 200, sent.text
        unknown = await client.get(f'{PREFIX}/api/nothing', headers=headers)
        assert unknown.headers['content-type'] == 'application/problem+json'
        described = (await client.get(f'{PREFIX}/openapi.json')).json()
    assert described['servers'] == [{'url': PREFIX}]
    assert await pool.fetchval('SELECT recipient FROM outbound_emails') == 'anna@example.com'


async def test_mounted_desk_shows_nothing_before_the_login(env, pool, settings_of_env):
    async with below_a_path(env, 'mounted') as (client, _):
        assert (await client.get(f'{PREFIX}/')).headers['location'] == f'{PREFIX}/login'
        assert (await client.get(f'{PREFIX}/metrics')).status_code == 401
        assert (await client.get(f'{PREFIX}/health/ready')).text == 'ready\n'


async def test_path_without_its_slash_is_led_to_the_overview(env):
    async with below_a_path(env, 'left on') as (client, _):
        answer = await client.get(PREFIX)
        assert (answer.status_code, answer.headers['location']) == (307, f'{PREFIX}/')


async def test_prefix_and_tls_count_from_a_trusted_proxy_alone(env):
    headers = {'X-Forwarded-Prefix': PREFIX, 'X-Forwarded-Proto': 'https'}
    async with open_desk(env, proxy=PROXY) as desk:
        client = await desk.browser()
        page = await client.get('/login', headers=headers)
        assert f'action="{PREFIX}/login"' in page.text
        cookie = page.headers['set-cookie']
        assert cookie.startswith('__Secure-desk=')
        assert {'Secure', f'Path={PREFIX}'} <= set(cookie.split('; '))
    async with open_desk(env, proxy=TrustedProxy([ip_network('10.0.0.0/8')])) as desk:
        client = await desk.browser()
        page = await client.get('/login', headers=headers)
        assert 'action="/login"' in page.text
        assert page.headers['set-cookie'].startswith('desk=')


@pytest.mark.parametrize(
    'told',
    [
        '/a/../b',
        '//evil.example',
        'https://evil.example',
        '/a"><script>',
        '/a/../b\n',
        '/' * 300,
        'a',
    ],
)
def test_prefix_that_is_no_path_is_not_taken(told):
    assert told_prefix(told) == ''


async def test_public_name_is_answered_over_tls_and_another_name_is_not(env):
    place = PublicPlace.of('https://ops.example.com:8443/mail-desk/')
    async with open_desk(env, place=place) as desk:
        client = await desk.browser()
        page = await client.get('/login', headers={'Host': 'ops.example.com:8443'})
        assert page.headers['set-cookie'].startswith('__Secure-desk=')
        refused = await client.get('/login', headers={'Host': 'evil.example'})
        assert refused.status_code == 421
        assert 'WEB_PUBLIC_URL' in refused.text


@pytest.mark.parametrize(
    'url', ['ops.example.com', 'ftp://a', 'https://a/b?c', 'https://u:p@a/', 'https://a/b c']
)
def test_public_url_that_is_none_stops_the_start(settings_of_env, monkeypatch, url):
    monkeypatch.setenv('WEB_PUBLIC_URL', url)
    with pytest.raises(SystemExit, match='WEB_PUBLIC_URL'):
        load_settings()


def test_templates_have_no_address_that_forgets_the_path():
    for path in (ROOT / 'web/templates').glob('*.html'):
        if path.name == 'unsubscribe.html':  # no page of the desk: it refers to what is beside it
            continue
        forgetful = re.findall(
            r'(?:href|src|action|data-stream)="(?!\{\{ (?:root|out) \}\}|#)[^"]*', path.read_text()
        )
        assert forgetful == [], path.name
