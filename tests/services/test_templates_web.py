"""Templates over HTTP: pushed by who may, previewed, shown in a frame, and sent as a test."""

import html
import re

import pytest

from actions.tokens import ApiScope
from tests.services.api_desk import open_desk
from tests.services.test_pages_fleet import XSS, act
from tests.services.test_templates import DATA, WELCOME


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


async def test_api_pushes_lists_and_previews(desk, pool):
    pusher = await desk.client(await desk.token('ci', [ApiScope.READ, ApiScope.ADMINISTER]))
    would = await pusher.put('/api/templates', json={'files': WELCOME, 'dry_run': True})
    assert (would.status_code, would.json()['templates'][0]['id']) == (200, None)
    done = (await pusher.put('/api/templates', json={'files': WELCOME})).json()
    assert [(t['name'], t['version'], t['is_new_version']) for t in done['templates']] == [
        ('welcome', 1, True)
    ]
    assert (
        await pool.fetchval("SELECT actor FROM mail_audit WHERE action = 'template.push'") == 'ci'
    )
    [listed] = (await pusher.get('/api/templates')).json()['templates']
    assert (listed['name'], listed['version'], listed['pushed_by']) == ('welcome', 1, 'ci')
    one = (await pusher.get('/api/templates/welcome')).json()
    assert (one['sample'], len(one['versions'])) == (DATA, 1)
    shown = await pusher.post('/api/templates/welcome/preview', json={'locale': 'de'})
    assert shown.json()['subject'] == 'Hallo Anna'
    plain = await pusher.post('/api/templates/welcome/preview')
    assert plain.json()['subject'] == 'Hello Anna'


@pytest.mark.parametrize(
    ('method', 'path', 'body', 'status', 'told'),
    [
        ('PUT', '', {'files': {'a/body.html': '{{'}}, 422, 'a/body.html line 1'),
        ('PUT', '', {'files': {}}, 422, 'there is no template'),
        ('PUT', '', {'files': {'a/body.html': 1}}, 422, 'files'),
        ('PUT', '', {'files': {'a/body.html': 'x' * 3_000_000}}, 413, 'too large'),
        ('PUT', '', {'files': {'../../x/body.html': 'x', '': 'y'}}, 422, 'is no'),
        ('POST', '/nope/preview', {}, 404, 'there is no template'),
        ('POST', '/welcome/preview', {'locale': '../..'}, 422, 'body.locale'),
        ('POST', '/welcome/preview', {'version': 0}, 422, 'version'),
        ('POST', '/welcome/preview', {'data': {}}, 422, 'is undefined'),
        ('GET', '/nope', None, 404, 'there is no template'),
    ],
)
async def test_api_says_what_is_wrong(desk, method, path, body, status, told):
    client = await desk.client(await desk.token('ci', [ApiScope.READ, ApiScope.ADMINISTER]))
    assert (await client.put('/api/templates', json={'files': WELCOME})).status_code == 200
    answer = await client.request(method, f'/api/templates{path}', json=body)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text


async def test_api_refuses_who_may_not(desk):
    reader = await desk.client(await desk.token('r', [ApiScope.READ]))
    assert (await reader.put('/api/templates', json={'files': WELCOME})).status_code == 403
    bound = await desk.client(
        await desk.token('b', [ApiScope.READ, ApiScope.ADMINISTER], organization_id='7')
    )
    assert (await bound.get('/api/templates')).status_code == 403
    assert (await (await desk.client()).get('/api/templates')).status_code == 401


async def test_page_shows_versions_and_a_preview_in_a_frame_and_sends_a_test(desk, pool):
    client = await desk.client(await desk.token('ci', [ApiScope.READ, ApiScope.ADMINISTER]))
    hostile = {path: text + ''.join(XSS[:4]) if path.endswith('.html') else text
               for path, text in WELCOME.items()}  # fmt: skip
    assert (await client.put('/api/templates', json={'files': hostile})).status_code == 200
    lena = await desk.person()
    listed = (await lena.get('/templates')).text
    [link] = re.findall('href="(/templates/one[^"]*)"', listed)
    page = await lena.get(f'{html.unescape(link)}&locale=de')
    assert 'Hallo Anna' in page.text
    assert '<script>alert' not in page.text
    frame = await lena.get(html.unescape(re.search('src="(/templates/frame[^"]*)"', page.text)[1]))
    assert 'sandbox' in frame.headers['content-security-policy']
    assert 'Hallo Anna' in frame.text
    done = await act(lena, '/act/test-template?name=qa@example.com&kind=1 de')
    assert 'is queued' in done.text
    queued = await pool.fetchrow('SELECT * FROM outbound_emails')
    assert (queued['recipient'], queued['locale'], queued['email_type']) == (
        'qa@example.com', 'de', 'template-test',
    )  # fmt: skip
    for path in ('/templates/one?id=nope', '/templates/one', "/templates/one?id=1&version=99'"):
        assert (await lena.get(path)).status_code == 200
    assert (await lena.get('/templates/frame?id=nope')).status_code == 404
    refused = await lena.get('/act/test-template?name=nonsense&kind=1')
    assert '<form method="post" action="/act' not in refused.text or 'nonsense' in refused.text
