import asyncio
import functools
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db.migrate import migrate
from engine.connection import open_redis
from engine.redis_url import redis_settings
from ops.celery.broker import IMPORTED_KEY, SET_ASIDE_KEY
from tests.conftest import wait_until
from tests.services.adopted import create_legacy, state_of
from tests.services.celery_left import LEGACY_ROWS, bind, queue, reply, take, theirs
from tests.services.ops_desk import insert, rendered, run, statuses
from tests.unit.test_celery_messages import CAPTURED, message

NOW = datetime.now(UTC)
IN_AN_HOUR, AN_HOUR_AGO = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
MONTH_AGO = "sql:now() - interval '30 days'"


def at(time):
    return {'eta': time.isoformat()}


@pytest.fixture(autouse=True)
def short_look(monkeypatch):
    monkeypatch.setattr('ops.celery.signs.LOOK_AGAIN_S', 0.02)


async def test_import_makes_rows_due_and_keeps_every_message(env, pool, redis):
    pending, failed, dead, sent, cancelled, revived, uncertain, later, taken, low = [
        await insert(pool, **columns)
        for columns in (
            {}, {'status': 'failed', 'attempts': 1, 'next_retry_at': "sql:now() + interval '1 h'"},
            {'status': 'failed', 'attempts': 5}, {'status': 'sent', 'sent_at': 'sql:now()'},
            {'status': 'cancelled'},
            {'status': 'cancelled'}, {'status': 'uncertain'}, {}, {}, {},
        )
    ]  # fmt: skip
    understood = [
        message(args=[pending]), message(args=[pending]),
        message(kwargs={'email_id': failed}, args=[]),
        message(args=[dead], protocol=1), message(args=[sent]), message(args=[cancelled]),
        message('app.retry_failed_email', [revived]), message(args=[uncertain]),
        message(args=[later], headers=at(IN_AN_HOUR)), message('app.process_pending_emails', []),
    ]  # fmt: skip
    report, missing = message('app.make_report', ['x']), message(args=[404])
    await queue(redis, report, *understood[:5], b'junk', *understood[5:], missing)
    await queue(redis, message(args=[low]), name='celery\x06\x166')
    await take(redis, 'tag-1', message(args=[taken]))
    await take(redis, 'tag-2', message('app.other'))

    before = await theirs(redis)
    dry = await run(env, 'import-celery', '--dry-run')
    assert (dry.document['messages'], dry.document['outcomes']['due']) == (16, 8)
    assert await theirs(redis) == before
    assert (await statuses(pool))[dead] == 'failed'

    given = await run(env, 'import-celery', '--yes')
    assert given.document['outcomes'] == dry.document['outcomes'] == {
        'due': 8, 'sent': 1, 'duty': 1, 'cancelled': 1, 'uncertain': 1, 'missing': 1,
        'unknown task': 2, 'unreadable': 1
    }  # fmt: skip
    assert given.exit_status == 1
    assert [problem.what for problem in given.problems] == [
        '2 messages cannot be used, see the samples',
        '2 messages of unknown tasks stay in Redis: app.make_report (1), app.other (1)',
    ]
    assert given.document['sources'] == {'celery': 13, 'celery\x06\x166': 1, 'unacked': 2}
    found = await statuses(pool)
    assert [found[i] for i in (pending, failed, dead, revived, later, taken, low)] == [
        'pending'
    ] * 7
    assert [found[i] for i in (sent, cancelled, uncertain)] == ['sent', 'cancelled', 'uncertain']
    due = await pool.fetch(
        'SELECT id FROM outbound_emails WHERE next_retry_at <= now() ORDER BY id'
    )
    assert [row['id'] for row in due] == [pending, failed, dead, revived, taken, low]

    # What stays is in its place and order; what was taken is kept in its own, and does not lapse.
    kept = f'{IMPORTED_KEY}:list:celery'
    assert await redis.lrange('celery', 0, -1) == [report]
    assert await redis.lrange(kept, 0, -1) == list(reversed(understood))
    assert await redis.ttl(kept) == -1
    assert await redis.lrange(f'{IMPORTED_KEY}:list:celery\x06\x166', 0, -1) == [
        message(args=[low])
    ]
    assert await redis.lrange(f'{SET_ASIDE_KEY}:list:celery', 0, -1) == [missing, b'junk']
    assert (await redis.hkeys('unacked'), await redis.zrange('unacked_index', 0, -1)) == (
        [b'tag-2'],
        [b'tag-2'],
    )
    assert await redis.hkeys(f'{IMPORTED_KEY}:hash:unacked') == [b'tag-1']
    assert await redis.zscore(f'{IMPORTED_KEY}:zset:unacked_index', 'tag-1') == 1.0
    told = rendered('import-celery', given)
    assert 'app.make_report' in told
    assert '\x06' not in told

    again = await run(
        env, 'import-celery', '--task', 'app.make_report=ignore', '--set-aside', '--yes'
    )
    assert (again.exit_status, again.document['messages']) == (0, 2)
    assert not await redis.exists('celery', 'unacked', 'unacked_index')
    assert await redis.hkeys(f'{SET_ASIDE_KEY}:hash:unacked') == [b'tag-2']
    assert await statuses(pool) == found


