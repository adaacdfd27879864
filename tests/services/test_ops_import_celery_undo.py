import asyncio
import json

import asyncpg
import pytest
from arq.constants import default_queue_name

from fleet.registry import LIFETIME_S, RECORD_PREFIX, WORKERS_KEY
from ops.celery.broker import IMPORTED_KEY, SET_ASIDE_KEY
from ops.doctor import CHECKS
from tests.conftest import wait_until
from tests.services.adopted import create_legacy
from tests.services.celery_left import LEGACY_ROWS, bind, queue, take, theirs
from tests.services.ops_desk import insert, rendered, run
from tests.unit.test_celery_messages import CAPTURED, message


@pytest.fixture(autouse=True)
def short_look(monkeypatch):
    monkeypatch.setattr('ops.celery.signs.LOOK_AGAIN_S', 0.02)


async def left_by_celery(pool, redis):
    """Lists, priorities and messages that a worker had; none but those about e-mails."""
    ids = [await insert(pool) for _ in range(12)]
    await queue(
        redis, *(message(args=[i]) for i in ids[:6]), b'junk', message('app.cleanup_old_sessions')
    )
    await queue(redis, *(message(args=[i]) for i in ids[6:9]), name='p:high\x06\x163')
    await take(redis, 'a', message(args=[ids[9]]), score=1700000000.25)
    await take(redis, 'b', message(args=[ids[10]]), key='p:own', index='p:times', score=3)
    await take(redis, 'c', CAPTURED['protocol1_pickle'], score=5)
    return ids


async def test_undo_puts_every_message_back_in_its_order_and_time(env, pool, redis, monkeypatch):
    monkeypatch.setattr('ops.celery.broker.BATCH', 4)
    monkeypatch.setattr('ops.celery.kept.BATCH', 4)
    await left_by_celery(pool, redis)
    before = await theirs(redis)
    await run(env, 'import-celery', '--yes')
    assert await theirs(redis) == {}
    dry = await run(env, 'import-celery', '--undo', '--dry-run')
    assert await theirs(redis) == {}
    given = await run(env, 'import-celery', '--undo', '--yes')
    assert (given.exit_status, given.document['stay_kept']) == (0, 0)
    assert given.document['put_back'] == dry.document['put_back'] == {
        'celery': 8, 'p:high\x06\x163': 3, 'unacked': 2, 'p:own': 1
    }  # fmt: skip
    after = await theirs(redis)
    # What could not be read was kept apart: it is behind what was imported from the same list.
    assert sorted(after.pop('celery')) == sorted(before['celery'])
    assert after == {key: value for key, value in before.items() if key != 'celery'}
    readable = [raw for raw in before['celery'] if raw != b'junk']
    assert [raw for raw in await redis.lrange('celery', 0, -1) if raw != b'junk'] == readable
    assert not [key async for key in redis.scan_iter(match='mail:celery-imported*')]
    assert 'put back' in rendered('import-celery', given)


async def test_undo_puts_nothing_back_about_e_mails_that_ended_here(env, pool, redis):
    ids = await left_by_celery(pool, redis)
    await run(env, 'import-celery', '--yes')
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now() WHERE id = ANY($1)", ids[:2]
    )
    await pool.execute(
        "UPDATE outbound_emails SET status = 'failed', next_retry_at = NULL WHERE id = $1", ids[2]
    )
    await pool.execute(
        "UPDATE outbound_emails SET status = 'failed', attempts = 1 WHERE id = $1", ids[3]
    )
    await pool.execute("UPDATE outbound_emails SET status = 'uncertain' WHERE id = $1", ids[4])
    await pool.execute("UPDATE outbound_emails SET status = 'held' WHERE id = $1", ids[5])
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now() WHERE id = $1", ids[9]
    )
    for stays in (5, 5, 5):
        given = await run(env, 'import-celery', '--undo', '--yes')
        assert given.document['stay_kept'] == stays
        duty = message('app.cleanup_old_sessions')
        expected = [duty, message(args=[ids[5]]), message(args=[ids[3]])]
        assert [raw for raw in await redis.lrange('celery', 0, -1) if raw != b'junk'] == expected
        assert await redis.hkeys('unacked') == [b'c']
    assert await redis.llen(f'{IMPORTED_KEY}:list:celery') == 4
    assert 'not put back, so not sent twice' in rendered('import-celery', given)


