import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from fleet.celery_broker import IMPORTED_KEY, SET_ASIDE_KEY
from tests.conftest import wait_until
from tests.services.ops_desk import insert, rendered, run, statuses
from tests.services.test_migrations import LEGACY_ROWS, create_legacy
from tests.unit.test_celery_messages import message

IN_AN_HOUR = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


async def queue(redis, *messages, name='celery'):
    """As kombu does: in at the left, out at the right."""
    for raw in messages:
        await redis.lpush(name, raw)


async def take(redis, tag, raw):
    """As kombu does when a worker takes a message."""
    await redis.hset('unacked', tag, b'[' + raw + b', "", "celery"]')
    await redis.zadd('unacked_index', {tag: 1.0})


async def test_import_makes_rows_due_and_keeps_every_message(env, pool, redis):
    pending, failed, dead, sent, cancelled, revived, uncertain, later, taken, low = [
        await insert(pool, **columns)
        for columns in (
            {}, {'status': 'failed', 'attempts': 1, 'next_retry_at': "sql:now() + interval '1 h'"},
            {'status': 'failed', 'attempts': 5}, {'status': 'sent', 'sent_at': 'sql:now()'}, {'status': 'cancelled'},
            {'status': 'cancelled'}, {'status': 'uncertain'}, {}, {}, {},
        )
    ]  # fmt: skip
    understood = [
        message(args=[pending]), message(args=[pending]), message(kwargs={'email_id': failed}, args=[]),
        message(args=[dead], protocol=1), message(args=[sent]), message(args=[cancelled]),
        message('app.retry_failed_email', [revived]), message(args=[uncertain]),
        message(args=[later], headers={'eta': IN_AN_HOUR}), message('app.process_pending_emails', []),
    ]  # fmt: skip
    left = [message('app.make_report', ['x']), b'junk', message(args=[404])]
    await queue(redis, left[0], *understood[:5], left[1], *understood[5:], left[2])
    await queue(redis, message(args=[low]), name='celery\x06\x166')
    await take(redis, 'tag-1', message(args=[taken]))
    await take(redis, 'tag-2', message('app.other'))

    dry = await run(env, 'import-celery', '--dry-run')
    assert (dry.document['messages'], dry.document['outcomes']['due']) == (16, 8)
    assert await redis.llen('celery') == 13
    assert (await statuses(pool))[dead] == 'failed'

    given = await run(env, 'import-celery', '--yes')
    assert given.document['outcomes'] == dry.document['outcomes'] == {
        'due': 8, 'sent': 1, 'duty': 1, 'cancelled': 1, 'uncertain': 1, 'missing': 1, 'unknown task': 2, 'unreadable': 1
    }  # fmt: skip
    assert given.exit_status == 1
    assert given.troubles[0].what == '4 messages stay in Redis'
    assert given.document['unknown_tasks'] == {'app.make_report': 1, 'app.other': 1}
    assert given.document['sources'] == {'celery': 13, 'celery\x06\x166': 1, 'unacked': 2}
    found = await statuses(pool)
    assert [found[i] for i in (pending, failed, dead, revived, later, taken, low)] == ['pending'] * 7
    assert [found[i] for i in (sent, cancelled, uncertain)] == ['sent', 'cancelled', 'uncertain']
    due = await pool.fetch('SELECT id FROM outbound_emails WHERE next_retry_at <= now() ORDER BY id')
    assert [row['id'] for row in due] == [pending, failed, dead, revived, taken, low]
    assert await pool.fetchval(
        "SELECT next_retry_at > now() + interval '50 min' FROM outbound_emails WHERE id = $1", later
    )
    # What stays is in its place and order, what was taken is kept for a while.
    assert await redis.lrange('celery', 0, -1) == list(reversed(left))
    assert sorted(await redis.lrange(IMPORTED_KEY, 0, -1)) == sorted(
        [*understood, message(args=[low]), b'[' + message(args=[taken]) + b', "", "celery"]']
    )
    assert await redis.ttl(IMPORTED_KEY) > 86400
    assert (await redis.hkeys('unacked'), await redis.zrange('unacked_index', 0, -1)) == ([b'tag-2'], [b'tag-2'])
    told = rendered('import-celery', given)
    assert 'app.make_report' in told
    assert '\x06' not in told

    again = await run(env, 'import-celery', '--task', 'app.make_report=ignore', '--set-aside', '--yes')
    assert (again.exit_status, again.document['messages']) == (0, 4)
    assert not await redis.exists('celery', 'unacked', 'unacked_index')
    assert await redis.llen(SET_ASIDE_KEY) == 3
    assert await statuses(pool) == found


