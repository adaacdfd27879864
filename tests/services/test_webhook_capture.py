"""Events are written with the change that they tell of, by whomever it is made."""

import asyncpg
import pytest

from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.migrate import alone, migrate
from db.pools import BY_INDEX
from db.webhook_capture import WebhookEvent
from db.webhooks import NewWebhook, add_webhook, enable_webhook, remove_webhook
from jobs.send_email import send_email
from mail_outbox.outbox import queue_email
from mail_outbox.states import Status
from tests.services.adopted import adopt, create_legacy

TRIGGERS_SQL = """
SELECT tgname FROM pg_trigger
WHERE tgrelid = 'outbound_emails'::regclass AND tgname LIKE 'mail\\_webhooks%' ORDER BY 1
"""


@pytest.fixture
def add(pool):
    async def add(event_types=None, organization_id=None):
        new = NewWebhook(
            'https://example.com/', 'whsec_c2VjcmV0', event_types, organization_id, None, 'tests'
        )
        return await add_webhook(pool, new)

    return add


async def triggers(pool):
    return [row['tgname'] for row in await pool.fetch(TRIGGERS_SQL)]


async def events(pool):
    rows = await pool.fetch('SELECT email_id, event_type FROM mail_webhook_deliveries ORDER BY id')
    return [(row['email_id'], row['event_type'].removeprefix('email.')) for row in rows]


def test_every_event_but_those_of_failures_is_the_beginning_of_a_state():
    names = {event.removeprefix('email.') for event in WebhookEvent}
    assert names - set(Status) == {'queued', 'deferred', 'suppressed'}


async def test_without_a_webhook_there_is_no_trigger_and_no_event(pool, queue, add):
    assert await triggers(pool) == []
    await queue()
    webhook_id = await add()
    assert await triggers(pool) == ['mail_webhooks_changed', 'mail_webhooks_queued']
    await enable_webhook(pool, webhook_id, enabled=False)
    assert await triggers(pool) == []
    await queue()
    await enable_webhook(pool, webhook_id, enabled=True)
    assert len(await triggers(pool)) == 2
    assert await remove_webhook(pool, webhook_id)
    assert await triggers(pool) == []
    assert await events(pool) == []


async def test_only_the_trigger_that_is_wanted_is_there(pool, add):
    first = await add(['email.queued'])
    assert await triggers(pool) == ['mail_webhooks_queued']
    await add(['email.sent', 'email.failed'])
    await remove_webhook(pool, first)
    assert await triggers(pool) == ['mail_webhooks_changed']


async def test_an_email_that_is_sent_is_queued_and_sent(pool, queue, ctx, add, inbox):
    await add()
    email_id = await queue(email_type='receipt', metadata={'order': 7}, cc='bo@example.com')
    await send_email(ctx, email_id)
    assert await events(pool) == [(email_id, 'queued'), (email_id, 'sent')]
    payload = await pool.fetchval(
        "SELECT payload FROM mail_webhook_deliveries WHERE event_type = 'email.sent'"
    )
    assert payload['type'] == 'email.sent'
    data = payload['data']
    assert data['email_id'] == email_id
    assert data['recipient'] == 'anna@example.com'
    assert data['cc'] == 'bo@example.com'
    assert data['metadata'] == {'order': 7}
    assert (data['status'], data['attempt'], data['smtp_code']) == ('sent', 1, 250)
    assert data['message_id']
    assert not {'subject', 'body_text', 'body_html'} & set(data)


CHANGES = {
    "status = 'failed', next_retry_at = now(), attempts = 1": 'deferred',
    "status = 'failed', next_retry_at = NULL, dead_reason = 'rejected'": 'failed',
    "status = 'failed', next_retry_at = now(), attempts = max_attempts": 'failed',
    "status = 'failed', next_retry_at = NULL, dead_reason = 'suppressed'": 'suppressed',
    "status = 'sent', sent_at = now()": 'sent',
    "status = 'uncertain'": 'uncertain',
    "status = 'bounced'": 'bounced',
    "status = 'complained'": 'complained',
    "status = 'expired'": 'expired',
    "status = 'cancelled'": 'cancelled',
    "status = 'held'": None,
    'updated_at = now()': None,
}


