"""Events reach their receivers: signed, in order, again when they were not taken."""

import asyncio
from ipaddress import ip_network

import pytest

from db.webhook_deliveries import claim_deliveries, give_up_deliveries, keep_order
from db.webhook_figures import read_webhook_figures
from db.webhook_replays import remove_old_deliveries, replay_between, replay_these
from db.webhooks import NewWebhook, add_webhook, read_webhooks, remove_webhook, rotate_secret
from delivery.rules import WebhookRules
from delivery.webhooks.deliverer import Deliverer
from jobs.cleanup_expired_emails import cleanup_expired_emails
from tests.conftest import wait_until
from tests.services.receiver import OK, SECRET, Receiver, answer, receiver

__all__ = ['receiver']  # a fixture

LOCAL = [ip_network('127.0.0.0/8')]


@pytest.fixture
def add(pool, receiver):
    async def add(url=None, secret=SECRET):
        new = NewWebhook(url or receiver.url, secret, None, None, None, 'tests')
        return await add_webhook(pool, new)

    return add


@pytest.fixture
async def deliver(pool):
    """Start delivering, as a worker does."""
    running = []

    def start(**rules):
        stopping = asyncio.Event()
        rules = WebhookRules(**{'allowed': LOCAL, 'timeout_s': 2.0} | rules)
        deliverer = Deliverer(pool, 'tests@localhost:1', rules, stopping)
        task = asyncio.create_task(deliverer.run())
        task.add_done_callback(lambda done: done.cancelled() or done.result())
        running.append((stopping, task, deliverer))
        return stopping, task

    yield start
    for stopping, task, deliverer in running:
        stopping.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await deliverer.close()


@pytest.fixture
def statuses(pool):
    async def statuses():
        rows = await pool.fetch('SELECT status FROM mail_webhook_deliveries ORDER BY id')
        return [row['status'] for row in rows]

    return statuses


async def due_now(pool):
    """A day of waiting, for a test: whatever waits is due, and its endpoint is warm."""
    await pool.execute('UPDATE mail_webhook_deliveries SET next_retry_at = now()')
    await pool.execute('UPDATE mail_webhooks SET cool_until = NULL')


async def delivery(pool):
    return await pool.fetchrow('SELECT * FROM mail_webhook_deliveries ORDER BY id LIMIT 1')


async def test_an_event_arrives_signed_and_is_recorded(pool, queue, add, deliver, receiver):
    await add()
    email_id = await queue()
    deliver()
    await wait_until(lambda: receiver.events)
    [(message_id, payload)] = receiver.events
    assert payload['type'] == 'email.queued'
    assert payload['data']['email_id'] == email_id
    row = await wait_until(lambda: ended(pool))
    assert (row['status'], row['http_status'], row['answer']) == ('delivered', 200, 'ok')
    assert message_id == f'msg_{row["message_id"].hex}'
    [webhook] = await read_webhooks(pool)
    assert webhook['last_delivered_at']
    assert webhook['waiting'] == 0


async def ended(pool):
    return await pool.fetchrow('SELECT * FROM mail_webhook_deliveries WHERE ended_at IS NOT NULL')


@pytest.mark.parametrize(
    ('said', 'error'),
    [
        (answer(500, b'broken'), 'it answered 500'),
        (answer(302, b'', 'Location: http://127.0.0.1:1/'), 'it answered 302, and redirects'),
        (answer(429, b'', 'Retry-After: 120'), 'it answered 429'),
        (answer(503, b'', 'Retry-After: Fri, 31 Dec 9999 23:59:59 GMT'), 'it answered 503'),
        (b'', 'RemoteProtocolError'),
        (b'SMTP this is not\r\n\r\n', 'RemoteProtocolError'),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf', 'no answer within'),
        (None, 'no answer within 1 s'),
    ],
)
async def test_what_is_not_taken_is_posted_again_with_the_same_id(
    pool, queue, add, deliver, receiver, said, error
):
    receiver.answers = said
    await add()
    await queue()
    deliver(timeout_s=1.0)
    row = await wait_until(lambda: failed(pool))
    assert row['status'] == 'waiting'
    assert row['error'].startswith(error)
    assert row['next_retry_at'] > row['last_attempt_at']
    receiver.answers = OK
    await due_now(pool)
    await wait_until(lambda: ended(pool))
    assert len({message_id for message_id, _ in receiver.events}) == 1
    assert len(receiver.events) == 2
    [webhook] = await read_webhooks(pool)
    assert webhook['failures'] == 0
    assert webhook['failing_since'] is None


