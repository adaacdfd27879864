"""retry_failed_email, the health check and the cleanups."""

from datetime import UTC, datetime, timedelta
from typing import Any

from bson.binary import Binary

from db.mongo import open_mongo
from dev.ports import free_port
from jobs.check_service_health import check_service_health
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.cleanup_old_sessions import cleanup_old_sessions
from jobs.retry_failed_email import retry_failed_email
from jobs.send_email import send_email
from mail_outbox.attachments import COLLECTION, store_attachments
from mail_outbox.envelope import Attachment
from tests.services.other_worker import another

DEAD_LETTER = "status = 'failed', attempts = 5, next_retry_at = NULL, dead_reason = 'exhausted'"
HELD = "claim_token = gen_random_uuid(), claimed_by = 'w', lease_expires_at = now()"
OVER = "expires_at = now() - interval '1 second'"


async def change(pool: Any, email_id: int, changes: str) -> None:
    await pool.execute(f'UPDATE outbound_emails SET {changes} WHERE id = $1', email_id)


def away_mongo() -> Any:
    return open_mongo(f'mongodb://127.0.0.1:{free_port()}', 'mail', 0.2)


# retry_failed_email


async def test_retry_sends_mail_that_ended(ctx, pool, queue, row, inbox):
    endings = [
        DEAD_LETTER,
        "status = 'failed', attempts = 2, next_retry_at = now() + interval '1 hour'",
        f"status = 'expired', next_retry_at = NULL, {OVER}",
        "status = 'uncertain', attempts = 1, next_retry_at = NULL",
        "status = 'cancelled', next_retry_at = NULL",
    ]
    for n, ended in enumerate(endings):
        email_id = await queue(f'again{n}@example.com')
        await change(pool, email_id, ended)
        attempts = (await row(email_id))['attempts']
        result = await retry_failed_email(ctx, email_id)
        assert result == {'email_id': email_id, 'status': 'sent', 'attempts': attempts + 1}, ended
        stored = await row(email_id)
        assert (stored['status'], stored['dead_reason']) == ('sent', None)
        assert stored['attempts'] <= stored['max_attempts']
        assert len(inbox.accepted(f'again{n}@example.com')) == 1


async def test_retry_that_fails_again_is_dead_again(ctx, pool, queue, row):
    email_id = await queue('dead+5xx-rcpt@example.com')
    await change(pool, email_id, DEAD_LETTER)
    assert await retry_failed_email(ctx, email_id) == {
        'email_id': email_id,
        'status': 'failed',
        'attempts': 6,
    }
    assert (await row(email_id))['dead_reason'] == 'rejected'


async def test_retry_leaves_mail_alone_that_has_not_ended(ctx, pool, queue, row):
    for state, changes in (
        ('pending', "next_retry_at = now() + interval '1 hour'"),
        ('sending', f"status = 'sending', {HELD}"),
    ):
        email_id = await queue()
        await change(pool, email_id, changes)
        before = await row(email_id)
        result = await retry_failed_email(ctx, email_id)
        assert (result['status'], result['state']) == ('not-claimable', state)
        assert await row(email_id) == before


async def test_retry_of_sent_mail_does_not_send_it_again(ctx, queue, row, inbox):
    email_id = await queue('sent@example.com')
    await send_email(ctx, email_id)
    before = await row(email_id)
    assert (await retry_failed_email(ctx, email_id))['reason'] == 'already sent'
    assert await row(email_id) == before
    assert len(inbox.accepted('sent@example.com')) == 1


async def test_retry_of_nonsense_is_not_claimable(ctx):
    for wrong in ('1', True, -1, 2**70, None):
        assert (await retry_failed_email(ctx, wrong))['status'] == 'not-claimable'  # type: ignore[arg-type]
    assert (await retry_failed_email(ctx, 4711))['state'] is None


# check_service_health

SERVICES = {'postgresql', 'redis_queue', 'redis_cache', 'mongodb', 'smtp_primary', 'smtp_backup'}


async def test_health_of_all_services_is_recorded(ctx, pool):
    result = await check_service_health(ctx)
    assert result == {'affected': 6, 'services': dict.fromkeys(SERVICES, 'up')}
    rows = await pool.fetch('SELECT *, now() - checked_at AS age FROM service_health')
    assert {row['service_name'] for row in rows} == SERVICES
    assert {(row['status'], row['error_message']) for row in rows} == {('up', None)}
    assert all(0 <= row['response_time_ms'] < 10_000 for row in rows)
    assert all(row['age'] < timedelta(minutes=1) for row in rows)


