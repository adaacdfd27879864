"""What cannot be taken back: the person shows again who it is, then erases or exports."""

import json

import pytest

from actions.tokens import ApiScope
from mail_outbox.suppression import erased_key
from tests.conftest import wait_until
from tests.services.api_desk import fields_of, form_key, open_desk
from tests.services.ops_desk import insert
from tests.services.test_pages_login import PROXY
from web.api.access import MOST_REFUSALS
from web.auth.people import Role
from web.auth.proxy import TrustedProxy

ANNA = 'anna@example.com'


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def lena(desk):
    return await desk.person()


async def grow_old(pool):
    """Have everybody's last proof be of six minutes ago, and known to be."""
    await pool.execute("UPDATE mail_desk_sessions SET confirmed_at = now() - interval '6 min'")


async def asked_again(client):
    async def is_asked():
        answer = await client.get('/person')
        return answer.headers.get('location') == '/confirm?next=%2Fperson'

    await wait_until(is_asked)


async def erase(client, address=ANNA, reason='asked for it'):
    """Erase as a person does. Returns the change's page."""
    page = await client.get('/person')
    assert page.status_code == 200, page.headers
    data = dict(fields_of(page.text, '/person')) | {'address': address, 'reason': reason}
    plan = await client.post('/person', data=data)
    assert 'Erase what is held on' in plan.text
    done = await client.post('/person', data=dict(fields_of(plan.text, '/person')))
    assert done.status_code == 303, done.text
    return await client.get(done.headers['location'])


async def test_person_is_erased_after_a_look_at_what_would_go_and_the_audit_has_no_address(
    lena, pool
):
    await insert(pool, recipient=ANNA, status='failed', attempts=1)
    await insert(pool, recipient=f'{ANNA}, bert@example.com', status='failed', attempts=1)
    other = await insert(pool, recipient='bert@example.com', status='failed', attempts=1)
    page = await erase(lena)
    assert '1 e-mail to this address alone erased' in page.text
    assert 'taken out of 1 e-mail with others' in page.text
    left = await pool.fetch('SELECT id, recipient FROM outbound_emails ORDER BY id')
    assert [row['id'] for row in left] == [other - 1, other]
    assert all(ANNA not in row['recipient'] for row in left)
    entry = await pool.fetchrow("SELECT * FROM mail_audit WHERE action = 'personal.erase'")
    assert (entry['actor'], entry['problem']) == ('lena', None)
    assert entry['details']['address'] == erased_key(ANNA)
    assert entry['details']['reason'] == 'asked for it'
    assert entry['finished_at'] is not None


async def test_export_is_a_file_with_all_that_is_held_and_the_audit_has_it(lena, pool):
    await insert(pool, recipient=ANNA, subject='Hello', status='failed', attempts=1)
    page = await lena.get('/person')
    data = dict(fields_of(page.text, '/person')) | {'address': ANNA}
    answer = await lena.post('/person/export', data=data)
    assert answer.headers['content-disposition'] == 'attachment; filename="person.json"'
    found = json.loads(answer.text)
    assert found['address'] == ANNA
    assert found['count'] == len(found['entries'])
    assert [entry['subject'] for entry in found['entries'] if entry['kind'] == 'email'] == ['Hello']
    entry = await pool.fetchrow("SELECT * FROM mail_audit WHERE action = 'personal.export'")
    assert (entry['actor'], entry['details']['address']) == ('lena', erased_key(ANNA))


async def test_who_logged_in_six_minutes_ago_is_asked_again_and_then_goes_on(desk, pool):
    client = await desk.browser()
    token = await desk.token('lena', [ApiScope.READ, ApiScope.OPERATE, ApiScope.ADMINISTER])
    page = await client.get('/login')
    await client.post('/login', data={'form_key': form_key(page.text), 'token': token})
    assert (await client.get('/person')).status_code == 200
    await grow_old(pool)
    await asked_again(client)
    await insert(pool, recipient=ANNA)
    key = form_key((await client.get('/mail')).text)
    data = {'form_key': key, 'address': ANNA, 'reason': 'x', 'confirmed': 'yes',
            'request_key': 'k' * 20}  # fmt: skip
    for path in ('/person', '/person/export'):
        assert (await client.post(path, data=data)).headers['location'].startswith('/confirm')
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
    page = await client.get('/confirm?next=%2Fperson')
    other = await desk.token('other', [ApiScope.READ])
    given = dict(fields_of(page.text, '/confirm'))
    refused = await client.post('/confirm', data=given | {'token': other})
    assert refused.status_code == 403
    assert 'this is not the token you logged in with' in refused.text
    answer = await client.post('/confirm', data=given | {'token': token})
    assert answer.headers['location'] == '/person'
    assert (await client.get('/person')).status_code == 200


async def test_guessing_the_token_again_is_held_up(lena):
    given = dict(fields_of((await lena.get('/confirm')).text, '/confirm'))
    for _ in range(MOST_REFUSALS):
        await lena.post('/confirm', data=given | {'token': 'amw_guess'})
    assert (await lena.post('/confirm', data=given | {'token': 'amw_guess'})).status_code == 429


async def test_only_who_administers_all_may(desk):
    operator = await desk.person('operator', [ApiScope.READ, ApiScope.OPERATE])
    tenant = await desk.person('tenant', organization_id='7')
    for client in (operator, tenant):
        assert (await client.get('/person')).status_code == 403
        key = form_key((await client.get('/mail')).text)
        for path in ('/person', '/person/export'):
            assert (await client.post(path, data={'form_key': key})).status_code == 403
    assert 'Privacy' not in (await operator.get('/mail')).text


async def test_whom_a_proxy_names_is_told_where_to_do_it(env):
    proxy = TrustedProxy(PROXY.networks, PROXY.user_header, Role.ADMINISTER)
    async with open_desk(env, proxy=proxy) as desk:
        client = await desk.browser()
        client.headers['X-Forwarded-User'] = 'lena'
        for path in ('/person', '/confirm'):
            answer = await client.get(path)
            assert answer.status_code == 403
            assert 'email-worker ops erase' in answer.text


@pytest.mark.parametrize(
    ('address', 'reason', 'said'),
    [('anna', 'x', 'is no address'), ('@example.com', 'x', 'is a domain'),
     (ANNA, '', 'a reason is missing'), ('', 'x', 'is no address')],
)  # fmt: skip
async def test_what_is_no_address_or_has_no_reason_erases_nothing(
    lena, pool, address, reason, said
):
    await insert(pool, recipient=ANNA)
    data = dict(fields_of((await lena.get('/person')).text, '/person'))
    data |= {'address': address, 'reason': reason, 'confirmed': 'yes'}
    assert said in (await lena.post('/person', data=data)).text
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