async def failed(pool):
    return await pool.fetchrow('SELECT * FROM mail_webhook_deliveries WHERE error IS NOT NULL')


async def test_an_answer_without_end_is_not_read_to_its_end(pool, queue, add, deliver, receiver):
    receiver.answers = answer(200, b'x' * 30_000_000)
    await add()
    await queue()
    deliver()
    row = await wait_until(lambda: ended(pool))
    assert (row['status'], row['answer']) == ('delivered', 'x' * 1000)


async def test_retry_after_cools_the_endpoint(pool, queue, add, deliver, receiver):
    receiver.answers = answer(429, b'', 'Retry-After: 120')
    await add()
    await queue()
    deliver()
    await wait_until(lambda: failed(pool))
    left = await pool.fetchval('SELECT cool_until - now() FROM mail_webhooks')
    assert 100 < left.total_seconds() <= 120


async def test_gone_disables_the_endpoint(pool, queue, add, deliver, receiver):
    receiver.answers = answer(410)
    await add()
    await queue()
    deliver()
    await wait_until(lambda: failed(pool))
    [webhook] = await wait_until(lambda: disabled(pool))
    assert webhook['disabled_reason'] == 'it answered 410 Gone'
    await queue()
    assert await pool.fetchval('SELECT count(*) FROM mail_webhook_deliveries') == 1


async def disabled(pool):
    return [webhook for webhook in await read_webhooks(pool) if not webhook['enabled']]


async def test_events_of_an_email_arrive_in_their_order(pool, queue, add, deliver, receiver):
    """The first is refused again and again: those behind it wait, those of others do not."""
    stubborn = await queue()

    def answers(payload):
        return answer(500) if payload['data']['email_id'] == stubborn else OK

    receiver.answers = answers
    await add()
    others = [await queue() for _ in range(20)]
    await pool.execute("UPDATE outbound_emails SET status = 'uncertain'")
    await pool.execute("UPDATE outbound_emails SET status = 'sent', sent_at = now()")
    deliver()

    def arrived():
        return [p['data']['email_id'] for _, p in receiver.events if p['type'] == 'email.sent']

    await wait_until(lambda: set(arrived()) == set(others))
    mine = [p['type'] for _, p in receiver.events if p['data']['email_id'] == stubborn]
    assert set(mine) == {'email.uncertain'}
    receiver.answers = OK
    await due_now(pool)
    await wait_until(lambda: stubborn in arrived())
    for email_id in others:
        types = [p['type'] for _, p in receiver.events if p['data']['email_id'] == email_id]
        assert types == ['email.queued', 'email.uncertain', 'email.sent']


async def test_a_receiver_that_is_down_costs_others_nothing(pool, queue, add, deliver, receiver):
    await add('http://127.0.0.1:1/nobody')
    hanging = Receiver(answers=None)
    await hanging.start()
    await add(hanging.url)
    await add()
    for _ in range(60):
        await queue()
    deliver(timeout_s=1.0)
    await wait_until(lambda: len(receiver.events) == 60, deadline_s=15)
    assert receiver.most_open <= 4
    assert hanging.most_open <= 4

    async def both_cool():
        return await pool.fetchval(
            'SELECT count(*) = 2 FROM mail_webhooks WHERE cool_until > now() AND failures >= 3'
        )

    await wait_until(both_cool)
    tried = await pool.fetchval(
        'SELECT count(*) FROM mail_webhook_deliveries WHERE error <> $1', ''
    )
    assert tried <= 12
    await hanging.stop()


async def test_a_receiver_that_was_down_gets_all_when_it_is_back(
    pool, queue, add, deliver, receiver
):
    receiver.answers = answer(503)
    await add()
    for _ in range(12):
        await queue()
    deliver()

    async def cools():
        return await pool.fetchval('SELECT failures >= 3 FROM mail_webhooks')

    await wait_until(cools)
    receiver.answers = OK
    await pool.execute('UPDATE mail_webhooks SET cool_until = NULL')  # later
    await wait_until(lambda: all_delivered(pool))
    assert len({message_id for message_id, _ in receiver.events}) == 12


async def all_delivered(pool):
    return await pool.fetchval("SELECT bool_and(status = 'delivered') FROM mail_webhook_deliveries")