@pytest.mark.parametrize(('change', 'event'), CHANGES.items())
async def test_whoever_changes_a_row_makes_the_event(pool, queue, add, change, event):
    await add(list(set(WebhookEvent) - {'email.queued'}))
    email_id = await queue()
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', email_id)
    assert await events(pool) == ([(email_id, event)] if event else [])
    await pool.execute('UPDATE outbound_emails SET updated_at = now() WHERE id = $1', email_id)
    assert len(await events(pool)) == bool(event)


async def test_a_deferred_email_that_is_given_up_has_failed(pool, queue, add):
    email_id = await queue()
    await pool.execute("UPDATE outbound_emails SET status = 'failed', next_retry_at = now()")
    await add()
    await pool.execute('UPDATE outbound_emails SET next_retry_at = NULL')
    assert await events(pool) == [(email_id, 'failed')]


async def test_an_event_is_undone_with_its_change(pool, queue, add):
    await add()
    email_id = await queue()
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("UPDATE outbound_emails SET status = 'sent', sent_at = now()")
        await transaction.rollback()
    assert await events(pool) == [(email_id, 'queued')]


async def test_each_webhook_gets_what_it_wants(pool, queue, add):
    everything, sent, other = await add(), await add(['email.sent']), await add(None, '8')
    own = await add(None, '7')
    await queue(organization_id=7)
    await pool.execute("UPDATE outbound_emails SET status = 'sent', sent_at = now()")
    rows = await pool.fetch('SELECT webhook_id, count(*) FROM mail_webhook_deliveries GROUP BY 1')
    assert {row['webhook_id']: row['count'] for row in rows} == {everything: 2, sent: 1, own: 2}
    assert other not in {row['webhook_id'] for row in rows}


async def test_thousands_at_once_are_joined_by_their_ids_in_a_session_of_a_worker(
    database, pool, add
):
    """A plan that was made for one row, or by a worker's settings, would compare all with all."""
    await add(['email.cancelled'])
    await pool.execute(
        "INSERT INTO outbound_emails (recipient) SELECT 'a@example.com' "
        'FROM generate_series(1, 20001)'
    )
    conn = await asyncpg.connect(database.dsn, server_settings=BY_INDEX, command_timeout=30)
    try:
        await conn.execute("UPDATE outbound_emails SET status = 'cancelled' WHERE id = 1")
        await conn.execute("UPDATE outbound_emails SET status = 'cancelled' WHERE id > 1")
    finally:
        await conn.close()
    assert await pool.fetchval('SELECT count(*) FROM mail_webhook_deliveries') == 20001


async def test_events_that_cannot_be_written_keep_nobody_from_recording(pool, queue, ctx, add):
    await add()
    await pool.execute('ALTER TABLE mail_webhook_deliveries RENAME TO gone')
    try:
        email_id = await queue()
        await send_email(ctx, email_id)
    finally:
        await pool.execute('ALTER TABLE gone RENAME TO mail_webhook_deliveries')
    assert await pool.fetchval('SELECT status FROM outbound_emails') == 'sent'


async def test_someone_who_holds_the_table_is_waited_for_and_holds_up_no_writer(
    pool, database, queue, add
):
    holder = await asyncpg.connect(database.dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute('LOCK TABLE outbound_emails IN ROW EXCLUSIVE MODE')
    with pytest.raises(asyncpg.LockNotAvailableError):
        await add()
    await queue()
    await transaction.rollback()
    await holder.close()
    assert await pool.fetchval('SELECT count(*) FROM mail_webhooks') == 0
    assert await add()


@pytest.mark.parametrize('status', ['varchar(20)', 'enum', 'check'])
async def test_an_adopted_table_has_the_same_events_before_and_after_it_is_finished(
    conn, worker_pool, status
):
    await create_legacy(conn, status)
    await adopt(conn)
    new = NewWebhook('https://example.com/', 'whsec_c2VjcmV0', None, None, None, 'tests')
    await add_webhook(worker_pool, new)
    first = await queue_email(conn, recipient='a@example.com', subject='s', body_text='t')
    await conn.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now() WHERE id = $1", first
    )
    assert await events(worker_pool) == [(first, 'queued'), (first, 'sent')]
    async with alone(conn, 'UTC'):
        await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), lambda *_: None)
    second = await queue_email(conn, recipient='a@example.com', subject='s', body_text='t')
    await conn.execute("UPDATE outbound_emails SET status = 'expired' WHERE id = $1", second)
    assert (await events(worker_pool))[2:] == [(second, 'queued'), (second, 'expired')]
    await migrate(conn)
    assert len(await triggers(conn)) == 2
