"""A person finds an event that was not taken, and has it posted again."""

from ipaddress import ip_network

import pytest

from db.webhooks import NewWebhook, add_webhook
from tests.conftest import wait_until
from tests.services.ops_desk import insert
from tests.services.receiver import SECRET, receiver

__all__ = ['receiver']  # a fixture
LOCAL = str(ip_network('127.0.0.0/8'))


@pytest.fixture
async def dead(pool, receiver):
    """An event that the receiver did not take for a day."""
    new = NewWebhook(receiver.url, SECRET, ['email.queued'], None, None, 'tests')
    webhook_id = await add_webhook(pool, new)
    await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET status = 'dead', attempts = 8, ended_at = now(), "
        "error = 'it answered 500'"
    )
    return webhook_id


async def test_a_dead_event_is_found_and_posted_again(person, dead, start_worker, receiver, pool):
    await start_worker(WEBHOOK_ALLOWED_NETWORKS=LOCAL).started()
    page = await person.page()
    await page.click('nav >> text=Webhooks')
    await page.click(f'text={receiver.url}')
    assert 'it answered 500' in await page.inner_text('table')
    await page.click('td.acts >> text=Replay')
    await page.click('button.main >> text=Replay')
    await wait_until(lambda: receiver.events)
    await wait_until(
        lambda: pool.fetchval("SELECT status = 'delivered' FROM mail_webhook_deliveries")
    )
    await page.click('nav >> text=Webhooks')
    await page.click(f'text={receiver.url}')
    assert 'delivered' in await page.inner_text('tbody')
