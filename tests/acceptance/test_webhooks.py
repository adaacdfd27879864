"""Real workers deliver events: beside the mail, and again when one was killed over it."""

import asyncio
import signal

import pytest

from db.webhooks import NewWebhook, add_webhook
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.ops_desk import run
from tests.services.receiver import OK, SECRET, answer, receiver

__all__ = ['receiver']  # a fixture
LOCAL = {'WEBHOOK_ALLOWED_NETWORKS': '127.0.0.0/8', 'WEBHOOK_TIMEOUT_S': '2'}


@pytest.fixture
async def webhook(pool, receiver):
    return await add_webhook(pool, NewWebhook(receiver.url, SECRET, None, None, None, 'tests'))


async def queue(pool, number=1):
    async with pool.acquire() as conn, conn.transaction():
        for n in range(number):
            await queue_email(
                conn, recipient=f'a{n}@example.com', subject='Hello', body_text='Hello.'
            )


async def test_worker_killed_between_post_and_record_leaves_the_event_to_another(
    pool, webhook, start_worker, receiver
):
    victim = start_worker(**LOCAL)
    await victim.started()

    def kill(_):
        victim.process.send_signal(signal.SIGKILL)
        receiver.answers = OK
        return b''

    receiver.answers = kill
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, next_retry_at) '
        "VALUES ('later@example.com', now() + interval '1 hour')"
    )
    await wait_until(lambda: receiver.events)
    await asyncio.to_thread(victim.process.wait)
    await start_worker(**LOCAL).started()
    await wait_until(lambda: len(receiver.events) == 2)
    [first, second] = receiver.events
    assert first == second
    await wait_until(
        lambda: pool.fetchval("SELECT status = 'delivered' FROM mail_webhook_deliveries")
    )


async def test_mail_goes_out_while_its_events_are_not_taken(
    pool, webhook, start_worker, receiver, inbox
):
    receiver.answers = None
    await queue(pool, 50)
    await start_worker(**LOCAL).started()
    await wait_until(
        lambda: pool.fetchval("SELECT count(*) = 50 FROM outbound_emails WHERE status = 'sent'")
    )
    receiver.answers = OK
    await pool.execute('UPDATE mail_webhooks SET cool_until = NULL')

    async def taken():
        await pool.execute('UPDATE mail_webhooks SET cool_until = NULL')
        return await pool.fetchval(
            "SELECT bool_and(status = 'delivered') FROM mail_webhook_deliveries"
        )

    await wait_until(taken)
    by_email = {}
    for _, payload in receiver.events:
        by_email.setdefault(payload['data']['email_id'], []).append(payload['type'])
    assert len(by_email) == 50
    for types in by_email.values():
        assert list(dict.fromkeys(types)) == ['email.queued', 'email.sent']


async def test_operator_adds_tests_and_looks(env, pool, start_worker, receiver):
    await start_worker(**LOCAL).started()
    added = await run(env, 'webhook', 'add', receiver.url, '--event', 'sent', '--yes')
    receiver.secret = added.document['secret']
    tested = await run(env, 'webhook', 'test', '1')
    assert tested.exit_status == 0
    assert tested.document['delivery']['status'] == 'delivered'
    assert receiver.events[0][1]['type'] == 'webhook.test'
    receiver.answers = answer(500, b'broken')
    tested = await run(env, 'webhook', 'test', '1')
    assert tested.exit_status == 1
    assert tested.problems[0].what == 'not delivered: it answered 500'
    assert await pool.fetchval("SELECT action FROM mail_audit WHERE action = 'ops webhook'")
