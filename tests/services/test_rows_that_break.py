"""One row that breaks a statement, or what comes back of it, gets a state and a reason.

All others go on.
"""

from typing import Any

import asyncpg
import pytest

from db import claims
from db.due import give_due_time
from db.migrate import migrate
from db.narrowing import MOST_BLAMED, SetAside
from db.pools import create_postgres_pool
from db.transitions import expire_all, retry
from jobs.process_pending_emails import process_pending_emails
from mail_outbox.envelope import BY_LIFE
from tests.services.adopted import adopt, create_legacy

WHO = {'worker': 'w1@host:1', 'lease_s': 30, 'message_id_domain': 'example.com'}

ODD_VALUES = {
    'attempts at the end of integer': 'attempts = 2147483647, max_attempts = 2147483647',
    'lost attempts at the end of smallint': 'lost_attempts = 32767',
    'fewer than no lost attempts': 'lost_attempts = -1',
    'message date in the year 20260': "message_date = '20260-01-01'",
    'message date infinite': "message_date = 'infinity'",
    'message date 4000 BC': "message_date = '4000-01-01 BC'",
    'created at infinity': "created_at = 'infinity'",
    'created 4000 BC': "created_at = '4000-01-01 BC'",
    'expires at infinity': "expires_at = 'infinity'",
    'due since minus infinity': "next_retry_at = '-infinity'",
    'due since 4000 BC': "next_retry_at = '4000-01-01 BC'",
    'outcomes of a wrong type': "recipient_outcomes = '[1, {}]'",
    'outcomes nested deeply': (
        "recipient_outcomes = (repeat('[', 3000) || repeat(']', 3000))::jsonb"
    ),
    'outcomes with a huge number': (
        "recipient_outcomes = ('{\"a\": ' || repeat('9', 5000) || '}')::jsonb"
    ),
    'template data nested deeply': (
        "template_data = (repeat('[', 3000) || repeat(']', 3000))::jsonb"
    ),
    'headers nested deeply': "headers = (repeat('[', 3000) || repeat(']', 3000))::jsonb",
    'headers of a wrong type': "headers = '[1, 2]'",
    'headers with a huge number': "headers = ('{\"X-A\": ' || repeat('9', 5000) || '}')::jsonb",
    'no recipient': "recipient = ''",
    'a huge type': "email_type = repeat('x', 1000000)",
}


@pytest.mark.parametrize('change', ODD_VALUES.values(), ids=ODD_VALUES)
async def test_row_with_an_odd_value_ends_in_a_state_and_the_others_are_sent(
    ctx, pool, queue, inbox, change
):
    odd, *others = [await queue(f'row{n}@example.com') for n in range(4)]
    await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', odd)
    await process_pending_emails(ctx)
    rows = await pool.fetch(
        'SELECT id, status, dead_reason, last_error FROM outbound_emails ORDER BY id'
    )
    assert {row['id']: row['status'] for row in rows if row['id'] != odd} == dict.fromkeys(
        others, 'sent'
    )
    [row] = [row for row in rows if row['id'] == odd]
    if change == 'lost_attempts = 32767':  # apart from all other mail
        assert row['status'] == 'pending'
        [claim] = await claims.claim_suspects(pool, 2, 5, **WHO)
        assert claim.email.id == odd
    else:
        assert row['status'] == 'sent' or (
            row['status'] == 'failed' and row['dead_reason'] and row['last_error']
        )


