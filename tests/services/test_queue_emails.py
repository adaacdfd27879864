"""Many e-mails at once: one statement a thousand, one wake-up for all."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from db.outbox import queue_email, queue_emails
from mail.envelope import InvalidEmailError
from tests.conftest import wait_until

TEXT = {'subject': 'Hello', 'body_text': 'Hello.'}


async def test_rows_are_those_that_queue_email_makes_and_ids_come_in_order(pool):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    emails = [
        {'recipient': 'a@example.com', **TEXT},
        {
            'recipient': 'b@example.com',
            'template_id': 7,
            'template_data': {'name': 'Zoë "Z" \\ \n'},
            'priority': 'high',
        },
        {'recipient': 'c@example.com', **TEXT, 'headers': {'Reply-To': 'x@example.com'}, 'send_at': tomorrow},
        {'recipient': 'd@example.com', **TEXT, 'user_id': 5, 'organization_id': 6, 'expires_at': tomorrow},
    ]
    async with pool.acquire() as conn, conn.transaction():
        many = await queue_emails(conn, emails)
        single = [await queue_email(conn, **email) for email in emails]
    assert many == sorted(many)
    rows = [dict(await pool.fetchrow('SELECT * FROM outbound_emails WHERE id = $1', i)) for i in (*many, *single)]
    for row in rows:
        del row['id']
    assert rows[:4] == rows[4:]


async def test_known_and_repeated_keys_give_the_first_id(pool):
    async with pool.acquire() as conn:
        first = await queue_email(conn, recipient='a@example.com', idempotency_key='k', organization_id=1, **TEXT)
        keys = [('k', 1), ('k', 2), ('k', 2), ('l', None), ('l', None), (None, 1)]
        ids = await queue_emails(
            conn,
            [{'recipient': 'b@example.com', 'idempotency_key': k, 'organization_id': o, **TEXT} for k, o in keys],
        )
    assert ids[0] == first
    assert ids[1] == ids[2]
    assert ids[3] == ids[4]
    assert len({*ids}) == 4


async def test_one_bad_e_mail_names_its_place_and_nothing_is_inserted(pool):
    emails = [{'recipient': 'a@example.com', **TEXT}] * 1500 + [{'recipient': 'nobody', **TEXT}]
    async with pool.acquire() as conn:
        with pytest.raises(InvalidEmailError, match='e-mail 1500: recipient'):
            await queue_emails(conn, emails)
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 0


async def test_many_are_queued_with_one_wake_up_that_has_them_sent(pool, inbox, start_worker):
    await start_worker().started()
    names = [f'{uuid4().hex}@example.com' for _ in range(300)]
    async with pool.acquire() as conn, conn.transaction():
        ids = await queue_emails(conn, ({'recipient': name, **TEXT} for name in names))
    assert len(set(ids)) == len(names)
    await wait_until(lambda: len(inbox.accepted()) >= len(names))
    assert sorted(entry['rcpt_to'][0] for entry in inbox.accepted()) == sorted(names)


async def test_none_is_fine_and_wakes_nobody(pool):
    async with pool.acquire() as conn:
        assert await queue_emails(conn, []) == []


async def test_template_id_of_another_type_is_named(pool):
    async with pool.acquire() as conn:
        with pytest.raises(InvalidEmailError, match='nope'):
            await queue_emails(conn, [{'recipient': 'a@example.com', 'template_id': 'nope'}])
        with pytest.raises(InvalidEmailError, match='nope'):
            await queue_email(conn, recipient='a@example.com', template_id='nope')
