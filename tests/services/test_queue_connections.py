"""An e-mail is queued on whatever connection an application has, in its transaction."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
from django.db import connection as django_connection
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session

from mail_outbox import Attachment, NewEmail, UnsupportedConnectionError, queue_email, queue_emails
from mail_outbox import status as outbox_status
from mail_outbox.envelope import InvalidEmailError
from tests.services.connections import WAYS, awaited, opened, use_django

HELLO = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}
COUNT_SQL = 'SELECT count(*) FROM outbound_emails'
TOMORROW = datetime.now(UTC) + timedelta(days=1)
RICH = HELLO | {
    'subject': "It's 100 % {sure} :id ?",
    'template_data': {'name': 'Zoë "Z" \\ \n', 'n': [1, None]},
    'headers': {'Reply-To': 'help@example.com'},
    'email_type': 'welcome',
    'priority': 'high',
    'send_at': TOMORROW,
    'user_id': 5,
    'organization_id': 6_000_000_000,
    'idempotency_key': 'key',
}


@pytest.fixture(params=WAYS)
async def way(request: Any, database: Any) -> Any:
    async with opened(request.param, database.dsn) as found:
        yield found


async def test_first_statement_of_a_transaction_is_rolled_back_with_it(way: Any, pool: Any) -> None:
    assert type(await awaited(queue_email(way.conn, **HELLO))) is int
    assert await pool.fetchval(COUNT_SQL) == 0, 'nobody else sees it before the commit'
    await awaited(way.rollback())
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_e_mail_is_there_after_the_commit(way: Any, pool: Any) -> None:
    email_id = await awaited(queue_email(way.conn, **HELLO, notify=True))
    await awaited(way.commit())
    assert await pool.fetchval('SELECT id FROM outbound_emails') == email_id


async def test_many_are_rolled_back_together_and_committed_in_order(way: Any, pool: Any) -> None:
    emails = [HELLO | {'recipient': f'u{n}@example.com'} for n in range(30)]
    ids = await awaited(queue_emails(way.conn, emails))
    assert ids == sorted(set(ids))
    assert await pool.fetchval(COUNT_SQL) == 0
    await awaited(way.rollback())
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_every_value_is_stored_alike_by_each_driver_one_by_one_and_many(
    way: Any, pool: Any
) -> None:
    one = await awaited(queue_email(way.conn, **RICH))
    second = RICH | {'idempotency_key': 'other', 'body_html': '<p>ü</p>'}
    many = await awaited(queue_emails(way.conn, [second | {'body_html': None}, HELLO]))
    await awaited(way.commit())
    rows = await pool.fetch('SELECT * FROM outbound_emails ORDER BY id')
    assert [row['id'] for row in rows] == [one, *many]
    first, other, plain = (dict(row) for row in rows)
    for row in (first, other):
        del row['id'], row['idempotency_key']
    assert first == other
    assert first['subject'] == RICH['subject']
    assert (first['template_data'], first['headers']) == (RICH['template_data'], RICH['headers'])
    assert (first['next_retry_at'], first['expires_at']) == (
        TOMORROW,
        TOMORROW + timedelta(hours=24),
    )
    assert (first['organization_id'], first['priority'], first['status']) == (
        6_000_000_000,
        0,
        'pending',
    )
    assert plain['next_retry_at'] == plain['created_at']


async def test_known_and_repeated_keys_give_the_first_id(way: Any, pool: Any) -> None:
    first = await awaited(queue_email(way.conn, **HELLO, idempotency_key='a'))
    ids = await awaited(
        queue_emails(way.conn, [HELLO | {'idempotency_key': key} for key in 'abbc'])
    )
    await awaited(way.commit())
    assert ids[0] == first
    assert ids[1] == ids[2] != ids[3]
    assert await pool.fetchval(COUNT_SQL) == 3


async def test_refused_e_mail_leaves_the_transaction_as_it_was(way: Any, pool: Any) -> None:
    await awaited(queue_email(way.conn, **HELLO))
    with pytest.raises(InvalidEmailError, match='recipient'):
        await awaited(queue_email(way.conn, **HELLO | {'recipient': 'nobody'}))
    with pytest.raises(InvalidEmailError, match='e-mail 1: recipient'):
        await awaited(queue_emails(way.conn, [HELLO, HELLO | {'recipient': 'nobody'}]))
    await awaited(way.commit())
    assert await pool.fetchval(COUNT_SQL) == 1


async def test_id_that_is_not_of_its_columns_type_is_named(way: Any) -> None:
    with pytest.raises(InvalidEmailError, match=r'template_id: .*nope'):
        await awaited(queue_email(way.conn, **HELLO, template_id='nope'))


async def test_id_of_one_of_many_is_named_as_well(way: Any) -> None:
    with pytest.raises(InvalidEmailError, match=r'user_id: .*nope'):
        await awaited(queue_emails(way.conn, [HELLO, HELLO | {'user_id': 'nope'}]))


async def test_e_mail_as_one_value_is_queued_alike(way: Any, pool: Any) -> None:
    await awaited(queue_email(way.conn, NewEmail(**RICH)))
    await awaited(queue_emails(way.conn, [NewEmail(**HELLO)]))
    await awaited(way.commit())
    rows = await pool.fetch('SELECT subject, priority FROM outbound_emails ORDER BY id')
    assert [tuple(row) for row in rows] == [(RICH['subject'], 0), ('Hello', 1)]


async def test_scoped_and_subclassed_sessions_are_sessions(database: Any, pool: Any) -> None:
    class OurSession(Session):
        pass

    engine = create_engine(database.dsn.replace('postgresql:', 'postgresql+psycopg:'))
    scoped = scoped_session(lambda: OurSession(engine))
    queue_email(scoped, **HELLO)
    scoped.commit()
    scoped.remove()
    engine.dispose()
    async_engine = create_async_engine(database.dsn.replace('postgresql:', 'postgresql+asyncpg:'))
    async_scoped = async_scoped_session(lambda: AsyncSession(async_engine), scopefunc=lambda: 1)
    await queue_email(async_scoped, **HELLO)
    await async_scoped.commit()
    await async_scoped.remove()
    await async_engine.dispose()
    assert await pool.fetchval(COUNT_SQL) == 2


async def test_autocommit_without_a_transaction_commits_like_any_other_statement(
    database: Any, pool: Any
) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        queue_email(conn, **HELLO)
        assert await pool.fetchval(COUNT_SQL) == 1
        with conn.transaction(force_rollback=True):
            queue_email(conn, **HELLO)
    assert await pool.fetchval(COUNT_SQL) == 1


@pytest.mark.parametrize('autocommit', ['asyncpg', 'psycopg', 'django'])
async def test_e_mail_in_autocommit_is_never_seen_without_its_attachments(
    database: Any, pool: Any, autocommit: str
) -> None:
    files = {'attachments': [Attachment('a.txt', None, b'x')]}
    use_django(database.dsn)
    conn: Any = {
        'asyncpg': lambda: asyncpg.connect(database.dsn),
        'psycopg': lambda: psycopg.connect(database.dsn, autocommit=True),
        'django': lambda: django_connection,
    }[autocommit]()
    conn = await awaited(conn) if autocommit == 'asyncpg' else conn
    await awaited(queue_email(conn, **HELLO, **files))
    await pool.execute('ALTER TABLE email_attachments RENAME TO elsewhere')
    with pytest.raises(Exception, match='email_attachments'):
        await awaited(queue_email(conn, **HELLO, **files))
    assert await pool.fetchval(COUNT_SQL) == 1
    await awaited(conn.close())


@pytest.mark.parametrize(
    ('kind', 'driver'),
    [
        ('Session', 'psycopg'),
        ('Connection', 'psycopg'),
        ('AsyncSession', 'asyncpg'),
        ('AsyncConnection', 'psycopg'),
    ],
)
async def test_sqlalchemy_in_autocommit_is_refused_and_may_read(
    database: Any, pool: Any, kind: str, driver: str
) -> None:
    url = database.dsn.replace('postgresql:', f'postgresql+{driver}:')
    make = create_async_engine if kind.startswith('Async') else create_engine
    engine: Any = make(url, isolation_level='AUTOCOMMIT')
    of_kind = {'Session': Session, 'AsyncSession': AsyncSession}
    conn = of_kind[kind](engine) if kind in of_kind else await awaited(engine.connect())
    files = {'attachments': [Attachment('a.txt', None, b'x')]}
    for queue in (
        lambda: queue_email(conn, **HELLO),
        lambda: queue_email(conn, **HELLO, **files),
        lambda: queue_emails(conn, [HELLO]),
    ):
        with pytest.raises(UnsupportedConnectionError, match='AUTOCOMMIT'):
            await awaited(queue())
    assert await awaited(outbox_status(conn, 1)) is None
    await awaited(conn.close())
    await awaited(engine.dispose())
    assert await pool.fetchval(COUNT_SQL) == 0


async def test_psycopg_in_pipeline_mode_is_a_connection_like_any_other(
    database: Any, pool: Any
) -> None:
    files = {'attachments': [Attachment('a.txt', None, b'x')]}
    with psycopg.connect(database.dsn) as conn, conn.pipeline():
        first = queue_email(conn, **HELLO, **files)
        ids = queue_emails(conn, [HELLO, HELLO])
    async with await psycopg.AsyncConnection.connect(database.dsn) as other, other.pipeline():
        ids += [await queue_email(other, **HELLO)]
        found = await outbox_status(other, first)
    assert found is not None
    assert [first, *ids] == [
        row['id'] for row in await pool.fetch('SELECT id FROM outbound_emails ORDER BY id')
    ]
    assert await pool.fetchval('SELECT email_id FROM email_attachments') == first


async def test_what_has_no_transaction_is_refused_with_what_is_wanted(pool: Any) -> None:
    engine = create_engine('sqlite://')
    with Session(engine) as sqlite, sqlite.connection():
        for conn, named in (
            (pool, 'a pool has no transaction'),
            (engine, 'Engine of SQLAlchemy has no transaction'),
            (sqlite, 'is a connection to sqlite'),
            (Session(binds={object: engine}), 'bind_arguments'),
            (object(), 'builtins.object is not a connection of asyncpg or psycopg 3'),
        ):
            with pytest.raises(UnsupportedConnectionError, match=named):
                await awaited(queue_email(conn, **HELLO))


async def test_connection_below_a_session_is_another_transaction_than_the_sessions(
    database: Any,
) -> None:
    """Why the session itself is to be given: SQLAlchemy begins with its own first statement."""
    engine = create_async_engine(database.dsn.replace('postgresql:', 'postgresql+asyncpg:'))
    async with AsyncSession(engine) as session:
        raw = await (await session.connection()).get_raw_connection()
        below = raw.driver_connection
        assert isinstance(below, asyncpg.Connection)
        assert not below.is_in_transaction()
        await session.execute(text('SELECT 1'))
        assert below.is_in_transaction()
    await engine.dispose()
