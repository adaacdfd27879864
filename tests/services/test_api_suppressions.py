"""The list of those who get no mail, over HTTP."""

import pytest

from actions.tokens import ApiScope
from db.suppressions import suppressed
from tests.services.api_desk import open_desk

PATH = '/api/suppressions'
ANNA, NEWS = 'anna@example.com', {'email_type': 'news'}


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def client(desk):
    return await desk.client(await desk.token('crm', [ApiScope.READ, ApiScope.OPERATE]))


async def test_address_is_suppressed_for_a_type_listed_and_taken_off(client, pool):
    body = {'addresses': ['Anna@Example.com', '@closed.example'], 'reason': 'asked', 'days': 30}
    answer = await client.post(PATH, json=body | NEWS)
    assert answer.status_code == 200, answer.text
    assert answer.json()['added'] == [ANNA, '@closed.example']
    assert answer.json()['expires_at'] is not None
    assert await suppressed(pool, [ANNA]) == {}
    assert await suppressed(pool, [ANNA], 'news') == {ANNA: 'asked (of the type news)'}
    again = await client.post(PATH, json={'addresses': [ANNA], 'reason': 'again'} | NEWS)
    assert (again.json()['changed'], again.json()['expires_at']) == ([ANNA], None)

    listed = (await client.get(PATH, params={'address': 'x@closed.example'})).json()
    assert [entry['address'] for entry in listed['suppressions']] == ['@closed.example']
    listed = (await client.get(PATH, params=NEWS | {'source': 'operator', 'limit': 1})).json()
    assert (listed['total'], len(listed['suppressions'])) == (2, 1)
    entry = (await client.get(PATH, params={'address': 'ANNA@example.com'})).json()
    [entry] = entry['suppressions']
    assert (entry['email_type'], entry['reason'], entry['created_by']) == ('news', 'again', 'crm')

    gone = await client.delete(PATH, params={'address': ANNA})  # of all mail, where she is not
    assert gone.json() == {'removed': [], 'missing': [ANNA]}
    gone = await client.delete(PATH, params={'address': [ANNA, 'bob@example.com']} | NEWS)
    assert gone.json() == {'removed': [ANNA], 'missing': ['bob@example.com']}
    assert await suppressed(pool, [ANNA], 'news') == {}
    actions = await pool.fetch(
        'SELECT actor, action FROM mail_audit WHERE finished_at IS NOT NULL ORDER BY id'
    )
    assert [row['action'] for row in actions if row['actor'] == 'crm'] == [
        'suppression.add', 'suppression.add', 'suppression.remove', 'suppression.remove',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('method', 'asked'),
    [
        ('POST', {'json': {'addresses': ['anna'], 'reason': 'x'}}),
        ('POST', {'json': {'addresses': [], 'reason': 'x'}}),
        ('POST', {'json': {'addresses': [ANNA]}}),
        ('POST', {'json': {'addresses': [ANNA], 'reason': 'x', 'days': 0}}),
        ('POST', {'json': {'addresses': [ANNA], 'reason': 'x', 'email_type': 'a\0'}}),
        ('POST', {'json': {'addresses': [ANNA], 'reason': 'x', 'type': 'news'}}),
        ('DELETE', {}),
        ('DELETE', {'params': {'address': 'anna'}}),
        ('GET', {'params': {'address': '@@'}}),
        ('GET', {'params': {'limit': 'many'}}),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(client, pool, method, asked):
    answer = await client.request(method, PATH, **asked)
    assert answer.status_code == 422, answer.text
    assert answer.headers['content-type'] == 'application/problem+json'
    assert await pool.fetchval('SELECT count(*) FROM email_suppressions') == 0


async def test_who_may_only_read_changes_nothing_and_a_bound_token_sees_nothing(desk):
    body = {'addresses': [ANNA], 'reason': 'x'}
    reader = await desk.client(await desk.token('reader', [ApiScope.READ]))
    assert (await reader.get(PATH)).status_code == 200
    assert (await reader.post(PATH, json=body)).status_code == 403
    assert (await reader.delete(PATH, params={'address': ANNA})).status_code == 403
    scopes = [ApiScope.READ, ApiScope.OPERATE]
    bound = await desk.client(await desk.token('bound', scopes, organization_id='7'))
    assert (await bound.get(PATH)).status_code == 403
    assert (await bound.post(PATH, json=body)).status_code == 403