async def test_import_adopts_the_table_first(env, empty_database, redis):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(LEGACY_ROWS)
    ids = {row['status']: row['id'] for row in await conn.fetch('SELECT id, status::text FROM outbound_emails')}
    await queue(redis, message(args=[ids['pending']]), message(args=[ids['sending']]), message(args=[ids['cancelled']]))
    dry = await run(env, 'import-celery', '--dry-run')
    assert '0001_outbox' in dry.document['schema']['missing']
    assert dry.document['schema']['emails']['sent'] == 2
    assert dry.document['outcomes'] == {'due': 1, 'sending': 1, 'cancelled': 1}
    assert await conn.fetchval("SELECT to_regclass('email_attempts')") is None
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, {'due': 1, 'cancelled': 1, 'uncertain': 1})
    assert await redis.llen('celery') == 0
    await conn.close()


async def test_import_leaves_every_message_when_postgresql_fails(env, pool, redis):
    await queue(redis, message(args=[await insert(pool)]))
    await pool.execute(
        'CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION $a$no$a$; END $$;'
        'CREATE TRIGGER refuse BEFORE UPDATE ON outbound_emails FOR EACH ROW EXECUTE FUNCTION refuse()'
    )
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.troubles[0].service) == (1, 'PostgreSQL')
    assert (await redis.llen('celery'), await redis.exists(IMPORTED_KEY)) == (1, 0)


async def test_import_refuses_while_celery_workers_wait_for_messages(env, pool, redis):
    waiting = asyncio.create_task(redis.brpop(['another queue'], timeout=0))
    try:

        async def waits():
            return any(client['cmd'] == 'brpop' for client in await redis.client_list())

        await wait_until(waits)
        given = await run(env, 'import-celery', '--yes')
        assert given.troubles[0].what == '1 client waits for messages in this database, as Celery workers do'
        assert (await run(env, 'import-celery', '--force', '--yes')).exit_status == 0
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_import_in_batches_stops_when_somebody_else_takes_messages(env, pool, redis, monkeypatch):
    monkeypatch.setattr('fleet.celery_broker.BATCH', 3)
    ids = [await insert(pool) for _ in range(8)]
    await queue(redis, *(message(args=[i], id=str(i)) for i in ids))
    assert (await run(env, 'import-celery', '--yes')).document['outcomes'] == {'due': 8}
    await queue(redis, *(message(args=[i], id=str(i)) for i in ids))
    real = redis.__class__.eval

    async def taken_meanwhile(self, *arguments):
        await redis.rpop('celery')
        return await real(self, *arguments)

    monkeypatch.setattr(redis.__class__, 'eval', taken_meanwhile)
    given = await run(env, 'import-celery', '--yes')
    assert given.troubles[0].what == 'somebody else takes messages from celery'
    assert await redis.llen('celery') == 7


async def test_import_finds_nothing_and_changes_nothing_without_celery(env, pool, redis):
    await redis.set('celery', 'a text')
    await redis.set('unacked', 'a text')
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['messages']) == (0, 0)
    assert (await run(env, 'import-celery')).exit_status == 0  # nothing to do, nothing to ask
    assert 'Messages: none' in rendered('import-celery', given)
