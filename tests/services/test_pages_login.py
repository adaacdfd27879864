"""Who gets in at the desk, and for how long."""

import re
from ipaddress import ip_network

import pytest

from actions.tokens import ApiScope, revoke_token_named
from tests.conftest import wait_until
from tests.services.api_desk import TESTER, form_key, open_desk
from tests.services.ops_desk import insert
from web.api.access import MOST_REFUSALS
from web.auth.people import Role
from web.auth.proxy import TrustedProxy

PATHS = (
    '/mail', '/mail/1', '/mail/1/content', '/mail/1/html', '/mail/1/recipient', '/workers',
    '/relays', '/duties', '/suppressions', '/senders', '/quotas', '/tokens', '/changes',
    '/changes/1',
    '/decide?do=retry&id=1', '/act/pause?kind=relay&name=primary',
)  # fmt: skip


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


async def log_in(client, token, **more):
    page = await client.get('/login')
    data = {'form_key': form_key(page.text), 'token': token}
    return await client.post('/login', data=data, **more)


async def test_who_has_not_logged_in_is_led_to_the_login_and_then_back(desk):
    client = await desk.browser()
    for path in PATHS:
        answer = await client.get(path)
        assert answer.status_code == 303, path
        assert answer.headers['location'].startswith('/login?next='), path
    page = await client.get((await client.get('/mail?q=anna&status=dead')).headers['location'])
    data = {
        'form_key': form_key(page.text), 'token': await desk.token(),
        'next': re.search('name="next" value="([^"]*)"', page.text)[1].replace('&amp;', '&'),
    }  # fmt: skip
    answer = await client.post('/login', data=data)
    assert (answer.status_code, answer.headers['location']) == (303, '/mail?q=anna&status=dead')
    assert (await client.get('/mail')).status_code == 200


@pytest.mark.parametrize(
    'goes_on', ['https://evil.example/', '//evil.example', '/\\evil.example', 'javascript:alert(1)']
)
async def test_login_leads_to_no_other_site(desk, goes_on):
    client = await desk.browser()
    page = await client.get('/login', params={'next': goes_on})
    data = {'form_key': form_key(page.text), 'token': await desk.token(), 'next': goes_on}
    answer = await client.post('/login', data=data)
    assert (answer.status_code, answer.headers['location']) == (303, '/')


async def test_cookie_is_out_of_reach_of_scripts_and_other_sites_and_changes_at_the_login(desk):
    client = await desk.browser()
    before = (await client.get('/login')).headers['set-cookie']
    answer = await log_in(client, await desk.token())
    after = answer.headers['set-cookie']
    for cookie in (before, after):
        assert {'HttpOnly', 'SameSite=lax', 'Path=/'} <= set(cookie.split('; '))
    assert before.partition(';')[0] != after.partition(';')[0]
    over_tls = await log_in(await desk.browser(), await desk.token('tls'),
                            headers={'Origin': 'https://desk.example'})  # fmt: skip
    assert over_tls.headers['set-cookie'].startswith('__Host-desk=')
    assert 'Secure' in over_tls.headers['set-cookie']


async def test_session_is_stored_as_a_hash_and_ends_at_the_logout(desk, pool):
    client = await desk.person()
    secret = client.cookies['desk']
    assert not await pool.fetchval(
        "SELECT count(*) FROM mail_desk_sessions WHERE session_hash = convert_to($1, 'UTF8')",
        secret,
    )
    page = await client.get('/mail')
    refused = await client.post('/logout', data={'form_key': 'wrong'})
    assert refused.status_code == 403
    answer = await client.post('/logout', data={'form_key': form_key(page.text)})
    assert answer.status_code == 303
    client.cookies.set('desk', secret)
    assert (await client.get('/mail')).status_code == 303
    assert await pool.fetchval('SELECT count(*) FROM mail_desk_sessions') == 0


async def test_session_ends_with_its_token_and_with_its_time(desk, pool):
    client = await desk.person()
    assert (await client.get('/mail')).status_code == 200
    await revoke_token_named(desk.api.servers, 'lena', by=TESTER)

    async def is_out():
        return (await client.get('/mail')).status_code == 303

    await wait_until(is_out)
    other = await desk.person('oscar')
    await pool.execute("UPDATE mail_desk_sessions SET expires_at = now() - interval '1 s'")
    await wait_until(lambda: _is_out(other))


async def _is_out(client):
    return (await client.get('/mail')).status_code == 303


async def test_login_is_written_down_and_a_wrong_token_is_refused(desk, pool):
    await desk.person()
    assert await pool.fetchval("SELECT actor FROM mail_audit WHERE action = 'desk.login'") == 'lena'
    refused = await log_in(await desk.browser(), 'amw_nothing')
    assert refused.status_code == 401
    assert 'the token is none, has expired or was revoked' in refused.text


async def test_guessing_is_held_up_and_who_has_a_token_gets_in_all_the_same(desk):
    client = await desk.browser()
    key = form_key((await client.get('/login')).text)
    for _ in range(MOST_REFUSALS):
        await client.post('/login', data={'form_key': key, 'token': 'amw_guess'})
    refused = await client.post('/login', data={'form_key': key, 'token': 'amw_guess'})
    assert refused.status_code == 429
    assert (await log_in(client, await desk.token())).status_code == 303


async def test_token_that_is_not_for_looking_does_not_log_in(desk):
    answer = await log_in(await desk.browser(), await desk.token(scopes=[ApiScope.SEND]))
    assert answer.status_code == 403


