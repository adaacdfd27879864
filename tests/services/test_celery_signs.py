"""A Celery that runs is recognised, and what it left in a queue's place is named by whoever meets
it.
"""

import asyncio

import asyncpg
import pytest

from db.import_requests import ImportRequest, make_due
from db.migrate import migrate
from db.pools import create_postgres_pool
from engine.connection import open_redis
from engine.redis_url import redis_settings
from mail_outbox.wake import wake_workers
from ops.celery.connect import look_for_celery
from ops.celery.signs import signs_of_celery
from settings import Settings
from tests.conftest import wait_until
from tests.services.adopted import DAY, create_legacy, state_of
from tests.services.celery_left import bind, queue, take
from tests.services.ops_desk import insert, run
from tests.unit.test_celery_messages import message


async def test_an_empty_redis_is_certainly_without_celery(redis):
    signs = await signs_of_celery(redis, look_again_s=0)
    assert (signs.is_gone, signs.is_running, signs.in_words, signs.unknown) == (True, False, '', [])


async def test_messages_that_wait_are_no_running_celery_but_it_is_not_gone(redis):
    await queue(redis, message())
    await take(redis, 'a', message())
    await bind(redis, 'celery')
    signs = await signs_of_celery(redis, look_again_s=0.02)
    assert (signs.is_gone, signs.is_running, signs.messages) == (False, False, 2)


async def test_who_waits_in_another_database_is_not_ours(redis, env):
    address = redis_settings(env['ARQ_REDIS_URL'])
    address.database = 8
    other = open_redis(address, 'x')
    waiting = asyncio.create_task(other.brpop(['celery'], timeout=0))
    try:

        async def waits():
            return any(client['cmd'] == 'brpop' for client in await redis.client_list())

        await wait_until(waits)
        assert (await signs_of_celery(redis, look_again_s=0)).waiting == 0
        assert (await signs_of_celery(other, look_again_s=0)).is_running
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await other.aclose(close_connection_pool=True)


async def test_a_listener_of_control_messages_is_a_sign(redis):
    async with redis.pubsub() as listener:
        await listener.subscribe('/1.celery.pidbox')

        async def listens():
            return (await signs_of_celery(redis, look_again_s=0)).listening

        await wait_until(listens)
        assert (
            "1 client listens to Celery's control messages"
            in (await signs_of_celery(redis, look_again_s=0)).in_words
        )


async def test_what_may_not_be_asked_is_unknown_and_not_none(redis, env):
    await redis.execute_command(
        'ACL', 'SETUSER', 'few', 'on', '>pass', 'allkeys', '+@all', '-client|list', '-client'
    )
    few = open_redis(
        redis_settings(f'redis://few:pass@{env["ARQ_REDIS_URL"].rpartition("@")[2]}'), 'x'
    )
    try:
        signs = await signs_of_celery(few, look_again_s=0)
        assert (signs.is_gone, signs.is_running, signs.waiting) == (False, False, None)
        assert 'CLIENT LIST is not permitted' in signs.unknown[0]
    finally:
        await few.aclose(close_connection_pool=True)
        await redis.execute_command('ACL', 'DELUSER', 'few')


async def test_a_redis_that_is_away_is_said_and_raises_nothing():
    away = open_redis(redis_settings('redis://127.0.0.1:1/0'), 'x')
    signs = await signs_of_celery(away)
    assert (signs.is_gone, signs.is_running) == (False, False)
    assert signs.unknown[0].startswith('Redis does not answer')
    await away.aclose(close_connection_pool=True)


@pytest.mark.parametrize('known', [True, False])
async def test_nothing_is_certain_but_where_somebody_said_that_the_broker_is(
    redis, env, monkeypatch, known
):
    if known:
        monkeypatch.setenv('CELERY_BROKER_URL', env['ARQ_REDIS_URL'])
    settings = Settings(_env_file=None, arq_redis_url=env['ARQ_REDIS_URL'])
    monkeypatch.setattr('ops.celery.signs.LOOK_AGAIN_S', 0)
    signs = await look_for_celery(settings)
    assert signs.is_gone == known
    address = redis_settings(env['ARQ_REDIS_URL'])
    address.database = 8
    other = open_redis(address, 'x')
    try:
        await bind(other, 'celery')
        signs = await look_for_celery(settings)
        assert (
            signs.is_gone == known
        )  # another application's Celery in another database says nothing of this one's
        if not known:
            assert signs.unknown[0].startswith('Celery is in database 8 of the same server')
    finally:
        await other.flushdb()
        await other.aclose(close_connection_pool=True)


async def test_a_broker_that_is_gone_or_no_redis_is_unknown(env, monkeypatch):
    for url, told in (
        ('redis://:secret@127.0.0.1:1/0', 'Redis does not answer'),
        ('amqp://guest:secret@localhost', "CELERY_BROKER_URL is 'amqp', no Redis"),
    ):
        monkeypatch.setenv('CELERY_BROKER_URL', url)
        signs = await look_for_celery(Settings(_env_file=None, arq_redis_url=env['ARQ_REDIS_URL']))
        assert (signs.is_gone, len(signs.unknown)) == (False, 1)
        assert signs.unknown[0].startswith(told)
        assert 'secret' not in signs.unknown[0]


async def test_a_producer_that_meets_a_list_of_celerys_says_what_it_is(pool, redis, caplog):
    await queue(redis, message(), name='high_priority')
    assert (
        await wake_workers(redis, pool, await insert(pool), queue_name='high_priority') == 'notify'
    )
    assert (
        "the key 'high_priority' is no queue of arq (WRONGTYPE); `python -m ops import-celery`"
        in caplog.records[0].error
    )


async def test_a_worker_that_meets_a_list_of_celerys_says_so_and_goes_on_once_it_is_taken(
    env, pool, redis, start_worker
):
    await queue(redis, message('app.report'), name='high_priority')
    worker = start_worker(target='worker.HighPriority', QUEUE_ROUTING='true')

    def told(event):
        return [entry for entry in worker.events() if entry['event'] == event]

    await wait_until(lambda: told('redis.unreachable'))
    said = told('redis.unreachable')[0]['error']
    assert "the key 'high_priority' is no queue of arq" in said
    await run(env, 'import-celery', '--yes')
    await wait_until(lambda: told('redis.reconnected'))


async def test_of_a_shared_table_rows_become_ours_when_their_messages_are_taken(empty_database):
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    insert_sql = (
        'INSERT INTO outbound_emails (recipient, subject, body_text, status, created_at) VALUES '
    )
    ids = [
        await conn.fetchval(
            f"{insert_sql} ('a@example.com', 's', 't', $1, now()) RETURNING id", status
        )
        for status in ('pending', 'pending', 'sent', 'sending')
    ]
    await migrate(conn)
    pool = await create_postgres_pool(
        empty_database.dsn,
        size=2,
        connect_timeout_s=20,
        command_timeout_s=20,
        application_name='tests',
    )
    asked = [ImportRequest(email_id) for email_id in (ids[0], *ids[2:])]
    outcomes = await make_due(pool, asked, hold_after=DAY, expiry_hours=24)
    assert outcomes == {ids[0]: 'due', ids[2]: 'sent', ids[3]: 'sending'}
    assert await state_of(conn, ids[0]) == (
        'pending',
        'sending',
    )  # which Celery's sweep never picks
    assert await state_of(conn, ids[1]) == ('external', 'pending')
    assert await state_of(conn, ids[2]) == ('external', 'sent')
    await pool.close()
    await conn.close()