async def test_undo_goes_on_where_it_was_interrupted(env, pool, redis, monkeypatch):
    await left_by_celery(pool, redis)
    before = await theirs(redis)
    await run(env, 'import-celery', '--yes')
    real = redis.__class__.eval
    calls = iter(range(100))

    async def fails(self, script, *arguments):
        if 'LMOVE' in script and next(calls) == 1:
            raise ConnectionError('gone')
        return await real(self, script, *arguments)

    monkeypatch.setattr(redis.__class__, 'eval', fails)
    assert (await run(env, 'import-celery', '--undo', '--yes')).exit_status == 1
    assert (await run(env, 'import-celery', '--undo', '--yes')).exit_status == 0
    after = await theirs(redis)
    assert {key: sorted(value) for key, value in after.items() if isinstance(value, list)} == {
        key: sorted(value) for key, value in before.items() if isinstance(value, list)
    }


async def test_what_an_operator_said_of_tasks_is_remembered_for_the_way_back(env, pool, redis):
    sent, waits = [await insert(pool) for _ in range(2)]
    await queue(
        redis,
        message('app.deliver', [sent]),
        message('app.deliver', [waits]),
        message('app.report', [sent]),
    )
    await run(
        env,
        'import-celery',
        '--task',
        'app.deliver=send_email',
        '--task',
        'app.report=ignore',
        '--yes',
    )
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now() WHERE id = $1", sent
    )
    await run(env, 'import-celery', '--undo', '--yes')
    expected = [message('app.report', [sent]), message('app.deliver', [waits])]
    assert await redis.lrange('celery', 0, -1) == expected


async def test_undo_gives_an_adopted_table_back_after_the_messages(env, empty_database, redis):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(LEGACY_ROWS)
    rows = """
        SELECT id, status, COALESCE(attempts, 0) AS attempts FROM outbound_emails
        WHERE status::text IN ($1, $2) ORDER BY id"""
    before = await conn.fetch(rows, 'pending', 'sent')
    columns = 'SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND NOT attisdropped'
    names = await conn.fetch(columns, 'outbound_emails')
    raws = [message(args=[row['id']]) for row in before]
    await queue(redis, *raws)
    await run(env, 'import-celery', '--yes')
    assert await theirs(redis) == {}
    given = await run(env, 'import-celery', '--undo', '--yes')
    assert given.document['put_back'] == {'celery': 1}
    assert given.document['given_back'] is not None
    assert await redis.lrange('celery', 0, -1) == [raws[0]]
    assert await conn.fetch(rows, 'pending', 'sent') == before
    assert await conn.fetch(columns, 'outbound_emails') == names
    # Once more changes nothing; and the import can be made again.
    assert (await run(env, 'import-celery', '--undo', '--yes')).document['put_back'] == {}
    assert await redis.lrange('celery', 0, -1) == [raws[0]]
    assert (await run(env, 'import-celery', '--yes')).document['outcomes'] == {'due': 1}
    await conn.close()


async def test_undo_after_the_table_was_given_back_still_knows_what_was_sent(
    env, empty_database, redis
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'text')
    insert_sql = (
        'INSERT INTO outbound_emails (recipient, subject, body_text, status) VALUES ($1, '
        "'s', 't', 'pending')"
    )
    ids = [await conn.fetchval(f'{insert_sql} RETURNING id', 'a@example.com') for _ in range(3)]
    await queue(redis, *(message(args=[i]) for i in ids))
    await run(env, 'import-celery', '--yes')
    await conn.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now() WHERE id = $1", ids[0]
    )
    await conn.execute("UPDATE mail_outbox SET status = 'uncertain' WHERE id = $1", ids[1])
    kept = await redis.dump(f'{IMPORTED_KEY}:list:celery')
    await run(env, 'import-celery', '--undo', '--yes')
    await redis.delete('celery', f'{IMPORTED_KEY}:list:celery')
    await redis.restore(
        f'{IMPORTED_KEY}:list:celery', 0, kept
    )  # as if `db.migrate --undo` had come first
    given = await run(env, 'import-celery', '--undo', '--yes')
    assert (given.document['put_back'], given.document['stay_kept']) == ({'celery': 1}, 2)
    assert await redis.lrange('celery', 0, -1) == [message(args=[ids[2]])]
    await conn.close()


async def register(redis):
    told = {
        'worker': 'w1',
        'queue': 'arq:queue',
        'started_at': '',
        'emails': [],
        'outcomes': {},
        'rss_bytes': 1,
    }
    await redis.set(RECORD_PREFIX + 'w1', json.dumps(told), px=int(LIFETIME_S * 1000))
    await redis.zadd(WORKERS_KEY, {'w1': 1})


