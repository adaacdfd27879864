"""The duties and `ops held` on tables of an application, in the forms that applications
have them.
"""

from typing import Any

import asyncpg
import pytest

from db.pools import create_postgres_pool
from db.retention import remove_old
from db.zones import compare_zones
from jobs.cleanup_expired_emails import cleanup_expired_emails
from jobs.cleanup_old_sessions import cleanup_old_sessions
from jobs.count_history import count_history
from reporting.history import WINDOWS, Dimension, read_history, read_most
from tests.services.adopted import adopt, create_legacy
from tests.services.ops_desk import run
from tests.services.other_worker import another

ZONE = 'Asia/Tokyo'
INSERT = (
    'INSERT INTO outbound_emails '
    '(recipient, subject, body_text, status, sent_at, next_retry_at, created_at, updated_at) '
    "SELECT 'anna@example.com', 'Hello', 'Hello.', $1::text::{status}, t, t, t, t "
    "FROM (SELECT (now() AT TIME ZONE 'Asia/Tokyo') - $2 * interval '1 day' AS t) AS s"
)


@pytest.fixture(params=['varchar(20)', 'enum', 'check'])
async def theirs(request: Any, empty_database: Any) -> Any:
    """A database whose application writes naive times in Tokyo, adopted.

    2 old e-mails wait, 3 ended here, 1 there.
    """
    conn = await asyncpg.connect(empty_database.dsn)
    await conn.execute(f"SET timezone = '{ZONE}'")
    await create_legacy(conn, request.param)
    insert = INSERT.format(status='email_status' if request.param == 'enum' else 'text')
    for word, days in (('pending', 40), ('pending', 40), ('pending', 0), ('sent', 400)):
        await conn.execute(insert, word, days)
    await conn.execute(
        'CREATE TABLE invoices (email_id bigint REFERENCES outbound_emails ON DELETE CASCADE)'
    )
    assert await adopt(conn, zone=ZONE) == {'held': 2, 'pending': 1}
    await conn.close()
    pool = await create_postgres_pool(
        empty_database.dsn, size=4, connect_timeout_s=20, command_timeout_s=20,
        application_name='tests',
        naive_timezone=ZONE,
    )  # fmt: skip
    yield pool
    pool.terminate()


async def test_held_mail_of_an_adopted_table_is_counted_released_and_cancelled(
    theirs, empty_database, env
):
    env = env | {'DATABASE_URL': empty_database.dsn}
    first, second = [
        r['id']
        for r in await theirs.fetch("SELECT id FROM mail_outbox WHERE status = 'held' ORDER BY id")
    ]
    listed = (await run(env, 'held', 'ls')).document
    assert (listed['held'], listed['by_age']['older']) == (2, 2)
    assert (await run(env, 'status')).document['outbox']['held'] == 2
    await run(env, 'held', 'release', str(first), '--yes')
    await run(env, 'held', 'cancel', '--all', '--yes')
    states = {
        r['id']: r['status']
        for r in await theirs.fetch('SELECT id, status FROM mail_outbox ORDER BY id LIMIT 2')
    }
    assert states == {first: 'pending', second: 'cancelled'}


async def test_retention_of_an_adopted_table_waits_reports_and_steps_around(theirs, ctx):
    ids = [r['id'] for r in await theirs.fetch('SELECT id FROM mail_outbox ORDER BY id')]
    await theirs.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now(), next_retry_at = NULL, "
        "created_at = now() - interval '99 days', updated_at = now() - interval '91 days' WHERE "
        "id = ANY($1)", ids[:3]
    )  # fmt: skip
    await theirs.execute('INSERT INTO invoices VALUES ($1)', ids[1])
    runtime = another(ctx['runtime'], pool=theirs)
    assert (
        'EMAIL_RETENTION_DAYS' in (await cleanup_expired_emails({'runtime': runtime}))['retention']
    )
    runtime = another(runtime, is_set=True)
    assert 'now 3 e-mails' in (await cleanup_expired_emails({'runtime': runtime}))['retention']
    done = await cleanup_expired_emails({'runtime': runtime})
    assert (done['removed'], done['held']) == (2, 1)
    # What the other system sent is its own.
    assert [r['id'] for r in await theirs.fetch('SELECT id FROM outbound_emails ORDER BY id')] == [
        ids[1],
        ids[3],
    ]
    assert await theirs.fetchval('SELECT count(*) FROM invoices') == 1


