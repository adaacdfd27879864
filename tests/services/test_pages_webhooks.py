"""What a person does at the desk about webhooks: look, test, replay by id and by time, switch."""

import pytest

from db.webhooks import NewWebhook, add_webhook
from tests.services.api_desk import open_desk
from tests.services.test_pages_fleet import OURS, XSS, Markup, act

SECRET = 'whsec_c2VjcmV0'


@pytest.fixture
async def lena(env):
    async with open_desk(env) as desk:
        yield await desk.person()


@pytest.fixture
async def webhook(pool, queue):
    """A webhook with a delivery in each state, of one e-mail each."""
    new = NewWebhook('https://example.com/hook', SECRET, None, None, 'the shop', 'tests')
    webhook_id = await add_webhook(pool, new)
    for status in ('dead', 'delivered', 'waiting'):
        await queue()
        await pool.execute(
            'UPDATE mail_webhook_deliveries SET status = $1, attempts = 8, '
            "error = CASE WHEN $1 = 'dead' THEN 'it answered 500' END, http_status = 500, "
            "answer = 'broken', ended_at = CASE WHEN $1 <> 'waiting' THEN now() END "
            'WHERE id = (SELECT max(id) FROM mail_webhook_deliveries)', status,
        )  # fmt: skip
    return webhook_id


async def statuses(pool):
    rows = await pool.fetch('SELECT status FROM mail_webhook_deliveries ORDER BY id')
    return [row['status'] for row in rows]


async def test_a_webhook_shows_its_deliveries_and_never_its_secret(lena, webhook):
    page = (await lena.get('/webhooks')).text
    assert 'https://example.com/hook' in page
    assert 'the shop' in page
    deliveries = (await lena.get(f'/webhooks/{webhook}')).text
    assert 'it answered 500' in deliveries
    only_dead = (await lena.get(f'/webhooks/{webhook}?status=dead')).text
    assert '/deliveries/1"' in only_dead
    assert '/deliveries/2"' not in only_dead
    delivery = (await lena.get('/deliveries/1')).text
    assert 'broken' in delivery
    assert 'email.queued' in delivery
    assert SECRET not in page + deliveries + delivery


async def test_one_delivery_is_replayed(lena, webhook, pool):
    page = await act(lena, f'/act/replay-delivery?name=2&kind={webhook}')
    assert '1 delivery' in page.text
    assert await statuses(pool) == ['dead', 'waiting', 'waiting']


async def test_what_is_dead_of_a_time_is_replayed(lena, webhook, pool):
    await act(lena, f'/act/replay-webhook?name={webhook}&kind=24 h')
    assert await statuses(pool) == ['waiting', 'delivered', 'waiting']
    assert await pool.fetchval(
        "SELECT actor FROM mail_audit WHERE action = 'webhook.replay' AND problem IS NULL"
    )


async def test_a_webhook_is_tested_stopped_started_and_removed(lena, webhook, pool):
    await act(lena, f'/act/test-webhook?name={webhook}')
    assert await pool.fetchval(
        "SELECT count(*) FROM mail_webhook_deliveries WHERE event_type = 'webhook.test'"
    )
    await act(lena, f'/act/disable-webhook?name={webhook}', reason='they move')
    assert 'they move' in (await lena.get('/webhooks')).text
    await act(lena, f'/act/enable-webhook?name={webhook}')
    assert 'they move' not in (await lena.get('/webhooks')).text
    await act(lena, f'/act/remove-webhook?name={webhook}')
    assert 'No program is told' in (await lena.get('/webhooks')).text


@pytest.mark.parametrize(
    'path',
    ['/webhooks/99', '/webhooks/x', '/deliveries/99', '/deliveries/0x1', '/webhooks/1?before=x'],
)
async def test_what_is_not_there_is_not_found(lena, webhook, path):
    assert (await lena.get(path)).status_code == 404


async def test_no_value_becomes_markup(lena, pool):
    for text in XSS:
        new = NewWebhook(f'https://example.com/{text}', SECRET, [text], text, text, text)
        webhook_id = await add_webhook(pool, new)
        await pool.execute(
            'UPDATE mail_webhooks SET failing_since = now(), last_error = $1, failures = 1', text
        )
        delivery_id = await pool.fetchval(
            'INSERT INTO mail_webhook_deliveries (webhook_id, event_type, payload, error, answer) '
            'VALUES ($1, $2, $3, $2, $2) RETURNING id', webhook_id, text, {text: text},
        )  # fmt: skip
        for path in ('/webhooks', f'/webhooks/{webhook_id}', f'/deliveries/{delivery_id}',
                     f'/act/test-webhook?name={webhook_id}'):  # fmt: skip
            answer = await lena.get(path)
            assert answer.status_code == 200, path
            page = Markup()
            page.feed(answer.text)
            assert page.tags <= OURS, path
            assert not [name for name in page.attributes if name.startswith(('on', 'style'))], path
            assert not [to for to in page.targets if not to.startswith(('/', '#', '?'))], path
            assert '\x1b' not in answer.text