async def test_undo_refuses_while_anybody_works(env, pool, redis):
    await queue(redis, message(args=[await insert(pool)]))
    await run(env, 'import-celery', '--yes')
    await register(redis)
    refused = await run(env, 'import-celery', '--undo', '--yes')
    assert refused.problems[0].what == '1 worker runs; nothing was changed'
    await redis.delete(RECORD_PREFIX + 'w1')
    sending = await insert(pool, status='sending')
    refused = await run(env, 'import-celery', '--undo', '--yes')
    assert refused.problems[0].what == 'workers are sending 1 e-mail; nothing was changed'
    await pool.execute(
        "UPDATE outbound_emails SET lease_expires_at = now() - interval '1 s' WHERE id = $1",
        sending,
    )
    waiting = asyncio.create_task(redis.brpop(['celery'], timeout=0))
    try:

        async def waits():
            return any(client['cmd'] == 'brpop' for client in await redis.client_list())

        await wait_until(waits)
        refused = await run(env, 'import-celery', '--undo', '--yes')
        assert refused.problems[0].what.startswith('1 client waits for messages')
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await redis.llen('celery') == 0
    assert await redis.llen(f'{IMPORTED_KEY}:list:celery') == 1


async def test_undo_moves_our_queues_out_of_the_way_of_celerys_lists(env, pool, redis):
    email_id = await insert(pool)
    await queue(redis, message(args=[email_id]), name='high_priority')
    await bind(redis, 'low_priority')
    await run(env, 'import-celery', '--yes')
    for name in ('high_priority', 'low_priority', default_queue_name):
        await redis.enqueue_job('send_email', email_id, _queue_name=name)
    given = await run(env, 'import-celery', '--undo', '--yes')
    assert given.document['queues_moved'] == ['high_priority', 'low_priority']
    assert await redis.lrange('high_priority', 0, -1) == [message(args=[email_id])]
    assert not await redis.exists('low_priority')
    assert await redis.zcard(default_queue_name) == 1
    assert await redis.zcard('mail:arq-queue-before-undo:high_priority') == 1


async def found(env):
    given = await run(env, 'doctor', 'celery')
    return [(row['severity'], row['what'], row['remedy']) for row in given.document['findings']]


async def test_doctor_names_the_command_and_never_advises_to_delete_what_waits(env, pool, redis):
    assert 'celery' in CHECKS
    assert await found(env) == []
    await queue(
        redis, *[message(args=[await insert(pool)]) for _ in range(3)], name='high_priority'
    )
    await queue(redis, message('app.report'), name='bulk')
    findings = await found(env)
    assert [(severity, what) for severity, what, _ in findings] == [
        (
            'error',
            (
                'the list high_priority holds 3 messages of Celery: our queue of that name '
                'cannot be used'
            ),
        ),
        ('warning', '4 messages of Celery wait in bulk (1), high_priority (3)'),
    ]
    everything = (await run(env, 'doctor')).document['findings']
    told = [row['remedy'] for row in everything if 'high_priority' in row['what']]
    told += [problem.remedy for problem in (await run(env, 'queue', 'ls')).problems]
    assert told
    assert all('import-celery' in remedy and 'delete' not in remedy for remedy in told)
    await redis.lpush('celery', b'junk')
    await run(env, 'import-celery', '--yes')
    assert [what for _, what, _ in await found(env)] == [
        '1 message of Celery waits in bulk (1)',
        f'1 message of Celery is set aside in {SET_ASIDE_KEY}:*'
    ]  # fmt: skip


async def test_doctor_without_rights_or_redis_says_so(env, pool, redis, monkeypatch):
    await redis.execute_command(
        'ACL', 'SETUSER', 'few', 'on', '>pass', 'resetkeys', '~arq:*', '+@all', '-client|list'
    )
    few = f'redis://few:pass@{env["ARQ_REDIS_URL"].rpartition("@")[2]}'
    try:
        monkeypatch.setenv('CELERY_BROKER_URL', few)
        await queue(redis, message('app.report'))
        ((severity, what, _),) = await found(env)
        assert (severity, what) == ('note', 'this user of Redis may not look for what Celery left')
    finally:
        await redis.execute_command('ACL', 'DELUSER', 'few')
    monkeypatch.setenv('CELERY_BROKER_URL', 'amqp://guest@localhost')
    ((severity, what, _),) = await found(env)
    assert (severity, what) == ('note', "CELERY_BROKER_URL is 'amqp', no Redis")
    monkeypatch.setenv('CELERY_BROKER_URL', 'redis://127.0.0.1:1/0')
    ((severity, what, _),) = await found(env)
    assert severity == 'error'
    assert 'does not answer' in what
