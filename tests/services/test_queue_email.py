"""The outbox as an application uses it."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from jobs.send_email import send_email
from mail_outbox.envelope import IdempotencyConflictError, InvalidEmailError
from mail_outbox.outbox import queue_email, queue_emails
from tests.conftest import wait_until

HELLO = {'recipient': 'anna@example.com', 'subject': 'Hello', 'body_text': 'Hello, Anna.'}


@pytest.fixture
async def conn(database):
    """An application's own connection: no pool of ours, no codecs."""
    conn = await asyncpg.connect(database.dsn)
    yield conn
    await conn.close()


async def test_mail_exists_when_the_caller_commits_and_not_before(conn, pool):
    async with conn.transaction():
        email_id = await queue_email(conn, **HELLO)
        assert type(email_id) is int
        assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0
    assert await pool.fetchval('SELECT id FROM outbound_emails') == email_id


async def test_rollback_of_the_caller_leaves_nothing(conn):
    transaction = conn.transaction()
    await transaction.start()
    await queue_email(conn, **HELLO)
    await transaction.rollback()
    assert await conn.fetchval('SELECT count(*) FROM outbound_emails') == 0


@pytest.mark.parametrize('codec', ['none', 'json'])
async def test_every_part_is_stored_and_sent_whatever_codec_the_connection_has(
    conn, ctx, row, inbox, codec
):
    if codec == 'json':
        for name in ('json', 'jsonb'):
            await conn.set_type_codec(
                name, encoder=lambda value: value, decoder=lambda text: text, schema='pg_catalog'
            )
    template = await conn.fetchval(
        "INSERT INTO email_templates (name, subject) VALUES ('hi', 'Hi {{ names[0] }} "
        "✓') RETURNING id"
    )
    email_id = await queue_email(
        conn,
        recipient='Änne <all@example.com>',
        subject='replaced',
        body_text='Text',
        body_html='<p>HTML</p>',
        email_type='welcome',
        template_id=template,
        template_data={'names': ['Änne', 'B']},
        headers={'Reply-To': 'help@example.com'},
        priority='high',
        max_attempts=7,
        user_id=5,
        organization_id=6,
        idempotency_key='k',
    )
    stored = await row(email_id)
    assert (stored['status'], stored['priority'], stored['max_attempts'], stored['attempts']) == (
        'pending',
        0,
        7,
        0,
    )
    assert (stored['template_data'], stored['headers']) == (
        {'names': ['Änne', 'B']},
        {'Reply-To': 'help@example.com'},
    )
    assert (stored['email_type'], stored['user_id'], stored['organization_id']) == ('welcome', 5, 6)
    assert (await send_email(ctx, email_id))['status'] == 'sent'
    (entry,) = inbox.accepted('all@example.com')
    assert entry['subject'] == 'Hi Änne ✓'
    assert b'Reply-To: help@example.com' in inbox.message(entry)


async def test_expiry_counts_from_when_the_mail_may_be_sent(conn, row):
    later = datetime.now(UTC) + timedelta(days=3)
    until = later + timedelta(minutes=10)
    default = await row(await queue_email(conn, **HELLO))
    assert default['expires_at'] - default['next_retry_at'] == timedelta(hours=24)
    assert default['next_retry_at'] == default['created_at']
    short = await row(await queue_email(conn, **HELLO, expiry_hours=0.5))
    assert short['expires_at'] - short['created_at'] == timedelta(minutes=30)
    scheduled = await row(await queue_email(conn, **HELLO, send_at=later))
    assert (scheduled['next_retry_at'], scheduled['expires_at']) == (
        later,
        later + timedelta(hours=24),
    )
    exact = await row(await queue_email(conn, **HELLO, send_at=later, expires_at=until))
    assert exact['expires_at'] == until


async def test_same_key_returns_the_first_id_and_changes_nothing(conn, row):
    for organization in (None, 7):
        known = HELLO | {'organization_id': organization}
        first = await queue_email(conn, **known, idempotency_key='order-1')
        before = await row(first)
        # When and how it is sent is not what it says.
        other = known | {'priority': 'low', 'send_at': datetime.now(UTC), 'user_id': 5}
        assert await queue_email(conn, **other, idempotency_key='order-1') == first
        assert await row(first) == before
        assert await queue_email(conn, **known, idempotency_key='order-2') != first
    assert await conn.fetchval('SELECT count(*) FROM outbound_emails') == 4
    assert await queue_email(conn, **HELLO) != await queue_email(conn, **HELLO)