async def test_sessions_of_an_application_are_not_touched(theirs, ctx):
    tables = await theirs.fetch(
        "SELECT name FROM table_origins WHERE made_here AND name <> 'service_health'"
    )
    assert tables == []
    await theirs.execute(
        "INSERT INTO sessions (created_at) SELECT now() - interval '900 days' FROM "
        'generate_series(1, 40)'
    )
    done = await cleanup_old_sessions({'runtime': another(ctx['runtime'], pool=theirs)})
    assert done == {'affected': 0, 'sessions': 0, 'refresh_tokens': 0}
    assert await theirs.fetchval('SELECT count(*) FROM sessions') == 40


async def test_an_adopted_table_in_its_own_zone_is_no_error_and_in_another_one(theirs):
    async with theirs.acquire() as conn:
        await conn.execute(
            'UPDATE outbound_emails SET created_at = now() WHERE id = (SELECT max(id) '
            'FROM mail_outbox)'
        )
        assert [one for one in await compare_zones(conn, ZONE) if one.severity == 'error'] == []
        errors = [one.what for one in await compare_zones(conn, 'UTC') if one.severity == 'error']
    assert any(f'look like {ZONE}' in what for what in errors)


async def test_rows_without_times_stop_the_retention_of_no_other(theirs, ctx):
    ids = [r['id'] for r in await theirs.fetch('SELECT id FROM mail_outbox ORDER BY id')]
    await theirs.execute("UPDATE mail_outbox SET status = 'cancelled' WHERE id = ANY($1)", ids[:3])
    long_ago = "now() - interval '99 days'"
    for email_id, times in zip(
        ids, ('NULL, NULL', f'NULL, {long_ago}', f'{long_ago}, NULL'), strict=False
    ):
        await theirs.execute(
            f'UPDATE outbound_emails SET (created_at, updated_at) = ROW({times}) WHERE id = $1',
            email_id,
        )
    for batch in (1, 1000):
        last_id: int | None = 0
        while last_id is not None:
            last_id = (await remove_old(theirs, 90, last_id, batch)).last_id
        assert [r['id'] for r in await theirs.fetch('SELECT id FROM mail_outbox ORDER BY id')] == [
            ids[0],
            ids[3],
        ]


async def test_history_of_an_adopted_table_knows_its_types_and_its_times_of_another_zone(
    theirs, ctx
):
    await theirs.execute(
        "UPDATE mail_history_progress SET counted_until = counted_until - interval '1 hour'"
    )
    email_id = await theirs.fetchval(
        'INSERT INTO mail_outbox (recipient, subject, body_text, status, email_type, created_at) '
        "VALUES ('anna@example.com', 's', 't', 'pending', 'welcome', now() - interval '8 minutes') "
        'RETURNING id'
    )
    await theirs.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, '
        "recorded_at) VALUES ($1, now() - interval '4 minutes', 1, 'w', 'accepted', 'data', "
        "now() - interval '4 minutes')",
        email_id,
    )
    done = await count_history({'runtime': another(ctx['runtime'], pool=theirs)})
    assert done == {'affected': 1}
    history = await read_history(theirs, WINDOWS['1h'])
    assert history.latency.p50_s == pytest.approx(240, rel=0.1)
    named = await read_most(theirs, WINDOWS['1h'], Dimension.TYPE)
    assert [one.name for one in named] == ['welcome']
