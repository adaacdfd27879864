"""Providers' calls over HTTP: from the signature to the e-mail's state."""

import contextlib

import httpx
import pytest

from reporting.servers import ServerAddresses
from tests.services.api_desk import api_for
from tests.services.ops_desk import closed_port, insert
from tests.unit.bounce_messages import PATHS
from web.application import close_desk, make_application
from web.hooks.routes import LARGEST_CALL_BYTES, Hooks, ProviderKeys
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

SECRET = 'the secret of sixteen'
KEYS = ProviderKeys(postmark=SECRET, mailgun=SECRET, brevo=SECRET)


@contextlib.asynccontextmanager
async def client_of(dsn):
    """A client of the whole application, with its desk and its API."""
    addresses = ServerAddresses(dsn, 'redis://nobody.invalid:1/1')
    watches = [Watch(addresses, asked) for asked in (OVERVIEW, READINESS)]
    api = api_for(addresses)
    app = make_application(
        *watches,
        token='x' * 16,
        loopback_only=False,
        api=api,
        hooks=Hooks(api.servers, KEYS, PATHS),
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url='https://mail.example.com'
    ) as client:
        yield client
    for watch in watches:
        await watch.close()
    await close_desk(app)
    await api.close()


@pytest.fixture
async def client(database):
    async with client_of(database.dsn) as client:
        yield client


def event(**more):
    return {
        'event': 'hard_bounce', 'email': 'anna@example.net', 'id': 1,
        'message-id': '<m1@example.com>', 'ts_event': 1764504000,
    } | more  # fmt: skip


AUTH = {'Authorization': f'Bearer {SECRET}'}


async def test_call_changes_e_mail_and_list_once(client, pool):
    email_id = await insert(
        pool, status='sent', attempts=1, sent_at='sql:now()', recipient='anna@example.net',
        message_id='<m1@example.com>', created_at='sql:to_timestamp(1764504000)',
    )  # fmt: skip
    for _ in range(2):
        answer = await client.post('/hooks/brevo', json=event(), headers=AUTH)
        assert answer.status_code == 200
    status = await pool.fetchval('SELECT status FROM outbound_emails WHERE id = $1', email_id)
    assert status == 'bounced'
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 1
    assert await pool.fetchval('SELECT source FROM email_suppressions') == 'bounce'


async def test_calls_of_others_change_nothing(client, pool):
    answers = [
        await client.post('/hooks/brevo', json=event()),
        await client.post('/hooks/postmark', json={}, headers={'Authorization': 'Bearer x'}),
        await client.post('/hooks/mailgun', json={'signature': {}}),
        await client.post('/hooks/brevo', content=b'{', headers=AUTH),
        await client.post('/hooks/ses', json={}),
        await client.get('/hooks/brevo'),
    ]
    assert [answer.status_code for answer in answers] == [403, 403, 403, 400, 404, 405]
    assert await pool.fetchval('SELECT count(*) FROM email_feedback') == 0


async def test_a_body_of_any_size_is_bounded(client):
    large = b'x' * (LARGEST_CALL_BYTES + 1)
    assert (await client.post('/hooks/brevo', content=large, headers=AUTH)).status_code == 413


async def test_a_call_larger_than_others_may_send_is_read(client):
    large = event(reason='x' * 200_000)
    assert (await client.post('/hooks/brevo', json=large, headers=AUTH)).status_code == 200


async def test_without_postgresql_the_provider_is_to_call_again():
    async with client_of(f'postgresql://x@127.0.0.1:{closed_port()}/x') as client:
        answer = await client.post('/hooks/brevo', json=event(), headers=AUTH)
    assert answer.status_code == 503
