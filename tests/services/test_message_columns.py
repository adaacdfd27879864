"""A database of the version before gets the columns of what an e-mail can say."""

import asyncpg
import pytest

from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.adoption.phases import read_adoption
from db.adoption.plan import NotAdoptableError
from db.migrate import alone, migrate
from db.schema import check_schema
from mail_outbox.outbox import queue_email
from tests.services.adopted import adopt, create_legacy

NEW = (
    'from_address', 'sender_address', 'envelope_from', 'reply_to', 'cc', 'bcc', 'one_copy_each',
    'tags', 'metadata', 'has_attachments', 'calendar', 'raw_message',
)  # fmt: skip


async def back_to_the_version_before(conn: asyncpg.Connection) -> None:
    columns = ', '.join(f'DROP COLUMN IF EXISTS {name}' for name in NEW)
    await conn.execute(
        'DROP VIEW mail_outbox; DROP TABLE email_attachments, allowed_senders; '
        f'DROP FUNCTION note_attachments(); ALTER TABLE outbound_emails {columns}; '
        "DELETE FROM _pogo_migration WHERE migration_id ~ '_message$'"
    )
    await conn.execute(
        'UPDATE outbox_adoption SET added_columns = '
        'ARRAY(SELECT unnest(added_columns) EXCEPT SELECT unnest($1::text[]))',
        list(NEW),
    )


@pytest.mark.parametrize('form', ['own', 'shared', 'finished'])
async def test_a_column_of_the_applications_stays_its_own(conn, worker_pool, form):
    if form == 'own':
        await migrate(conn)
    else:
        await create_legacy(conn, 'enum')
        await adopt(conn)
    if form == 'finished':
        async with alone(conn, 'UTC'):
            await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), lambda *_: None)
    await back_to_the_version_before(conn)
    if form != 'own':
        await conn.execute('ALTER TABLE outbound_emails ADD COLUMN cc integer DEFAULT 5')
    await migrate(conn)
    await migrate(conn)
    await check_schema(worker_pool)
    email_id = await queue_email(
        conn, recipient='a@example.com', subject='s', body_text='t', cc='b@example.com'
    )
    row = await conn.fetchrow('SELECT * FROM mail_outbox WHERE id = $1', email_id)
    assert row['cc'] == 'b@example.com'
    assert set(NEW) <= set(row.keys())
    if form != 'own':
        assert await conn.fetchval('SELECT cc FROM outbound_emails WHERE id = $1', email_id) == 5
        adoption = await read_adoption(conn)
        assert adoption is not None
        assert {*NEW, 'mail_cc'} - {'cc'} <= set(adoption.added_columns)


async def test_a_table_of_the_applications_in_the_way_is_named(conn):
    await create_legacy(conn, 'enum')
    await conn.execute('CREATE TABLE email_attachments (id integer)')
    with pytest.raises(NotAdoptableError, match='email_attachments, and this program makes one'):
        await migrate(conn)


async def test_attachments_that_plain_sql_inserts_are_noted_in_their_row(conn):
    await migrate(conn)
    ids = [
        await queue_email(conn, recipient='a@example.com', subject='s', body_text='t')
        for _ in range(2)
    ]
    await conn.execute(
        "INSERT INTO email_attachments (email_id, position, data) VALUES ($1, 0, 'x')", ids[1]
    )
    rows = await conn.fetch('SELECT has_attachments FROM mail_outbox ORDER BY id')
    assert [row[0] for row in rows] == [None, True]