async def test_health_of_a_cache_that_nobody_named_is_not_asked_for(ctx):
    result = await check_service_health({'runtime': another(ctx['runtime'], cache_url=None)})
    assert set(result['services']) == SERVICES - {'redis_cache'}


async def test_health_tells_what_is_down_and_why(ctx, pool, inbox):
    away, cache_url = away_mongo(), f'redis://:secret-password@127.0.0.1:{free_port()}/0'
    inbox.control.listen('backup', on=False)
    result = await check_service_health(
        {'runtime': another(ctx['runtime'], mongo=away, cache_url=cache_url)}
    )
    away.client.close()
    down = {name for name, status in result['services'].items() if status == 'down'}
    assert down == {'mongodb', 'redis_cache', 'smtp_backup'}
    rows = await pool.fetch('SELECT service_name, status, error_message FROM service_health')
    assert {row['service_name'] for row in rows if row['status'] == 'down'} == down
    assert {row['service_name'] for row in rows if row['error_message']} == down
    assert not any('secret-password' in (row['error_message'] or '') for row in rows)


async def test_health_check_of_a_relay_that_refuses_the_login_is_down(ctx, inbox):
    inbox.control.misbehave(
        'auth', 'refuse', relay='primary', code=535, text='5.7.8 wrong password'
    )
    services = (await check_service_health(ctx))['services']
    assert (services['smtp_primary'], services['smtp_backup']) == ('down', 'up')


# cleanup_expired_emails


async def test_expiry_ends_what_waits_and_no_other(ctx, pool, queue, row):
    cases = [  # before, after, whether it waited
        ("status = 'pending'", 'expired', True),
        ("status = 'pending', next_retry_at = NULL", 'expired', True),
        (
            "status = 'failed', attempts = 1, next_retry_at = now() + interval '1 hour'",
            'expired',
            True,
        ),
        ("status = 'uncertain', next_retry_at = now()", 'uncertain', True),
        (DEAD_LETTER, 'failed', False),
        ("status = 'sent', sent_at = now()", 'sent', False),
        ("status = 'cancelled'", 'cancelled', False),
        (f"status = 'sending', {HELD}", 'sending', False),
    ]
    ids = [await queue() for _ in cases]
    in_time = await queue()
    for email_id, (before, _, _) in zip(ids, cases, strict=True):
        await change(pool, email_id, f'{before}, {OVER}')
    unchanged = {email_id: await row(email_id) for email_id in ids}
    result = await cleanup_expired_emails(ctx)
    assert (result['expired'], result['affected'], result['removed']) == (4, 4, 0)
    for email_id, (before, after, waited) in zip(ids, cases, strict=True):
        stored = await row(email_id)
        assert stored['status'] == after, before
        if waited:
            assert (stored['next_retry_at'], stored['last_error']) == (
                None,
                'expired before it could be sent',
            )
        else:
            assert stored == unchanged[email_id]
    assert (await row(in_time))['status'] == 'pending'


async def aged(pool: Any, email_id: int, days: int, changes: str) -> None:
    await change(
        pool,
        email_id,
        (
            f"{changes}, created_at = now() - interval '{days} days', updated_at = now() - "
            f"interval '{days} days'"
        ),
    )


async def test_retention_deletes_row_attempts_and_content(ctx, pool, queue, mongo):
    content_id = await store_attachments(
        mongo, [Attachment('a.txt', 'text/plain', b'x') for _ in range(3)]
    )
    kept_content = await store_attachments(mongo, [Attachment('a.txt', 'text/plain', b'x')])
    old, recent = await queue(content_id=content_id), await queue(content_id=kept_content)
    for email_id in (old, recent):
        assert (await send_email(ctx, email_id))['status'] == 'sent'
    await aged(pool, old, 91, 'priority = priority')
    await aged(pool, recent, 89, 'priority = priority')
    assert await cleanup_expired_emails(ctx) == {
        'affected': 1,
        'expired': 0,
        'removed': 1,
        'content_removed': 3,
    }
    assert await pool.fetchval('SELECT array_agg(id) FROM outbound_emails') == [recent]
    assert await pool.fetchval('SELECT array_agg(email_id) FROM email_attempts') == [recent]
    assert await mongo[COLLECTION].distinct('content_id') == [kept_content]