async def test_attempts_at_the_end_of_a_smallint_do_not_spoil_the_claim(empty_database):
    """An adopted table with attempts of 2 bytes, without recipient and without numbers
    of attempts.
    """
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    await conn.execute(
        'ALTER TABLE outbound_emails ALTER attempts TYPE smallint, ALTER max_attempts TYPE smallint'
    )
    await conn.execute('ALTER TABLE outbound_emails ALTER recipient DROP NOT NULL')
    await adopt(conn)
    ids = [
        row['id']
        for row in await conn.fetch(
            'INSERT INTO mail_outbox (recipient, subject, body_text, status, attempts, '
            'max_attempts, next_retry_at) '
            'VALUES '
            "('a@example.com', 's', 't', 'pending', 32767, 32767, now()), ('b@example.com', 's', "
            "'t', 'pending', NULL, "
            "NULL, now()), (NULL, 's', 't', 'pending', 0, 3, now()), ('d@example.com', 's', 't', "
            "'pending', -5, 3, "
            'now()) RETURNING id'
        )
    ]
    pool = await create_postgres_pool(
        empty_database.dsn,
        size=2,
        connect_timeout_s=20,
        command_timeout_s=20,
        application_name='tests',
    )
    try:
        claimed = {claim.email.id: claim for claim in await claims.claim_due(pool, 10, **WHO)}
        assert [claimed[email_id].attempt for email_id in ids] == [BY_LIFE, 1, 1, 1]
        assert claimed[ids[2]].email.recipient == ''
    finally:
        pool.terminate()
        await conn.close()


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON outbound_emails FOR EACH ROW EXECUTE FUNCTION refuse()
"""


async def refuse(pool: Any, condition: str) -> None:
    """Make PostgreSQL refuse updates of rows."""
    await pool.execute(
        REFUSE.format(f"IF {condition} THEN RAISE EXCEPTION 'not this row'; END IF;")
    )


@pytest.mark.parametrize('way', ['by their ids', 'as due', 'as suspects'])
async def test_row_whose_claim_is_refused_is_dead_with_the_reason_and_the_others_are_claimed(
    pool, queue, row, way
):
    ids = [await queue() for _ in range(9)]
    bad = ids[4]
    await refuse(pool, f"NEW.status = 'sending' AND NEW.id = {bad}")
    if way == 'as suspects':
        await pool.execute('UPDATE outbound_emails SET lost_attempts = 1')
        claimed = await claims.claim_suspects(pool, 1, 20, **WHO)
    elif way == 'as due':
        claimed = await claims.claim_due(pool, 20, **WHO)
    else:
        claimed = await claims.claim(pool, ids, **WHO)
    assert sorted(claim.email.id for claim in claimed) == [i for i in ids if i != bad]
    stored = await row(bad)
    assert (stored['status'], stored['dead_reason'], stored['next_retry_at']) == (
        'failed',
        'refused',
        None,
    )
    assert 'not this row' in stored['last_error']


async def test_row_that_cannot_even_be_given_up_is_left_alone_for_a_while(pool, queue):
    ids = [await queue() for _ in range(3)]
    await refuse(pool, f'NEW.id = {ids[0]}')
    aside = SetAside()
    claimed = await claims.claim_due(pool, 20, **WHO, set_aside=aside)
    assert sorted(claim.email.id for claim in claimed) == ids[1:]
    assert aside.ids() == [ids[0]]
    late = await queue()
    assert [
        claim.email.id for claim in await claims.claim_due(pool, 1, **WHO, set_aside=aside)
    ] == [late]


async def test_rule_that_refuses_every_row_does_not_make_all_mail_dead(pool, queue):
    for _ in range(20):
        await queue()
    await refuse(pool, "NEW.status = 'sending'")
    assert await claims.claim_due(pool, 50, **WHO, set_aside=SetAside()) == []
    dead = await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'failed'")
    assert dead <= MOST_BLAMED


async def test_row_that_takes_no_due_time_stops_no_other(pool, row):
    ids = [
        r['id']
        for r in await pool.fetch(
            "INSERT INTO outbound_emails (recipient) SELECT 'a@example.com' FROM "
            'generate_series(1, 5) RETURNING id'
        )
    ]
    await refuse(pool, f'NEW.id = {ids[2]} AND NEW.next_retry_at IS NOT NULL')
    assert await give_due_time(pool)
    timed = [
        r['id']
        for r in await pool.fetch('SELECT id FROM outbound_emails WHERE next_retry_at IS NOT NULL')
    ]
    assert timed == [i for i in ids if i != ids[2]]
    assert (await row(ids[2]))['dead_reason'] == 'refused'


async def test_row_that_cannot_be_decoded_is_dead_as_unreadable_and_the_others_are_claimed(
    database, queue, row
):
    ids = [await queue(subject='hard to read' if n == 3 else 'plain') for n in range(9)]

    def read(value: str) -> str:
        if value == 'hard to read':
            raise OverflowError('date value out of range')
        return value

    async def prepare(conn: Any) -> None:
        await conn.set_type_codec('text', encoder=str, decoder=read, schema='pg_catalog')

    async with asyncpg.create_pool(database.dsn, min_size=0, max_size=2, init=prepare) as pool:
        claimed = await claims.claim_due(pool, 20, **WHO)
    assert sorted(claim.email.id for claim in claimed) == [i for i in ids if i != ids[3]]
    stored = await row(ids[3])
    assert (stored['status'], stored['dead_reason'], stored['claim_token']) == (
        'failed',
        'unreadable',
        None,
    )
    assert 'date value out of range' in stored['last_error']


async def test_row_whose_bytes_are_no_text_is_dead_as_unreadable_and_the_others_are_claimed(
    databases,
):
    """A database in SQL_ASCII keeps any bytes; the worker's own sessions read UTF-8."""
    name = 'mail_sql_ascii'
    await databases.administer(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER "
        "libc LOCALE 'C'"
    )
    dsn = databases.dsn(name)
    try:
        conn = await asyncpg.connect(dsn)
        await migrate(conn, zone='UTC')
        await conn.close()
        pool = await create_postgres_pool(
            dsn, size=2, connect_timeout_s=20, command_timeout_s=20, application_name='tests'
        )
        try:
            await pool.execute(
                'INSERT INTO mail_outbox (recipient, subject, body_text, status, next_retry_at) '
                "SELECT 'a@example.com', "
                "CASE WHEN n = 3 THEN E'\\xff' ELSE 's' END, 't', 'pending', now() FROM "
                'generate_series(1, 5) AS n'
            )
            assert sorted(c.email.id for c in await claims.claim_due(pool, 10, **WHO)) == [
                1,
                2,
                4,
                5,
            ]
            stored = await pool.fetchrow('SELECT status, dead_reason FROM mail_outbox WHERE id = 3')
            assert tuple(stored) == ('failed', 'unreadable')
        finally:
            pool.terminate()
    finally:
        await databases.administer(f'DROP DATABASE {name} WITH (FORCE)')


async def test_row_that_refuses_to_expire_keeps_no_other_from_it(pool, queue, row):
    ids = [await queue() for _ in range(5)]
    await pool.execute("UPDATE outbound_emails SET expires_at = now() - interval '1 hour'")
    await refuse(pool, f'NEW.id = {ids[1]}')
    assert await expire_all(pool) == 4
    assert await expire_all(pool) == 0
    assert (await row(ids[1]))['status'] == 'pending'


async def test_row_that_refuses_an_operators_retry_keeps_no_other_from_it(pool, queue):
    ids = [await queue() for _ in range(5)]
    await pool.execute(
        "UPDATE outbound_emails SET status = 'failed', attempts = 5, next_retry_at = NULL"
    )
    most = 'attempts = 2147483647, max_attempts = 2147483647'
    await pool.execute(f'UPDATE outbound_emails SET {most} WHERE id = $1', ids[3])
    await refuse(pool, f'NEW.id = {ids[1]}')
    assert sorted(await retry(pool, ids, expiry_hours=24)) == [i for i in ids if i != ids[1]]
