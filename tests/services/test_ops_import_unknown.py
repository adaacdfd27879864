"""An application's own name for the task that sends.

Its messages are recognised, and stop a take-over.
"""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from db.migrate import migrate
from engine.connection import open_redis
from engine.redis_url import redis_settings
from ops.celery.broker import IMPORTED_KEY
from ops.celery.connect import look_for_celery
from settings import Settings
from tests.services.adopted import create_legacy, state_of
from tests.services.celery_left import LEGACY_ROWS, bind, queue, take, theirs
from tests.services.ops_desk import insert, rendered, run
from tests.unit.test_celery_messages import message

TASK = 'shop.mail.deliver'
IN_AN_HOUR = datetime.now(UTC) + timedelta(hours=1)
LATER = {'eta': IN_AN_HOUR.isoformat()}


@pytest.fixture(autouse=True)
def short_look(monkeypatch):
    monkeypatch.setattr('ops.celery.signs.LOOK_AGAIN_S', 0.02)


@pytest.fixture
async def legacy(env, empty_database):
    """A table that was there before, and its e-mails by status."""
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(LEGACY_ROWS)
    rows = await conn.fetch('SELECT id, recipient FROM outbound_emails')
    conn_ids = {row['recipient'].partition('@')[0]: row['id'] for row in rows}
    yield env | {'DATABASE_URL': empty_database.dsn}, conn, conn_ids
    await conn.close()


async def everything(conn):
    """The table with its columns, and the rest of the schema."""
    rows = [dict(row) for row in await conn.fetch('SELECT * FROM outbound_emails ORDER BY id')]
    return rows, [
        row['relname'] for row in await conn.fetch('SELECT relname FROM pg_class ORDER BY 1')
    ]


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('options', [[], ['--set-aside'], ['--force']])
async def test_nothing_is_taken_over_while_messages_of_an_unknown_task_name_open_emails(
    legacy, redis, shared, options
):
    env, conn, ids = legacy
    if shared:
        await migrate(conn)
    await queue(
        redis, message(TASK, [ids['pending']], headers=LATER),
        message(TASK, [], {'id': str(ids['retry'])}),
        message(TASK, [ids['sent']]), message(TASK, [ids['failed']]), message('shop.report', ['x']),
        message(args=[ids['pending']]),
    )  # fmt: skip
    await take(redis, 'a', message('shop.mail.again', [ids['pending']], protocol=1))
    before = await everything(conn), await theirs(redis)
    dry = await run(env, 'import-celery', '--dry-run')
    assert dry.document['unknown_tasks'] == {TASK: 4, 'shop.report': 1, 'shop.mail.again': 1}
    assert dry.document['unknown_about_open'] == {
        TASK: {'messages': 4, 'about_open': 2, 'with_eta': 1},
        'shop.mail.again': {'messages': 1, 'about_open': 1, 'with_eta': 0},
    }
    assert dry.exit_status == 1
    told = (
        '3 messages of unknown tasks name e-mails that are not sent yet: shop.mail.deliver '
        '(2, 1 with an ETA), '
    )
    assert dry.problems[0].what == f'{told}shop.mail.again (1)'
    assert (
        '--task shop.mail.deliver=send_email --task shop.mail.again=send_email'
        in dry.problems[0].remedy
    )
    assert '=ignore' in dry.problems[0].remedy
    assert 'name e-mails not sent yet' in rendered('import-celery', dry)
    given = await run(env, 'import-celery', '--yes', *options)
    assert given.exit_status == 1
    assert [problem.what for problem in given.problems] == [
        f'{dry.problems[0].what}; nothing was changed'
    ]
    assert given.problems[0].remedy == dry.problems[0].remedy
    assert (await everything(conn), await theirs(redis)) == before


async def test_a_task_that_was_named_is_taken_with_its_eta_and_remembered(legacy, redis):
    env, conn, ids = legacy
    await queue(redis, message(TASK, [ids['pending']], headers=LATER), message(TASK, [ids['sent']]))
    given = await run(env, 'import-celery', '--task', f'{TASK}=send_email', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, {'due': 1, 'sent': 1})
    due_at = await conn.fetchval(
        'SELECT next_retry_at FROM mail_outbox WHERE id = $1', ids['pending']
    )
    assert due_at == IN_AN_HOUR.replace(tzinfo=None)
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'taken over'
    await queue(redis, message(TASK, [ids['pending']], id='later'))
    again = await run(env, 'import-celery', '--yes')
    assert (again.exit_status, again.document['outcomes']) == (0, {'due': 1})
    assert await redis.llen(f'{IMPORTED_KEY}:list:celery') == 3