async def test_retention_keeps_what_has_not_ended(ctx, pool, queue):
    removed = [
        DEAD_LETTER,
        "status = 'expired'",
        "status = 'cancelled'",
        "status = 'sent', sent_at = now()",
    ]
    kept = [
        "expires_at = NULL, status = 'pending'",
        "expires_at = NULL, status = 'uncertain', next_retry_at = NULL",
        "expires_at = NULL, status = 'failed', attempts = 1, next_retry_at = now()",
        f"status = 'sending', {HELD}",
    ]
    ids = [await queue() for _ in removed + kept]
    for email_id, changes in zip(ids, removed + kept, strict=True):
        await aged(pool, email_id, 400, changes)
    assert (await cleanup_expired_emails(ctx))['removed'] == len(removed)
    left = await pool.fetch('SELECT id FROM outbound_emails ORDER BY id')
    assert [row['id'] for row in left] == ids[len(removed) :]


async def test_retention_keeps_mail_that_changed_lately(ctx, pool, queue):
    email_id = await queue()
    await aged(pool, email_id, 400, "status = 'sent', sent_at = now()")
    await change(pool, email_id, 'updated_at = now()')
    assert (await cleanup_expired_emails(ctx))['removed'] == 0


async def test_content_without_a_row_is_deleted_once_it_is_a_day_old(ctx, queue, mongo):
    now = datetime.now(UTC)
    documents = [
        {
            'content_id': content_id,
            'position': 0,
            'filename': 'a',
            'content_type': 'a/b',
            'data': Binary(b'x'),
        }
        | {'created_at': now - timedelta(hours=hours)}
        for content_id, hours in (('orphan', 25), ('on-its-way', 23), ('named', 25))
    ]
    await mongo[COLLECTION].insert_many(documents)
    await queue(content_id='named')
    assert (await cleanup_expired_emails(ctx))['content_removed'] == 1
    assert sorted(await mongo[COLLECTION].distinct('content_id')) == ['named', 'on-its-way']


async def test_cleanup_goes_on_without_mongo_and_catches_up_later(ctx, pool, queue, row, mongo):
    content_id = await store_attachments(mongo, [Attachment('a.txt', 'text/plain', b'x')])
    await mongo[COLLECTION].update_many(
        {}, {'$set': {'created_at': datetime.now(UTC) - timedelta(days=91)}}
    )
    old, late = await queue(content_id=content_id), await queue()
    await aged(pool, old, 91, "status = 'sent', sent_at = now()")
    await change(pool, late, OVER)
    away = away_mongo()
    result = await cleanup_expired_emails({'runtime': another(ctx['runtime'], mongo=away)})
    away.client.close()
    assert result == {'affected': 2, 'expired': 1, 'removed': 1, 'content_removed': None}
    assert (await row(late))['status'] == 'expired'
    assert (await cleanup_expired_emails(ctx))['content_removed'] == 1
    assert await mongo[COLLECTION].count_documents({}) == 0


async def test_cleanup_forgets_old_health_and_old_runs(ctx, pool):
    await pool.execute(
        'INSERT INTO service_health (service_name, status, checked_at) VALUES '
        "('old', 'up', now() - interval '15 days'), "
        "('new', 'up', now() - interval '13 days')"
    )
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at) VALUES '
        "('old', now() - interval '31 days', 'w', now()), ('new', now() - interval '29 days', "
        "'w', now())"
    )
    await cleanup_expired_emails(ctx)
    assert await pool.fetchval('SELECT array_agg(service_name) FROM service_health') == ['new']
    assert await pool.fetchval('SELECT array_agg(duty) FROM cron_runs') == ['new']


# cleanup_old_sessions


async def test_old_sessions_go_and_those_still_valid_stay(ctx, pool):
    for table in ('sessions', 'refresh_tokens'):
        await pool.execute(
            f'INSERT INTO {table} (user_id, created_at, expires_at) VALUES '
            "(1, now() - interval '91 days', now() - interval '1 day'), "
            "(2, now() - interval '91 days', NULL), "
            "(3, now() - interval '91 days', now() + interval '1 day'), "
            "(4, now() - interval '89 days', now() - interval '1 day'), "
            '(5, now(), NULL)'
        )
    assert await cleanup_old_sessions(ctx) == {'affected': 2, 'sessions': 1, 'refresh_tokens': 1}
    for table in ('sessions', 'refresh_tokens'):  # without an end, it is never over
        assert await pool.fetchval(f'SELECT array_agg(user_id ORDER BY user_id) FROM {table}') == [
            2,
            3,
            4,
            5,
        ]
    assert (await cleanup_old_sessions(ctx))['affected'] == 0