async def test_roles_may_what_they_may(desk, pool):
    await insert(pool, status='failed', attempts=1)
    onlooker = await desk.person('look', [ApiScope.READ])
    page = await onlooker.get('/mail')
    assert 'name="do"' not in page.text
    for path in ('/decide?do=retry&id=1', '/mail/1/content', '/mail/1/html', '/mail/1/recipient',
                 '/act/pause?kind=relay&name=primary', '/tokens'):  # fmt: skip
        assert (await onlooker.get(path)).status_code == 403, path
    key = form_key(page.text)
    for path in ('/decide', '/mail/1/recipient', '/act/pause'):
        answer = await onlooker.post(path, data={'form_key': key, 'do': 'retry', 'id': '1'})
        assert answer.status_code == 403, path
    operator = await desk.person('operate', [ApiScope.READ, ApiScope.OPERATE])
    assert (await operator.get('/decide?do=retry&id=1')).status_code == 200
    for path in ('/tokens', '/act/revoke-token?name=look', '/act/allow-sender?name=a@b.example'):
        assert (await operator.get(path)).status_code == 403, path


async def test_person_of_an_organisation_sees_its_mail_and_nothing_else(desk, pool):
    mine = await insert(pool, organization_id=7, subject='Mine', status='failed', attempts=1)
    other = await insert(pool, organization_id=8, subject='Theirs', status='failed', attempts=1)
    client = await desk.person('tenant', organization_id='7')
    page = (await client.get('/mail')).text
    assert 'Mine' in page
    assert 'Theirs' not in page
    assert 'Theirs' not in (await client.get('/mail?organization=8')).text
    for path in (f'/mail/{other}', f'/mail/{other}/content', f'/mail/{other}/html'):
        assert (await client.get(path)).status_code == 404, path
    for path in ('/workers', '/relays', '/duties', '/suppressions', '/changes', '/tokens'):
        assert (await client.get(path)).status_code == 403, path
    plan = (await client.get(f'/decide?do=retry&id={mine}&id={other}')).text
    assert 'Send again: 1 e-mail<' in plan


@pytest.mark.parametrize(
    ('headers', 'key'),
    [({}, ''), ({}, 'wrong'), ({'Sec-Fetch-Site': 'cross-site'}, None),
     ({'Sec-Fetch-Site': 'same-site'}, None)],
)  # fmt: skip
async def test_form_of_another_site_changes_nothing(desk, pool, headers, key):
    await insert(pool, status='failed', attempts=1)
    client = await desk.person()
    data = {
        'form_key': form_key((await client.get('/mail')).text) if key is None else key,
        'do': 'retry', 'id': '1', 'request_key': 'k' * 20,
    }  # fmt: skip
    assert (await client.post('/decide', data=data, headers=headers)).status_code == 403
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'failed'


async def test_form_key_of_one_browser_is_none_of_another(desk):
    one, other = await desk.person('one'), await desk.person('other')
    key = form_key((await one.get('/mail')).text)
    assert (await other.post('/logout', data={'form_key': key})).status_code == 403


@pytest.mark.parametrize('body', [b'\xff\xfe', b'a=' + b'x' * 70_000, b'&'.join([b'a=1'] * 3000)])
async def test_form_that_cannot_be_read_is_refused(desk, body):
    client = await desk.person()
    headers = {'Content-Type': 'application/x-www-form-urlencoded'}
    answer = await client.post('/decide', content=body, headers=headers)
    assert answer.status_code in {400, 413}


PROXY = TrustedProxy([ip_network('127.0.0.0/8')], 'X-Forwarded-User', Role.OPERATE)


async def test_trusted_proxy_names_people_and_their_addresses(env, pool):
    await insert(pool, status='failed', attempts=1)
    async with open_desk(env, proxy=PROXY) as desk:
        client = await desk.browser()
        client.headers['X-Forwarded-User'] = 'lena'
        client.headers['X-Forwarded-For'] = '203.0.113.9, 10.9.9.9'
        page = await client.get('/decide?do=retry&id=1')
        assert page.status_code == 200
        assert 'Log out' not in page.text
        key = re.search('name="request_key" value="([^"]+)"', page.text)[1]
        data = {'form_key': form_key(page.text), 'request_key': key, 'do': 'retry', 'id': '1'}
        assert (await client.post('/decide', data=data)).status_code == 303
        entry = await pool.fetchrow("SELECT actor, origin FROM mail_audit WHERE actor = 'lena'")
        assert tuple(entry) == ('lena', '10.9.9.9')
        assert (await client.get('/tokens')).status_code == 403
        del client.headers['X-Forwarded-User']
        assert (await client.get('/mail')).status_code == 303


async def test_header_of_anybody_else_names_nobody(env):
    for trusted in (
        TrustedProxy([ip_network('10.0.0.0/8')], 'X-Forwarded-User', Role.OPERATE),
        TrustedProxy([ip_network('127.0.0.0/8')]),
    ):
        async with open_desk(env, proxy=trusted) as desk:
            client = await desk.browser()
            client.headers['X-Forwarded-User'] = 'lena'
            assert (await client.get('/mail')).status_code == 303
    async with open_desk(env, proxy=PROXY) as desk:
        client = await desk.browser()
        twice = [('X-Forwarded-User', 'lena'), ('X-Forwarded-User', 'mallory')]
        assert (await client.get('/mail', headers=twice)).status_code == 303