async def test_a_task_about_something_else_stays_where_it_is_and_stops_nothing(legacy, redis):
    env, conn, ids = legacy
    theirs_alone = [
        message('shop.users.sync', [ids['pending']]),
        message('shop.users.sync', [ids['retry']]),
    ]
    await queue(
        redis, theirs_alone[0], message(args=[ids['pending']], headers=LATER), theirs_alone[1]
    )
    assert (await run(env, 'import-celery', '--yes')).exit_status == 1
    given = await run(env, 'import-celery', '--task', 'shop.users.sync=ignore', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (0, {'due': 1, 'other task': 2})
    assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'taken over'
    assert await state_of(conn, ids['pending']) == ('pending', 'pending')
    assert await redis.lrange('celery', 0, -1) == list(reversed(theirs_alone))


async def test_once_the_table_is_ours_what_is_known_is_taken_and_the_option_for_the_rest_is_told(
    env, pool, redis
):
    known, unknown = [await insert(pool) for _ in range(2)]
    await queue(redis, message(args=[known]), message(TASK, [unknown], headers=LATER))
    given = await run(env, 'import-celery', '--yes')
    assert (given.exit_status, given.document['outcomes']) == (1, {'due': 1, 'unknown task': 1})
    findings = (await run(env, 'doctor', 'celery')).document['findings']
    [remedy] = [
        row['remedy'] for row in findings if row['what'].startswith('1 message of Celery waits')
    ]
    assert f'--task {TASK}=send_email' in remedy
    assert '=ignore' in remedy


async def test_words_and_columns_of_an_untouched_table_are_read_as_the_take_over_reads_them(
    env, empty_database, redis
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    conn = await asyncpg.connect(empty_database.dsn)
    await conn.execute(
        'CREATE TABLE outbound_emails (id bigserial PRIMARY KEY, recipient text, subject text, '
        'body_text text, '
        "status text DEFAULT 'PENDING', attempts int, max_attempts int, next_retry_at timestamp, "
        'created_at timestamp)'
    )
    rows = [
        ('PENDING', None, None),
        ('Processing', 1, 5),
        ('FAILED', 5, 5),
        ('FAILED', 1, None),
        ('SENT', 1, 5),
    ]
    for row in rows:
        await conn.execute(
            'INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts, '
            'max_attempts, created_at) '
            "VALUES ('a@example.com', 's', 't', $1, $2, $3, now())", *row,
        )  # fmt: skip
    await queue(redis, *(message(TASK, [email_id]) for email_id in range(1, 7)))
    before_migrate = await run(env, 'import-celery', '--dry-run')
    await migrate(conn)
    shared = await run(env, 'import-celery', '--dry-run')
    assert before_migrate.document['unknown_about_open'] == shared.document['unknown_about_open']
    assert shared.document['unknown_about_open'][TASK]['about_open'] == 3
    await conn.close()


@pytest.mark.parametrize('theirs_waits', [True, False])
async def test_a_broker_that_was_named_is_believed_whatever_another_application_has_elsewhere(
    legacy, redis, monkeypatch, theirs_waits
):
    env, conn, _ = legacy
    monkeypatch.setenv('CELERY_BROKER_URL', env['ARQ_REDIS_URL'])
    address = redis_settings(env['ARQ_REDIS_URL'])
    address.database = 9
    other = open_redis(address, 'x')
    try:
        await bind(other, 'celery')
        if theirs_waits:
            await queue(other, message(TASK, [1]))
        settings = Settings(_env_file=None, arq_redis_url=env['ARQ_REDIS_URL'])
        assert (await look_for_celery(settings)).is_gone  # so that `db.migrate` takes over at once
        given = await run(env, 'import-celery', '--yes')
        assert (given.exit_status, given.document['messages']) == (0, 0)
        assert await conn.fetchval('SELECT phase FROM outbox_adoption') == 'taken over'
    finally:
        await other.flushdb()
        await other.aclose(close_connection_pool=True)
