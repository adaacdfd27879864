"""Many e-mails at once: one statement a thousand, one wake-up for all."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from mail_outbox.envelope import InvalidEmailError
from mail_outbox.outbox import queue_email, queue_emails
from mail_outbox.queueing import inserted
from mail_outbox.statement import Statement
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
        {
            'recipient': 'c@example.com',
            **TEXT,
            'headers': {'Reply-To': 'x@example.com'},
            'send_at': tomorrow,
        },
        {
            'recipient': 'd@example.com',
            **TEXT,
            'user_id': 5,
            'organization_id': 6,
            'expires_at': tomorrow,
        },
    ]
    async with pool.acquire() as conn, conn.transaction():
        many = await queue_emails(conn, emails)
        single = [await queue_email(conn, **email) for email in emails]
    assert many == sorted(many)
    rows = [
        dict(await pool.fetchrow('SELECT * FROM outbound_emails WHERE id = $1', i))
        for i in (*many, *single)
    ]
    for row in rows:
        del row['id']
    assert rows[:4] == rows[4:]


async def test_known_and_repeated_keys_give_the_first_id(pool):
    async with pool.acquire() as conn:
        first = await queue_email(
            conn, recipient='b@example.com', idempotency_key='k', organization_id=1, **TEXT
        )
        keys = [('k', 1), ('k', 2), ('k', 2), ('l', None), ('l', None), (None, 1)]
        ids = await queue_emails(
            conn,
            [
                {'recipient': 'b@example.com', 'idempotency_key': k, 'organization_id': o, **TEXT}
                for k, o in keys
            ],
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


KNOWN_ROWS_SQL = "SELECT reltuples FROM pg_class WHERE oid = 'outbound_emails'::regclass"


def letters(number: int) -> list[dict[str, str]]:
    return [{'recipient': f'u{n}@example.com', **TEXT} for n in range(number)]


async def test_many_leave_fresh_statistics_behind(pool):
    await pool.execute('ALTER TABLE outbound_emails SET (autovacuum_enabled = off)')
    await pool.execute('ANALYZE outbound_emails')
    async with pool.acquire() as conn, conn.transaction():
        await queue_emails(conn, letters(1500))
    assert await pool.fetchval(KNOWN_ROWS_SQL) == 1500
    assert (
        await pool.fetchval(
            "SELECT count(*) FROM pg_stats WHERE tablename = 'outbound_emails' AND n_distinct <> 0"
        )
        > 0
    )


async def test_role_that_may_not_analyse_queues_many_without_a_word(pool):
    await pool.execute('ALTER TABLE outbound_emails SET (autovacuum_enabled = off)')
    await pool.execute('CREATE ROLE producer_of_many')
    try:
        await pool.execute(
            'GRANT SELECT, INSERT, UPDATE ON mail_outbox, outbound_emails TO producer_of_many;'
            'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO producer_of_many'
        )
        told: list[object] = []
        async with pool.acquire() as conn, conn.transaction():
            listener = lambda _, message: told.append(message)  # noqa: E731 - to be removed again
            conn.add_log_listener(listener)
            await conn.execute('SET LOCAL ROLE producer_of_many')
            assert len(await queue_emails(conn, letters(1500))) == 1500
            await conn.execute('RESET ROLE')
            conn.remove_log_listener(listener)
        assert told == []
        assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1500
    finally:
        await pool.execute('DROP OWNED BY producer_of_many; DROP ROLE producer_of_many')


async def test_time_limit_of_the_caller_costs_the_statistics_and_not_the_e_mails(pool, monkeypatch):
    monkeypatch.setattr('mail_outbox.queueing.ANALYZE', Statement('SELECT pg_sleep(5)'))
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = '1s'")
        await queue_emails(conn, letters(1500))
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1500


async def test_large_e_mails_are_read_and_inserted_part_by_part_and_committed_together(
    pool, monkeypatch
):
    monkeypatch.setattr('mail_outbox.outbox.PART_BYTES', 1000)
    read: list[int] = []
    read_at_insert: list[int] = []

    def insert(rows: Any, first_place: int) -> Any:
        read_at_insert.extend([len(read)] * bool(rows))
        return inserted(rows, first_place)

    monkeypatch.setattr('mail_outbox.outbox.inserted', insert)
    async with pool.acquire() as conn:

        def produce(*more: dict[str, str]) -> Iterator[dict[str, str]]:
            for n in range(4):
                read.append(n)
                yield {'recipient': f'u{n}@example.com', 'subject': 's', 'body_text': 'x' * 2000}
            yield from more

        ids = await queue_emails(conn, produce())
        assert (len(ids), read_at_insert) == (4, [1, 2, 3, 4])
        async with conn.transaction():
            with pytest.raises(InvalidEmailError, match='e-mail 4: '):
                await queue_emails(conn, produce({'recipient': 'nobody', **TEXT}))
            recipients = await conn.fetch('SELECT recipient FROM outbound_emails ORDER BY id')
        assert [row['recipient'] for row in recipients] == [f'u{n}@example.com' for n in range(4)]
