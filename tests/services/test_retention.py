"""The end of retention where the table, or what refers to it, is the application's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from bson.binary import Binary
from structlog.testing import capture_logs

from db.retention import remove_old
from jobs.cleanup_expired_emails import cleanup_expired_emails
from mail_outbox.attachments import COLLECTION, store_attachments
from mail_outbox.envelope import Attachment
from tests.services.ops_desk import insert, run
from tests.services.other_worker import another

LONG_AGO = "sql:now() - interval '400 days'"
ENDED = {'status': 'sent', 'sent_at': LONG_AGO, 'created_at': LONG_AGO, 'updated_at': LONG_AGO}


async def adopt(pool: Any, phase: str = 'taken over') -> None:
    await pool.execute('INSERT INTO outbox_adoption (phase) VALUES ($1)', phase)


async def clean(ctx: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return await cleanup_expired_emails({'runtime': another(ctx['runtime'], **settings)})


async def left(pool: Any) -> list[int]:
    return await pool.fetchval(
        "SELECT COALESCE(array_agg(id ORDER BY id), '{}') FROM outbound_emails"
    )


@pytest.mark.parametrize('phase', ['shared', 'taken over', 'finished'])
async def test_mail_that_was_there_before_stays_until_the_retention_is_set(ctx, pool, phase: str):
    await adopt(pool, phase)
    email_id = await insert(pool, **ENDED)
    for _ in range(2):
        done = await clean(ctx)
        assert done['removed'] == 0
        assert 'EMAIL_RETENTION_DAYS' in done['retention']
    assert await left(pool) == [email_id]


async def test_retention_that_is_set_reports_first_and_deletes_then(ctx, pool):
    await adopt(pool)
    for _ in range(3):
        await insert(pool, **ENDED)
    kept = await insert(pool, **ENDED | {'status': 'external'})
    with capture_logs() as lines:
        first = await clean(ctx, is_set=True)
    assert first['removed'] == 0
    assert 'now 3 e-mails' in first['retention']
    assert [line['rows'] for line in lines if line['event'] == 'cleanup.reported'] == [3]
    assert (await pool.fetchrow('SELECT * FROM table_origins WHERE name = $1', 'outbound_emails'))[
        'reported_rows'
    ] == 3
    second = await clean(ctx, is_set=True)
    assert (second['removed'], 'retention' in second) == (3, False)
    assert await left(pool) == [kept]


@pytest.mark.parametrize('action', ['NO ACTION', 'RESTRICT', 'CASCADE', 'SET NULL', 'SET DEFAULT'])
async def test_mail_that_other_rows_refer_to_stays_and_the_rest_goes(ctx, pool, action: str):
    ids = [await insert(pool, **ENDED) for _ in range(6)]
    await pool.execute(
        f'CREATE TABLE invoices (email_id bigint REFERENCES outbound_emails ON DELETE {action})'
    )
    await pool.execute('INSERT INTO invoices VALUES ($1), ($2), (NULL)', ids[0], ids[3])
    done = await clean(ctx)
    assert (done['removed'], done['held'], 'refused' in done) == (4, 2, False)
    assert await left(pool) == [ids[0], ids[3]]
    assert await pool.fetchval('SELECT count(email_id) FROM invoices') == 2
    await pool.execute('DELETE FROM invoices')
    assert (await clean(ctx))['removed'] == 2


async def test_keys_of_several_columns_of_other_schemas_and_to_the_table_itself_hold_mail(
    ctx, pool
):
    await pool.execute(
        'ALTER TABLE outbound_emails ADD "Public Id" uuid DEFAULT gen_random_uuid() UNIQUE, ADD '
        'UNIQUE (user_id, id), '
        'ADD answers_to bigint REFERENCES outbound_emails'
    )
    ids = [await insert(pool, **ENDED, user_id=1) for _ in range(6)]
    await pool.execute('CREATE SCHEMA app')
    await pool.execute(
        'CREATE TABLE app."Order Lines" (u bigint, e bigint, p uuid REFERENCES outbound_emails '
        '("Public Id"), '
        'FOREIGN KEY (u, e) REFERENCES outbound_emails (user_id, id) DEFERRABLE INITIALLY DEFERRED)'
    )
    await pool.execute('INSERT INTO app."Order Lines" VALUES (1, $1), (1, NULL)', ids[1])
    await pool.execute(
        (
            'INSERT INTO app."Order Lines" SELECT NULL, NULL, "Public Id" FROM '
            'outbound_emails WHERE id = $1'
        ),
        ids[2],
    )
    await pool.execute('UPDATE outbound_emails SET answers_to = id WHERE id = $1', ids[0])
    await pool.execute('UPDATE outbound_emails SET answers_to = $1 WHERE id = $2', ids[4], ids[5])
    done = await clean(ctx)
    assert (done['removed'], done['held']) == (3, 3)
    assert await left(pool) == [ids[1], ids[2], ids[4]]
    assert (await clean(ctx))['removed'] == 1  # its reply is gone


async def test_mail_that_a_trigger_keeps_stays_with_its_attempts_and_the_rest_goes(ctx, pool):
    ids = [await insert(pool, **ENDED) for _ in range(20)]
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) '
        "SELECT id, now(), 1, 'w', 'accepted', 'replied' FROM outbound_emails"
    )
    await pool.execute(
        'CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN '
        "IF OLD.id % 2 = 0 THEN RETURN NULL; END IF; RAISE EXCEPTION 'the audit keeps %', OLD.id; "
        'END$$'
    )
    await pool.execute(
        'CREATE TRIGGER keep BEFORE DELETE ON outbound_emails FOR EACH ROW WHEN (OLD.id IN '
        f'({ids[3]}, {ids[4]})) '
        'EXECUTE FUNCTION keep()'
    )
    done = await clean(ctx)
    assert (done['removed'], done['refused']) == (18, 1)
    assert 'the audit keeps' in done['refusal']
    assert await left(pool) == [ids[3], ids[4]]
    assert await pool.fetchval(
        'SELECT array_agg(email_id ORDER BY email_id) FROM email_attempts'
    ) == [ids[3], ids[4]]


async def test_content_that_another_email_names_stays(ctx, pool, mongo):
    content_id = await store_attachments(mongo, [Attachment('a.txt', 'text/plain', b'x')])
    await insert(pool, **ENDED, content_id=content_id)
    waits = await insert(pool, content_id=content_id, next_retry_at="sql:now() + interval '1 day'")
    done = await clean(ctx)
    assert (done['removed'], done['content_removed']) == (1, 0)
    assert await left(pool) == [waits]
    assert await mongo[COLLECTION].count_documents({}) == 1


OLD_ENOUGH = datetime.now(UTC) - timedelta(days=400)
DOCUMENT = {
    'content_id': 'a' * 32, 'position': 0, 'filename': 'a.txt', 'content_type': 'text/plain',
    'cid': None,
    'data': Binary(b'x'), 'created_at': OLD_ENOUGH,
}  # fmt: skip


async def test_documents_of_the_application_in_a_collection_of_the_same_name_stay(ctx, pool, mongo):
    theirs = [
        {'content_id': 'theirs', 'created_at': OLD_ENOUGH, 'url': 'https://example.com/a.pdf'},
        {'content_id': 7, 'created_at': OLD_ENOUGH},
        {'content_id': ['a', 7, None], 'created_at': OLD_ENOUGH},
        DOCUMENT | {'data': 'not ours: text'},
    ]
    await mongo[COLLECTION].insert_many(theirs)
    assert (await clean(ctx))['content_removed'] == 0
    assert await mongo[COLLECTION].count_documents({}) == len(theirs)


async def test_on_an_adopted_database_only_signed_documents_go(ctx, pool, mongo):
    await mongo[COLLECTION].insert_one(dict(DOCUMENT))  # in the very form of ours
    await store_attachments(mongo, [Attachment('a.txt', 'text/plain', b'x')])
    await mongo[COLLECTION].update_many({}, {'$set': {'created_at': OLD_ENOUGH}})
    await adopt(pool)
    assert (await clean(ctx))['content_removed'] == 1
    assert await mongo[COLLECTION].distinct('content_id') == ['a' * 32]


async def test_documents_that_the_version_before_stored_are_swept_up(ctx, mongo):
    await mongo[COLLECTION].insert_one(dict(DOCUMENT))
    assert (await clean(ctx))['content_removed'] == 1


async def test_health_that_the_application_wrote_stays(ctx, pool):
    await pool.execute("UPDATE table_origins SET made_here = false WHERE name = 'service_health'")
    await pool.execute(
        "INSERT INTO service_health (service_name, status, checked_at) SELECT name, 'up', now() - "
        "interval '15 days' "
        "FROM unnest(ARRAY['billing', 'postgresql', 'smtp_primary']) AS s (name)"
    )
    await clean(ctx)
    assert await pool.fetchval('SELECT array_agg(service_name) FROM service_health') == ['billing']


async def test_doctor_names_what_keeps_the_duties_from_their_work(env, pool):
    await pool.execute('CREATE TABLE invoices (email_id bigint REFERENCES outbound_emails)')
    await pool.execute('ALTER TABLE sessions DROP expires_at')
    await adopt(pool)
    given = await run(env, 'doctor', 'outbox')
    told = {row['what']: row['severity'] for row in given.document['findings']}
    no_column = (
        'cleanup_old_sessions: sessions has no column expires_at: nobody can tell what is over, '
    )
    no_index = 'invoices refers to outbound_emails (invoices_email_id_fkey) without an index: '
    assert told == {
        f'{no_column}so nothing is deleted': 'warning',
        'outbound_emails was there before this program: nothing is deleted from it': 'note',
        f'{no_index}each e-mail that is deleted reads it whole': 'note',
    }
    await pool.execute('CREATE INDEX ON invoices (email_id)')
    assert len((await run(env, 'doctor', 'outbox')).document['findings']) == 2


async def test_batches_that_take_too_long_become_smaller_until_they_pass(ctx, pool, monkeypatch):
    asked = []

    async def slow(pool: Any, days: int, last_id: int, batch: int, **_: Any) -> Any:
        asked.append(batch)
        if batch > 10:
            raise asyncpg.QueryCanceledError
        return await remove_old(pool, days, last_id, batch)

    monkeypatch.setattr('jobs.cleanup_expired_emails.remove_old', slow)
    for _ in range(15):
        await insert(pool, **ENDED)
    assert (await clean(ctx))['removed'] == 15
    assert asked == [1000, 100, 10, 10, 10]


async def test_types_are_kept_for_days_of_their_own(ctx, pool):
    ended = {
        days: ENDED | {'created_at': f"sql:now() - interval '{days} days'",
                       'updated_at': f"sql:now() - interval '{days} days'"}
        for days in (10, 100, 4000)
    }  # fmt: skip
    kept = [
        await insert(pool, **ended[100], email_type='invoice'),
        await insert(pool, **ended[10], email_type='receipt'),
        await insert(pool, **ended[10]),
    ]
    for days, email_type in ((10, 'news'), (100, 'receipt'), (4000, 'invoice'), (100, None)):
        await insert(pool, **ended[days], email_type=email_type)
    assert (await clean(ctx, days_by_type=(('news', 7), ('invoice', 3650))))['removed'] == 4
    assert await left(pool) == kept
