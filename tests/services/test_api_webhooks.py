"""Webhooks over HTTP: who may do what, and that organisations are kept apart."""

import pytest

from actions.tokens import ApiScope
from tests.services.api_desk import open_desk

URL = 'https://shop.example/hook'
EVERYTHING = [ApiScope.READ, ApiScope.OPERATE, ApiScope.ADMINISTER]


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def client(desk):
    return await desk.client(await desk.token('admin', EVERYTHING))


async def test_a_webhook_lives_from_its_creation_to_its_removal(client, pool, queue):
    made = await client.post('/api/webhooks', json={'url': URL, 'event_types': ['email.queued']})
    assert made.status_code == 201, made.text
    webhook_id, secret = made.json()['id'], made.json()['secret']
    await queue()
    (listed,) = (await client.get('/api/webhooks')).json()['webhooks']
    assert (listed['url'], listed['waiting'], listed['created_by']) == (URL, 1, 'admin')
    assert secret not in str(listed)
    path = f'/api/webhooks/{webhook_id}'
    page = (await client.get(f'{path}/deliveries?limit=1')).json()
    (delivery,) = page['deliveries']
    assert delivery['status'] == 'waiting'
    await pool.execute("UPDATE mail_webhook_deliveries SET status = 'dead'")
    again = await client.post(f'{path}/replay', json={'since': '2026-01-01T00:00:00Z'})
    assert (again.status_code, again.json()) == (202, {'replayed': 1})
    again = await client.post(f'{path}/replay', json={'deliveries': [delivery['id']]})
    assert again.json() == {'replayed': 0}
    rotated = (await client.post(f'{path}/rotate')).json()['secret']
    assert rotated.startswith('whsec_')
    assert rotated != secret
    tested = await client.post(f'{path}/test')
    assert tested.json()['delivery_id'] > delivery['id']
    assert (await client.post(f'{path}/disable', json={'reason': 'they move'})).status_code == 200
    (listed,) = (await client.get('/api/webhooks')).json()['webhooks']
    assert (listed['enabled'], listed['disabled_reason']) == (False, 'they move')
    assert (await client.post(f'{path}/enable')).status_code == 200
    assert (await client.delete(path)).json() == {'id': webhook_id}
    assert (await client.get('/api/webhooks')).json() == {'webhooks': []}
    actions = [
        row['action'] for row in await pool.fetch('SELECT action FROM mail_audit ORDER BY id')
    ]
    assert [action for action in actions if action.startswith('webhook.')] == [
        f'webhook.{word}'
        for word in ('create', 'replay', 'replay', 'rotate', 'test', 'disable', 'enable', 'remove')
    ]
    assert not await pool.fetchval("SELECT bool_or(details::text LIKE '%whsec_%') FROM mail_audit")


@pytest.mark.parametrize('url', ['ftp://a.example/', 'https://u:p@a.example/', 'nonsense', ''])
async def test_a_url_that_nobody_could_post_to_is_refused(client, url):
    assert (await client.post('/api/webhooks', json={'url': url})).status_code == 422


async def test_each_scope_may_do_its_part(desk, client):
    webhook_id = (await client.post('/api/webhooks', json={'url': URL})).json()['id']
    reader = await desk.client(await desk.token('reader', [ApiScope.READ]))
    operator = await desk.client(await desk.token('operator', [ApiScope.OPERATE]))
    path = f'/api/webhooks/{webhook_id}'
    assert (await reader.get(f'{path}/deliveries')).status_code == 200
    assert (await reader.post(f'{path}/test')).status_code == 403
    assert (await operator.post(f'{path}/test')).status_code == 202
    for word in ('rotate', 'enable', 'disable'):
        assert (await operator.post(f'{path}/{word}')).status_code == 403
    assert (await operator.delete(path)).status_code == 403
    assert (await operator.post('/api/webhooks', json={'url': URL})).status_code == 403


async def test_an_organisation_has_its_own_webhooks_and_sees_no_others(desk, client, pool, queue):
    everybody = (await client.post('/api/webhooks', json={'url': URL})).json()['id']
    own = await desk.client(await desk.token('seven', EVERYTHING, organization_id='7'))
    made = (await own.post('/api/webhooks', json={'url': URL})).json()['id']
    await queue(organization_id=7)
    await queue(organization_id=8)
    (listed,) = (await own.get('/api/webhooks')).json()['webhooks']
    assert (listed['id'], listed['organization_id'], listed['waiting']) == (made, '7', 1)
    path = f'/api/webhooks/{everybody}'
    assert (await own.get(f'{path}/deliveries')).json()['type'].endswith(':no-such-webhook')
    for method, tail in (
        ('DELETE', ''),
        ('POST', '/rotate'),
        ('POST', '/test'),
        ('POST', '/disable'),
    ):
        assert (await own.request(method, f'{path}{tail}')).status_code == 404
    foreign = await pool.fetchval(
        'SELECT id FROM mail_webhook_deliveries WHERE webhook_id = $1 LIMIT 1', everybody
    )
    await pool.execute("UPDATE mail_webhook_deliveries SET status = 'dead'")
    again = await own.post(f'/api/webhooks/{made}/replay', json={'deliveries': [foreign]})
    assert again.json() == {'replayed': 0}