async def test_after_a_day_an_event_is_dead_whether_it_was_tried_or_not(
    pool, queue, add, deliver, receiver, statuses
):
    receiver.answers = answer(500)
    await add()
    await queue()
    await pool.execute('UPDATE mail_webhook_deliveries SET dead_at = now()')
    deliver()
    row = await wait_until(lambda: ended(pool))
    assert (row['status'], row['attempts']) == ('dead', 1)
    await pool.execute("UPDATE mail_webhooks SET cool_until = now() + interval '1 hour'")
    await queue()
    await pool.execute("UPDATE mail_webhook_deliveries SET dead_at = now() - interval '2 minutes'")
    await keep_order(pool)
    assert await statuses() == ['dead', 'dead']


async def test_the_schedule_ends_with_a_last_try_after_a_day(pool, queue, add, receiver, deliver):
    receiver.answers = answer(500)
    await add()
    await queue()
    deliver()
    waits = []
    for attempt in range(1, 8):
        row = await wait_until(lambda: tried(pool, attempt))  # noqa: B023 - awaited at once
        waits.append(round((row['next_retry_at'] - row['last_attempt_at']).total_seconds()))
        shift = row['next_retry_at'] - row['last_attempt_at']
        await pool.execute(
            'UPDATE mail_webhook_deliveries SET dead_at = dead_at - $1::interval, '
            'next_retry_at = now()', shift,
        )  # fmt: skip
        await pool.execute('UPDATE mail_webhooks SET cool_until = NULL')
    assert waits[:6] == [5, 300, 1800, 7200, 18_000, 36_000]
    assert sum(waits) == pytest.approx(86_400, abs=30)
    row = await wait_until(lambda: ended(pool))
    assert (row['status'], row['attempts']) == ('dead', 8)


async def tried(pool, attempt):
    return await pool.fetchrow(
        'SELECT * FROM mail_webhook_deliveries '
        'WHERE attempts = $1 AND claim_token IS NULL AND error IS NOT NULL', attempt,
    )  # fmt: skip


async def test_who_is_killed_between_post_and_record_delivers_again(
    pool, queue, add, deliver, receiver
):
    await add()
    await queue()
    claimed = await claim_deliveries(pool, {}, room=4, worker='killed@host:1', lease_s=60)
    assert len(claimed) == 1
    deliver()
    assert await claim_deliveries(pool, {}, room=4, worker='other@host:2', lease_s=60) == []
    await pool.execute('UPDATE mail_webhook_deliveries SET next_retry_at = now()')  # a minute later
    await wait_until(lambda: ended(pool))
    assert len(receiver.events) == 1


async def test_a_result_after_the_claim_is_over_changes_nothing(
    pool, queue, add, deliver, receiver
):
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_):
        arrived.set()
        await goes_on.wait()
        return OK

    receiver.answers = slow
    await add()
    await queue()
    deliver(timeout_s=30.0)
    await arrived.wait()
    await pool.execute(
        'UPDATE mail_webhook_deliveries SET claim_token = gen_random_uuid(), '
        "next_retry_at = now() + interval '1 hour'"
    )
    goes_on.set()
    await wait_until(lambda: receiver.open_now == 0)
    assert (await delivery(pool))['status'] == 'waiting'


async def test_a_stop_lets_what_is_under_way_finish(pool, queue, add, deliver, receiver):
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(_):
        arrived.set()
        await goes_on.wait()
        return OK

    receiver.answers = slow
    await add()
    await queue()
    stopping, task = deliver(timeout_s=30.0)
    await arrived.wait()
    stopping.set()
    goes_on.set()
    await task
    assert (await delivery(pool))['status'] == 'delivered'


async def test_both_secrets_sign_for_a_day_after_a_rotation(pool, queue, add, deliver, receiver):
    webhook_id = await add()
    assert await rotate_secret(pool, webhook_id, 'whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0')
    await queue()
    deliver()
    await wait_until(lambda: len(receiver.events) == 1)  # it verifies with the old one
    receiver.secret = 'whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0'
    await pool.execute('UPDATE mail_webhooks SET previous_secret_until = now()')
    await queue()
    await wait_until(lambda: len(receiver.events) == 2)