async def test_same_key_with_other_content_is_refused_and_nothing_is_inserted(conn, row):
    first = await queue_email(conn, **HELLO, idempotency_key='order-1')
    before = await row(first)
    other = HELLO | {'subject': 'Another', 'idempotency_key': 'order-1'}
    async with conn.transaction():
        with pytest.raises(IdempotencyConflictError, match="'order-1' was given to e-mail") as told:
            await queue_email(conn, **other)
        with pytest.raises(IdempotencyConflictError):
            await queue_emails(conn, [HELLO, other])
        # Twice in one call.
        with pytest.raises(IdempotencyConflictError):
            await queue_emails(
                conn,
                [text | {'idempotency_key': 'new'} for text in (HELLO, {**other, 'subject': 's'})],
            )
    assert told.value.email_id == first
    assert await row(first) == before
    assert await conn.fetchval('SELECT count(*) FROM outbound_emails') == 1


async def test_key_of_a_row_that_says_nothing_of_its_content_is_known_all_the_same(conn):
    """Rows of older versions, and those of a plain INSERT."""
    plain = await conn.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, status, idempotency_key) '
        "VALUES ('a@example.com', 's', 't', 'pending', 'k') RETURNING id"
    )
    assert await queue_email(conn, **HELLO, idempotency_key='k') == plain


async def test_key_is_free_again_when_the_row_is_gone(conn):
    first = await queue_email(conn, **HELLO, idempotency_key='k')
    await conn.execute('DELETE FROM outbound_emails')
    other = HELLO | {'subject': 'Another'}
    assert await queue_email(conn, **other, idempotency_key='k') != first


async def test_same_key_after_the_mail_was_sent_sends_no_second_one(conn, ctx, inbox):
    first = await queue_email(conn, **HELLO | {'recipient': 'key@example.com'}, idempotency_key='k')
    await send_email(ctx, first)
    again = await queue_email(conn, **HELLO | {'recipient': 'key@example.com'}, idempotency_key='k')
    await send_email(ctx, again)
    assert again == first
    assert len(inbox.accepted('key@example.com')) == 1


@pytest.mark.parametrize('organization', [None, 7])
async def test_same_key_by_many_callers_at_once_makes_one_mail(pool, organization):
    async def call() -> int:
        async with pool.acquire() as conn, conn.transaction():
            return await queue_email(
                conn, **HELLO, organization_id=organization, idempotency_key='once'
            )

    assert len(set(await asyncio.gather(*(call() for _ in range(12))))) == 1
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1


async def test_same_key_waits_for_a_caller_who_has_not_committed(pool, conn):
    transaction = conn.transaction()
    await transaction.start()
    first = await queue_email(conn, **HELLO, idempotency_key='k')

    async def call() -> int:
        async with pool.acquire() as other:
            return await queue_email(other, **HELLO, idempotency_key='k')

    second = asyncio.create_task(call())
    blocked = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = "
        'current_database()'
    )
    await wait_until(lambda: pool.fetchval(blocked))
    await transaction.rollback()
    assert await second != first
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1


async def test_what_can_never_be_sent_is_refused_and_the_transaction_goes_on(conn):
    now = datetime.now(UTC)
    wrong = {
        'recipient': [
            '',
            'no address',
            'a@example.com\nBcc: b@example.com',
            'a@example.com,,b',
            'a@exa mple.com',
        ],
        'subject': [None, 'a\r\nBcc: b@example.com', 'x' * 989, 'nul \0', 'half \ud800'],
        'body_text': [None, 'nul \0', 'half \ud800', 'x' * (10 * 1024 * 1024 + 1)],
        'headers': [{'Bcc': 'b@example.com'}, {'X-A': 'a\r\nBcc: b'}, {'X A': 'b'}, {'X-A': 5}],
        'template_data': [{'nan': float('nan')}, {'nul': '\0'}, {'object': object()}],
        'priority': ['urgent', 1],
        'max_attempts': [0, 101],
        'send_at': [now.replace(tzinfo=None)],
        'expires_at': [now - timedelta(seconds=1), now.replace(tzinfo=None)],
        'expiry_hours': [0, -1, float('inf'), float('nan')],
        'idempotency_key': ['', 'x' * 256, 'a\nb'],
    }
    async with conn.transaction():
        for name, values in wrong.items():
            for value in values:
                with pytest.raises(
                    InvalidEmailError, match=name if name != 'body_text' else 'body'
                ):
                    await queue_email(conn, **HELLO | {name: value})
        assert await conn.fetchval('SELECT count(*) FROM outbound_emails') == 0
        await queue_email(conn, **HELLO)
    assert await conn.fetchval('SELECT count(*) FROM outbound_emails') == 1


async def test_template_data_with_half_a_character_is_refused_before_postgresql_sees_it(conn):
    async with conn.transaction():
        with pytest.raises(InvalidEmailError, match='template_data'):
            await queue_email(conn, **HELLO, template_data={'name': 'half \ud800'})