@pytest.mark.parametrize('prefix', ['', 'app1:'])
@pytest.mark.parametrize('separator', ['\x06\x16', ':', '--'])
async def test_import_finds_every_list_of_kombus_without_being_told_its_name(
    env, pool, redis, prefix, separator
):
    ids = [await insert(pool) for _ in range(6)]
    names = [
        'celery',
        'bulk',
        'high_priority',
        f'bulk{separator}3',
        f'celery{separator}9',
        f'un:bound{separator}12',
    ]
    for email_id, name in zip(ids, names, strict=True):
        await queue(redis, message(args=[email_id]), name=prefix + name)
    for name in names[:3]:
        await bind(redis, name, prefix, separator)
    taken = [await insert(pool) for _ in range(2)]
    await take(
        redis,
        'a',
        message(args=[taken[0]]),
        key=f'{prefix}unacked',
        index=f'{prefix}unacked_index',
        score=7,
    )
    await take(
        redis, 'b', message(args=[taken[1]]), key=f'{prefix}held', index=f'{prefix}since', score=8
    )
    await queue(redis, reply(), name=f'{prefix}5f0c.reply.celery.pidbox')
    await redis.set(f'{prefix}celery-task-meta-1', '{}')
    await redis.lpush('own list', 'not a message', '{"body": 1}')
    await redis.hset('own hash', 'a', 'b')
    await redis.enqueue_job('send_email', 1)
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, {'due': 8})
    assert set(given.document['sources']) == {prefix + name for name in [*names, 'unacked', 'held']}
    left = await theirs(redis)
    assert {key for key in left if not key.startswith('arq:') and 'kombu' not in key} == {
        f'{prefix}5f0c.reply.celery.pidbox', f'{prefix}celery-task-meta-1', 'own list', 'own hash'
    }  # fmt: skip
    assert await redis.zscore(f'{IMPORTED_KEY}:zset:{prefix}since', 'b') == 8
    assert given.document['results'] is True
    assert 'celery-task-meta-*' in rendered('import-celery', given)


async def test_an_eta_is_kept_whatever_the_row_says_and_several_messages_are_one_request(
    env, pool, redis
):
    past = "sql:now() - interval '5 minutes'"
    plain, unset, failed, both, reverse, twice, over = [
        await insert(pool, **columns)
        for columns in (
            {'next_retry_at': past}, {'next_retry_at': None},
            {'status': 'failed', 'attempts': 1, 'next_retry_at': past}, {}, {}, {},
            {'next_retry_at': past},
        )
    ]  # fmt: skip
    in_two = IN_AN_HOUR + timedelta(hours=1)
    for email_id in (plain, unset, failed, both):
        await queue(redis, message(args=[email_id], headers=at(IN_AN_HOUR)))
    await queue(redis, message(args=[both]), message(args=[reverse]))
    await queue(redis, message(args=[reverse], headers=at(IN_AN_HOUR)), name='other')
    await queue(redis, message(args=[twice], headers=at(in_two)))
    await queue(redis, message('app.retry_failed_email', [twice], headers=at(IN_AN_HOUR)), name='a')
    await queue(redis, message(args=[over], headers=at(AN_HOUR_AGO)))
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, {'due': 10})
    rows = await pool.fetch('SELECT id, status, next_retry_at FROM outbound_emails')
    assert {row['status'] for row in rows} == {'pending'}
    times = {row['id']: row['next_retry_at'] for row in rows}
    assert [times[i] for i in (plain, unset, failed, twice)] == [IN_AN_HOUR] * 4
    assert all(times[i] <= datetime.now(UTC) for i in (both, reverse, over))
    assert f'{in_two:%Y-%m-%d %H:%M}' in rendered('import-celery', given)


