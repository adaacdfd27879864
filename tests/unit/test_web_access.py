"""Who may look at the web page, and what is told of every answer."""

import base64
import re
import socket

import httpx
import pytest

from engine.urls import is_loopback
from reporting.servers import ServerAddresses
from settings import Settings
from tests.services.api_desk import api_for
from tests.services.ops_desk import closed_port
from web.__main__ import check_access, open_listener
from web.application import make_application
from web.watch import Source, Watch

TOKEN = 'a token of w\N{LATIN SMALL LETTER O WITH DIAERESIS}rds'
PATHS = ('/', '/metrics', '/api/status', '/health/ready', '/health/live', '/no/such/path')
OPEN = {'/health/ready', '/health/live'}
NOWHERE = ServerAddresses('postgresql://127.0.0.1/mail', 'redis://127.0.0.1/1')


@pytest.fixture
async def ask():
    """Ask the application, which has nobody to ask itself."""
    nobody = Watch(NOWHERE, {Source.REDIS: {}})

    async def ask(
        path, method='GET', *, token=None, loopback_only=True, host='localhost:8625', **headers
    ):
        app = make_application(
            nobody, nobody, token=token, loopback_only=loopback_only, api=api_for(NOWHERE)
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url='http://localhost:8625'
        ) as client:
            return await client.request(method, path, headers={'Host': host} | headers)

    yield ask
    await nobody.close()


def basic(password, user='anna'):
    return 'Basic ' + base64.b64encode(f'{user}:{password}'.encode()).decode()


@pytest.mark.parametrize('path', PATHS)
async def test_every_answer_and_every_refusal_has_the_security_headers(ask, path):
    for answer in (await ask(path), await ask(path, token=TOKEN),
        await ask(path, host='evil.example'),
                   await ask(path, 'DELETE')):  # fmt: skip
        policy = answer.headers['content-security-policy']
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert 'unsafe' not in policy
        assert answer.headers['x-content-type-options'] == 'nosniff'
        assert answer.headers['referrer-policy'] == 'no-referrer'
        assert answer.headers['cache-control'] == 'no-store'


async def test_page_has_nothing_from_elsewhere_and_reloads_itself_without_javascript(ask):
    page = (await ask('/')).text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(files) == 3
    for path in files:
        answer = await ask(path)
        assert (answer.status_code, answer.headers['cache-control']) == (
            200,
            'public, max-age=31536000, immutable',
        )
        assert answer.headers['x-content-type-options'] == 'nosniff'
    assert (await ask(files[0].replace('static/', 'static/0'))).status_code == 404
    assert not re.search(
        r'<script>|<style|javascript:|(href|src|action)="https?://|@import| on\w+=', page
    )


@pytest.mark.parametrize('method', ['POST', 'PUT', 'PATCH', 'DELETE'])
async def test_nothing_but_get_and_head_is_allowed(ask, method):
    for path in PATHS[:-1]:
        answer = await ask(path, method)
        assert (answer.status_code, set(answer.headers['allow'].split(', '))) == (
            405,
            {'GET', 'HEAD'},
        )


async def test_token_is_wanted_for_metrics_and_status_and_else_people_log_in(ask):
    for path in PATHS:
        answer = await ask(path, token=TOKEN)
        wanted = {'/metrics': 401, '/api/status': 401, '/': 303, '/no/such/path': 404}
        assert answer.status_code == wanted.get(path, 200), path
        if answer.status_code == 401:
            assert answer.headers['www-authenticate'].startswith('Basic realm=')
            assert 'email_' not in answer.text
    assert (await ask('/', token=TOKEN)).headers['location'] == '/login'
    assert (await ask('/live', token=TOKEN)).status_code == 401
    authorization = f'Bearer {TOKEN}'.encode()
    assert (await ask('/', token=TOKEN, authorization=authorization)).status_code == 200


async def test_paths_of_the_api_do_not_ask_for_the_pages_token(ask):
    for path in ('/api/emails', '/admin/emails/1/retry', '/emails', '/emails/1', '/openapi.json'):
        answer = await ask(path, token=TOKEN)
        assert 'Basic' not in answer.headers.get('www-authenticate', ''), path


@pytest.mark.parametrize(
    'authorization',
    [
        pytest.param(f'Bearer {TOKEN}'.encode(), id='bearer'),
        pytest.param(f'bearer  {TOKEN}'.encode(), id='other case'),
        pytest.param(basic(TOKEN), id='basic'),
        pytest.param(basic(TOKEN, user=''), id='basic without a user'),
    ],
)
async def test_right_token_is_accepted(ask, authorization):
    assert (await ask('/metrics', token=TOKEN, authorization=authorization)).status_code == 200


@pytest.mark.parametrize(
    'authorization',
    ['', 'Bearer', 'Bearer ', f'Bearer {TOKEN[:-1]}'.encode(), f'Bearer {TOKEN}s'.encode(),
        f'Digest {TOKEN}'.encode(),
     f'Basic {TOKEN}'.encode(), 'Basic !!!', 'Basic', basic(''), basic('x', user=TOKEN),
     'Basic YWJj', b'Bearer \xff'],
)  # fmt: skip
async def test_wrong_token_is_refused(ask, authorization):
    assert (await ask('/metrics', token=TOKEN, authorization=authorization)).status_code == 401


@pytest.mark.parametrize(
    'host',
    [
        'localhost',
        'localhost:8625',
        '127.0.0.1',
        '127.0.0.1:1',
        '127.9.9.9:8625',
        '[::1]:8625',
        'LOCALHOST',
    ],
)
async def test_names_of_this_machine_are_accepted(ask, host):
    assert (await ask('/', host=host)).status_code == 200


@pytest.mark.parametrize(
    'host', ['evil.example', 'localhost.evil.example:8625', '', 'a@evil.example', '[', '::1']
)
async def test_other_names_are_refused_on_loopback_and_accepted_elsewhere(ask, host):
    refused = await ask('/', host=host)
    assert refused.status_code == 421
    assert 'localhost' in refused.text
    authorization = f'Bearer {TOKEN}'.encode()
    accepted = await ask(
        '/', host=host, loopback_only=False, token=TOKEN, authorization=authorization
    )
    assert accepted.status_code == 200


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '10.0.0.1', 'mail.example', 'localhost.example'])
def test_listening_for_others_without_a_token_is_refused_with_the_variables_named(host):
    assert not is_loopback(host)
    with pytest.raises(SystemExit, match=rf'^web: WEB_HOST={re.escape(host)} .*WEB_TOKEN'):
        check_access(Settings(_env_file=None, web_host=host))
    check_access(Settings(_env_file=None, web_host=host, web_token='sixteen or more!'))


@pytest.mark.parametrize('host', ['127.0.0.1', '127.9.9.9', '::1', 'localhost'])
def test_this_machine_needs_no_token(host):
    check_access(Settings(_env_file=None, web_host=host))


def test_address_that_is_taken_is_named_with_its_variables():
    with pytest.raises(
        SystemExit, match=r'^web: cannot listen on 127\.0\.0\.1:\d+: .*WEB_HOST or WEB_PORT$'
    ):
        open_listener('127.0.0.1', closed_port())


def test_answers_in_two_parts_are_not_held_back():
    with open_listener('127.0.0.1', 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