async def test_what_was_delivered_or_is_dead_is_replayed_with_its_id(
    pool, queue, add, deliver, receiver
):
    webhook_id = await add()
    await queue()
    await queue()
    deliver()
    await wait_until(lambda: all_delivered(pool))
    [first, second] = [row['id'] for row in await pool.fetch(
        'SELECT id FROM mail_webhook_deliveries ORDER BY id')]  # fmt: skip
    assert await replay_these(pool, [first, 99], webhook_id) == [first]
    await wait_until(lambda: len(receiver.events) == 3)
    await wait_until(lambda: all_delivered(pool))
    now = await pool.fetchval("SELECT now() + interval '1 hour'")
    ago = await pool.fetchval("SELECT now() - interval '1 hour'")
    assert await replay_between(pool, webhook_id, ago, now, ['dead']) == []
    done = await replay_between(pool, webhook_id, ago, now, ['dead', 'delivered'])
    assert done == [first, second]
    await wait_until(lambda: len(receiver.events) == 5)
    assert len({message_id for message_id, _ in receiver.events}) == 2


async def test_the_retention_takes_what_ended_and_is_old(pool, queue, add, statuses):
    await add()
    for _ in range(3):
        await queue()
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET occurred_at = now() - interval '8 days' WHERE id < 3"
    )
    await pool.execute("UPDATE mail_webhook_deliveries SET status = 'dead' WHERE id = 1")
    assert await remove_old_deliveries(pool, 7, batch=1) == 1
    assert await statuses() == ['waiting', 'waiting']


async def test_figures_tell_what_waits_and_what_was_given_up_until_it_is_replayed(
    pool, queue, add, deliver, receiver
):
    receiver.answers = answer(500)
    webhook_id = await add()
    for _ in range(3):
        await queue()

    async def figures():
        [row] = await read_webhook_figures(pool)
        return row

    row = await figures()
    assert (row['host'], row['waiting'], row['failing_s'], row['given_up']) == (
        '127.0.0.1', 3, None, 0,
    )  # fmt: skip
    assert 0 <= row['oldest_waiting_s'] < 60
    await pool.execute('UPDATE mail_webhook_deliveries SET dead_at = now() WHERE id = 1')
    deliver()
    await wait_until(lambda: ended(pool))  # by its last try
    row = await figures()
    assert (row['waiting'], row['failing_s'] >= 0, row['given_up']) == (2, True, 1)
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET dead_at = now() - interval '1 hour', "
        "next_retry_at = now(), claim_token = NULL WHERE status = 'waiting' AND id = 2"
    )
    await give_up_deliveries(pool)  # without a try
    assert (await figures())['given_up'] == 2
    assert await replay_these(pool, [2], webhook_id) == [2]
    assert (await figures())['given_up'] == 1
    now, ago = await pool.fetchrow("SELECT now() + interval '1 hour', now() - interval '1 hour'")
    assert await replay_between(pool, webhook_id, ago, now, ['dead']) == [1]
    assert (await figures())['given_up'] == 0
    await pool.execute(
        "UPDATE mail_webhooks SET given_up = 7, given_up_at = now() - '25 h'::interval"
    )
    assert (await figures())['given_up'] == 0


async def test_what_waits_for_a_webhook_that_is_gone_is_dead_and_then_deleted(
    pool, ctx, queue, add, statuses
):
    webhook_id = await add()
    for _ in range(3):
        await queue()
    await remove_webhook(pool, webhook_id)
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET dead_at = now() - interval '1 hour' WHERE id < 3"
    )
    await give_up_deliveries(pool, batch=1)
    assert await statuses() == ['dead', 'dead', 'waiting']
    await pool.execute(
        "UPDATE mail_webhook_deliveries SET occurred_at = now() - interval '8 days', "
        "dead_at = now() - interval '7 days'"
    )
    await cleanup_expired_emails(ctx)
    assert await statuses() == []


@pytest.mark.parametrize(
    'url',
    ['http://127.0.0.1:9/', 'http://localhost:9/', 'https://[::1]/', 'https://[::ffff:10.0.0.1]/',
     'https://169.254.169.254/latest/', 'http://8.8.8.8/', 'ftp://example.com/'],
)  # fmt: skip
async def test_what_only_the_servers_can_reach_gets_no_event(pool, queue, add, deliver, url):
    await add(url)
    await queue()
    deliver(allowed=[])
    row = await wait_until(lambda: failed(pool))
    assert row['error'].startswith('refused: ')
    assert row['http_status'] is None