async def test_what_is_too_old_is_held_and_so_is_what_celery_would_have_dropped(env, pool, redis):
    old, asked_again, eta_old, dropped, dropped_but_asked, over, sent, dead = [
        await insert(pool, **columns)
        for columns in (
            {'created_at': MONTH_AGO, 'next_retry_at': None}, {'created_at': MONTH_AGO}, {}, {}, {},
            {'expires_at': "sql:now() - interval '1 h'"},
            {'status': 'sent', 'sent_at': 'sql:now()'},
            {'status': 'failed', 'attempts': 5},
        )
    ]  # fmt: skip
    lapsed = {'expires': AN_HOUR_AGO.isoformat()}
    await queue(
        redis, message(args=[old]), message('retry_failed_email', [asked_again]),
        message(args=[eta_old], headers=at(NOW - timedelta(days=3))),
        message(args=[dropped], headers=lapsed),
        message(args=[dropped_but_asked], headers=lapsed), message(args=[dropped_but_asked]),
        message(args=[over]),
        message(args=[sent], headers=lapsed), message(args=[dead], headers=lapsed),
    )  # fmt: skip
    given = await run(env, 'import-celery', '--yes')
    assert given.document['outcomes'] == {
        'due': 2,
        'held': 2,
        'task expired': 3,
        'sent': 1,
        'expired': 1,
    }
    assert given.exit_status == 0
    found = await statuses(pool)
    assert [found[i] for i in (old, eta_old, dropped)] == ['held'] * 3
    assert [found[i] for i in (asked_again, dropped_but_asked, over)] == ['pending'] * 3
    assert (found[sent], found[dead]) == ('sent', 'failed')


async def test_bodies_in_other_forms_are_set_aside_unless_their_headers_name_the_e_mail(
    env, pool, redis
):
    await pool.execute("SELECT setval('outbound_emails_id_seq', 123, false)")
    email_id = await insert(pool)
    names = [
        'body_pickle',
        'compressed_gzip',
        'body_pickle_hidden',
        'protocol1_pickle',
        'other_pickle',
        'protocol1_gzip',
    ]
    await queue(redis, *(CAPTURED[name] for name in names))
    given = await run(env, 'import-celery', '--yes')
    assert given.document['outcomes'] == {'due': 3, 'unknown task': 1, 'unreadable': 2}
    assert (given.exit_status, given.document['by_header_ids']) == (1, [email_id])
    assert await redis.lrange('celery', 0, -1) == [CAPTURED['other_pickle']]
    aside = [CAPTURED['protocol1_pickle'], CAPTURED['body_pickle_hidden']]
    assert await redis.lrange(f'{SET_ASIDE_KEY}:list:celery', 0, -1) == aside
    told = rendered('import-celery', given)
    assert 'app.tasks.email.send_email_task' in told
    assert "not JSON; its headers show '(***)'" in told
    assert 'the body was not read' in told


async def test_a_list_that_is_named_like_our_queue_is_cleared_in_its_order(env, pool, redis):
    ids = [await insert(pool) for _ in range(2)]
    others = [message('app.report', [n]) for n in range(3)]
    await queue(
        redis,
        others[0],
        message(args=[ids[0]]),
        others[1],
        message(args=[ids[1]]),
        others[2],
        name='low_priority',
    )
    assert (
        (await run(env, 'queue', 'ls'))
        .problems[0]
        .remedy.startswith('`python -m ops import-celery`')
    )
    given = await run(env, 'import-celery', '--yes')
    assert [t.what for t in given.problems] == [
        "3 messages of unknown tasks are in our queues' way: app.report (3)"
    ]
    assert await redis.lrange(f'{SET_ASIDE_KEY}:list:low_priority', 0, -1) == list(reversed(others))
    await redis.enqueue_job('send_email', ids[0], _queue_name='low_priority')
    assert (await run(env, 'queue', 'ls', '--queue', 'low_priority')).document['queues'][0][
        'ready'
    ] == 1


async def test_import_takes_over_an_adopted_table_last(env, empty_database, redis):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(LEGACY_ROWS)
    ids = {
        row['status']: row['id']
        for row in await conn.fetch('SELECT id, status::text FROM outbound_emails')
    }
    await queue(
        redis, message(args=[ids['pending']], headers=at(IN_AN_HOUR)),
        message(args=[ids['sending']]),
        message(args=[ids['cancelled']]), message(args=[ids['sent']]),
    )  # fmt: skip
    dry = await run(env, 'import-celery', '--dry-run')
    assert '0001_outbox' in dry.document['schema']['missing']
    assert dry.document['schema']['emails']['sent'] == 2
    outcomes = {'due': 1, 'sending': 1, 'cancelled': 1, 'sent': 1}
    assert dry.document['outcomes'] == outcomes
    assert {f['fate'] for f in dry.document['forecast']} >= {'uncertain', 'ended'}
    assert 'What becomes of e-mails without a message' in rendered('import-celery', dry)
    assert await conn.fetchval("SELECT to_regclass('email_attempts')") is None
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, outcomes)
    assert given.document['taken_over']['uncertain'] == 1
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'taken over'
    assert await state_of(conn, ids['pending']) == ('pending', 'pending')
    assert await conn.fetchval(
        'SELECT next_retry_at FROM mail_outbox WHERE id = $1', ids['pending']
    ) == IN_AN_HOUR.replace(tzinfo=None)
    assert await redis.llen('celery') == 0
    await conn.close()


async def test_a_shared_table_is_taken_over_without_messages_but_not_unasked(
    env, empty_database, redis
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'text')
    await conn.execute(LEGACY_ROWS)
    await migrate(conn)
    assert (await run(env, 'import-celery')).problems[
        0
    ].what == 'refused: there is no terminal to ask at'
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'shared'
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['taken_over']['pending']) == (0, 1)
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'taken over'
    await conn.close()


async def test_import_leaves_every_message_and_the_table_when_postgresql_fails(
    env, empty_database, redis
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'text')
    await conn.execute(LEGACY_ROWS)
    await conn.execute(
        'CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '
        '$a$no$a$; END $$;'
        'CREATE TRIGGER refuse BEFORE UPDATE ON outbound_emails FOR EACH ROW EXECUTE FUNCTION '
        'refuse()'
    )
    raw = message(
        args=[await conn.fetchval("SELECT id FROM outbound_emails WHERE status = 'pending'")]
    )
    await queue(redis, raw)
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.problems[0].service) == (1, 'PostgreSQL')
    assert await theirs(redis) == {'celery': [raw]}
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'shared'
    await conn.execute('DROP TRIGGER refuse ON outbound_emails')
    assert (await run(env, 'import-celery', '--yes')).document['outcomes'] == {'due': 1}
    await conn.close()


async def test_import_refuses_while_celery_workers_wait_for_messages(env, pool, redis):
    raw = message(args=[await insert(pool)])
    await queue(redis, raw)
    waiting = asyncio.create_task(redis.brpop(['another queue'], timeout=0))
    try:

        async def waits():
            return any(client['cmd'] == 'brpop' for client in await redis.client_list())

        await wait_until(waits)
        given = await run(env, 'import-celery', '--yes')
        assert (
            given.problems[0].what
            == '1 client waits for messages in this database, as Celery workers do'
        )
        assert await theirs(redis) == {'celery': [raw]}
        assert (await run(env, 'import-celery', '--dry-run')).exit_status == 1
        assert (await run(env, 'import-celery', '--force', '--yes')).exit_status == 0
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_import_refuses_while_messages_are_taken(env, pool, redis, monkeypatch):
    await take(redis, 'a', message(args=[1]))
    await queue(redis, message(id='1'), message(id='2'))
    number = iter(range(1000))

    async def works(_):
        n = next(number)
        await take(redis, f't{n}', message(args=[1]), score=n + 2.0)
        await redis.hdel('unacked', 'a' if not n else f't{n - 1}')

    monkeypatch.setattr('ops.celery.signs.asyncio.sleep', works)
    given = await run(env, 'import-celery', '--yes')
    assert given.problems[0].what == 'messages are taken from unacked'

    async def takes(_):
        await redis.rpop('celery')
        await queue(redis, message(id='3'))

    monkeypatch.setattr('ops.celery.signs.asyncio.sleep', takes)
    assert (await run(env, 'import-celery', '--yes')).problems[
        0
    ].what == 'messages are taken from celery'


async def test_messages_that_only_come_stop_neither_the_import_nor_the_way_back(
    env, pool, redis, monkeypatch
):
    first, *later = [await insert(pool) for _ in range(4)]
    await queue(redis, message(args=[first]))

    async def asks(_):
        await queue(redis, message(args=[later[0]]), name='bulk')
        await queue(redis, message(args=[later[1]]))

    monkeypatch.setattr('ops.celery.signs.asyncio.sleep', asks)
    given = await run(env, 'import-celery', '--yes')
    assert given.document['outcomes'] == {'due': 1}
    assert given.document['signs']['growing'] == ['celery', 'bulk']
    assert [problem.what for problem in given.problems] == ['2 messages came meanwhile']
    assert 'somebody still asks Celery' in rendered('import-celery', given)
    assert (await run(env, 'import-celery', '--undo', '--yes')).document['put_back'] == {
        'celery': 1
    }


async def test_import_in_batches_stops_when_somebody_else_takes_messages(
    env, pool, redis, monkeypatch
):
    monkeypatch.setattr('ops.celery.broker.BATCH', 3)
    ids = [await insert(pool) for _ in range(8)]
    await queue(redis, *(message(args=[i], id=str(i)) for i in ids))
    assert (await run(env, 'import-celery', '--yes')).document['outcomes'] == {'due': 8}
    await queue(redis, *(message(args=[i], id=str(i)) for i in ids))
    real = redis.__class__.eval

    async def taken_meanwhile(self, script, *arguments):
        if 'LMOVE' in script:
            await redis.rpop('celery')
        return await real(self, script, *arguments)

    monkeypatch.setattr(redis.__class__, 'eval', taken_meanwhile)
    given = await run(env, 'import-celery', '--yes')
    assert given.problems[0].what == 'somebody else takes messages from celery'
    assert await redis.llen('celery') == 7


async def test_import_says_in_which_other_database_celery_is_and_changes_nothing(
    env, empty_database, redis
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    address = redis_settings(env['ARQ_REDIS_URL'])
    address.database = 9
    other = open_redis(address, 'x')
    try:
        await queue(other, message('app.report'))
        given = await run(env, 'import-celery', '--yes')
        assert (
            'but database 9 has 1 message of the same server; nothing was changed'
            in given.problems[0].what
        )
        assert 'give --db 9' in given.problems[0].remedy
        there = await run(env, 'import-celery', '--db', '9', '--yes')
        assert there.document['outcomes'] == {'unknown task': 1}
        assert (
            await run(env, 'import-celery', '--db', str(address.database - 8), '--yes')
        ).exit_status == 0
    finally:
        await other.flushdb()
        await other.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    'url', ['amqp://guest:secret@localhost//', 'sentinel://a:1;sentinel://b:1', 'sqs://', 'x']
)
async def test_a_broker_that_is_no_redis_is_named_without_its_password(
    env, pool, redis, monkeypatch, url
):
    monkeypatch.setenv('CELERY_BROKER_URL', url)
    given = await run(env, 'import-celery', '--yes')
    assert given.exit_status == 2
    assert given.problems[0].what.startswith('CELERY_BROKER_URL ')
    assert 'secret' not in given.problems[0].line


async def test_import_finds_nothing_and_changes_nothing_without_celery(env, pool, redis):
    await redis.set('celery', 'a text')
    await redis.set('unacked', 'a text')
    await redis.set('unacked_mutex', 'a text')
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['messages']) == (0, 0)
    assert (await run(env, 'import-celery')).exit_status == 0  # nothing to do, nothing to ask
    assert '/1: none' in rendered('import-celery', given)
    assert set(await theirs(redis)) == {'celery', 'unacked', 'unacked_mutex'}


async def test_hostile_messages_are_set_aside_and_hold_nobody_up(env, pool, redis):
    email_id = await insert(pool)
    whole = functools.partial(message, args=[email_id])
    huge = whole(headers={'argsrepr': f'({email_id},)', 'kwargsrepr': '{}'}, body='x' * 50_000_000)
    hostile = [
        b'\xff\xfe\x00', b'', b'[' * 200_000, b'9' * 200_000, huge, message('a' * 1_000_000),
        message('\ud800'),
        b'{"body": "' + b'x' * 9_000_000, message(args=[2**70]), b'{}', whole(properties=7),
    ]  # fmt: skip
    await queue(redis, *hostile, whole())
    await queue(redis, *(message(f'task-{n}') for n in range(700)), name='many')
    await take(redis, b'\xff', huge)
    await redis.hset('unacked', b'\xfe', b'junk')
    given = await run(env, 'import-celery', '--yes')
    assert given.document['messages'] == len(hostile) + 1 + 700 + 2
    assert given.document['outcomes'] == {'due': 3, 'unknown task': 702, 'unreadable': 9}
    assert len(given.document['unknown_tasks']) <= 201
    assert (await redis.llen('celery'), await redis.llen('many')) == (2, 700)
    assert await redis.hlen('unacked') == 0
    rendered('import-celery', given).encode()
