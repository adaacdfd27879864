"""Triggers of an application on its `status` see what is done here as they saw what Celery did.

On an adopted table that is not finished, see db/adoption/showing.py.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.adoption.plan import plan
from db.adoption.status_triggers import (
    OURS,
    SHOW_FIRST,
    SYNC,
    Remedy,
    read_unseeing,
    triggers_there,
)
from db.adoption.takeover import take_over
from db.adoption.trigger import trigger_ddl
from db.adoption.undo import undo
from db.claims import claim, claim_due
from db.leases import renew, rescue
from db.migrate import alone, migrate, silent
from db.transitions import mark_sent, retry
from jobs.process_pending_emails import process_pending_emails
from mail_outbox.outbox import queue_email
from reporting.checks.postgresql import judge_triggers
from tests.conftest import ROOT
from tests.services.adopted import DAY, FEW_STATES, STATES, adopt, create_legacy, state_of
from tests.services.other_worker import another

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
# The application's times have no zone.
EARLIER, LATER = datetime(2020, 1, 1), datetime.now() + timedelta(hours=9)  # noqa: DTZ001, DTZ005
CLAIM = {'worker': 'w@h:1', 'lease_s': 30, 'message_id_domain': 'example.com'}
HISTORY = """
CREATE TABLE history (id bigserial PRIMARY KEY, email_id bigint, old text, new text,
    sent_at timestamp);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (email_id, old, new, sent_at)
    VALUES (NEW.id, OLD.status::text, NEW.status::text, NEW.sent_at);
    RETURN NEW;
END $$;
CREATE FUNCTION note_when_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status IS DISTINCT FROM OLD.status THEN
        INSERT INTO history (email_id, old, new, sent_at)
        VALUES (NEW.id, OLD.status::text, NEW.status::text, NEW.sent_at);
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was jsonb := to_jsonb(OLD);
    is_now jsonb := to_jsonb(NEW);
BEGIN
    IF was ->> 'status' <> is_now ->> 'status' THEN
        INSERT INTO history (email_id, old, new)
        VALUES (OLD.id, was ->> 'status', is_now ->> 'status');
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION note_table() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (email_id, old, new, sent_at)
    SELECT n.id, o.status::text, n.status::text, n.sent_at
    FROM new_rows AS n JOIN old_rows AS o USING (id) WHERE n.status IS DISTINCT FROM o.status;
    RETURN NULL;
END $$;
CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (old, new) VALUES (TG_WHEN, TG_OP);
    RETURN NULL;
END $$;
"""
CHANGED = 'WHEN (OLD.status IS DISTINCT FROM NEW.status)'
ROW = 'ON outbound_emails FOR EACH ROW'
DEFERRED = 'ON outbound_emails DEFERRABLE INITIALLY DEFERRED FOR EACH ROW'
TABLES = 'ON outbound_emails REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
TRIGGERS = {
    'of status': f'TRIGGER told AFTER UPDATE OF status {ROW} EXECUTE FUNCTION note()',
    'of status when it changed': (
        f'TRIGGER told AFTER UPDATE OF status {ROW} {CHANGED} EXECUTE FUNCTION note()'
    ),
    'of several columns': (
        f'TRIGGER told AFTER UPDATE OF attempts, status, sent_at {ROW} EXECUTE FUNCTION note()'
    ),
    'of columns that are not written here': (
        f'TRIGGER told AFTER UPDATE OF status, subject {ROW} EXECUTE FUNCTION note()'
    ),
    'of status, deferred': (
        f'CONSTRAINT TRIGGER told AFTER UPDATE OF status {DEFERRED} EXECUTE FUNCTION note()'
    ),
    'deferred, when it changed': (
        f'CONSTRAINT TRIGGER told AFTER UPDATE {DEFERRED} {CHANGED} EXECUTE FUNCTION note()'
    ),
    'before, of status': f'TRIGGER told BEFORE UPDATE OF status {ROW} EXECUTE FUNCTION note()',
    'before': f'TRIGGER told BEFORE UPDATE {ROW} EXECUTE FUNCTION note_when_changed()',
    'before, when it changed': (
        f'TRIGGER told BEFORE UPDATE {ROW} {CHANGED} EXECUTE FUNCTION note()'
    ),
    'before, by the whole row': f'TRIGGER told BEFORE UPDATE {ROW} EXECUTE FUNCTION note_row()',
    'before, of another column': (
        f'TRIGGER told BEFORE UPDATE OF attempts {ROW} {CHANGED} EXECUTE FUNCTION note()'
    ),
    'after, when it changed': (
        f'TRIGGER told AFTER UPDATE {ROW} {CHANGED} EXECUTE FUNCTION note()'
    ),
    'of the statement': (
        f'TRIGGER told AFTER UPDATE {TABLES} FOR EACH STATEMENT EXECUTE FUNCTION note_table()'
    ),
    'of status, for the statement': (
        'TRIGGER told AFTER UPDATE OF status ON outbound_emails FOR EACH STATEMENT '
        'EXECUTE FUNCTION note_statement()'
    ),
}
OF_STATUS = f'CREATE {TRIGGERS["of status"]}'


DUE = "UPDATE outbound_emails SET next_retry_at = timezone('utc', now()) WHERE id = $1"


async def told(conn: asyncpg.Connection, email_id: int | None = None) -> list[tuple[Any, ...]]:
    """Return what the triggers wrote, in order, and forget it."""
    rows = await conn.fetch(
        'SELECT old, new, sent_at IS NOT NULL AS has_time FROM history '
        'WHERE $1::bigint IS NULL OR email_id = $1 ORDER BY id',
        email_id,
    )
    await conn.execute('DELETE FROM history')
    return [tuple(row) for row in rows]


CELERY = {
    'sending': "status = 'sending', attempts = attempts + 1, last_attempt_at = now()",
    'failed': "status = 'failed', smtp_code = 451, attempts = attempts, next_retry_at = now()",
    'sent': "status = 'sent', attempts = attempts, sent_at = now(), smtp_code = 250",
}


async def as_celery_did(conn: asyncpg.Connection, states: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return what the triggers write when an application's own code takes an e-mail through."""
    email_id = await conn.fetchval(
        'INSERT INTO outbound_emails (recipient, subject, body_text, attempts, max_attempts) '
        "VALUES ('celery@example.com', 's', 't', 0, 5) RETURNING id"
    )
    for state in states:
        await conn.execute(f'UPDATE outbound_emails SET {CELERY[state]} WHERE id = $1', email_id)
    return await told(conn)


def is_told(states: Sequence[str], words: Sequence[str]) -> list[str]:
    return [state for state in states if state in words]


THREE = ('pending', 'sent', 'failed')
CASES = [
    *((trigger, 'enum', STATES) for trigger in TRIGGERS),
    ('of status', 'text', FEW_STATES),
    ('of status', 'enum', THREE),
    ('of status, deferred', 'varchar(20)', THREE),
    ('before', 'text', THREE),
    ('of several columns', 'text', STATES),
]


@pytest.mark.parametrize(('trigger', 'status', 'words'), CASES)
async def test_history_of_an_email_sent_here_is_the_one_that_celerys_code_would_have_written(
    conn, worker_pool, ctx, inbox, trigger, status, words
):
    await create_legacy(conn, status, words)
    await conn.execute(HISTORY)
    await conn.execute(f'CREATE {TRIGGERS[trigger]}')
    accepted = await as_celery_did(conn, is_told(['sending', 'sent'], words))
    deferred = is_told(['sending', 'failed', 'sending', 'sent'], words)
    deferred_history = await as_celery_did(conn, deferred)
    if status != 'enum' and 'sending' in words:  # it knows the words that stand in its table
        await conn.execute(
            "INSERT INTO outbound_emails (recipient, status) VALUES ('a', 'sending')"
        )
    await adopt(conn)
    await told(conn)
    adopted = {'runtime': another(ctx['runtime'], pool=worker_pool)}

    await queue_email(conn, recipient='anna@example.com', subject='s', body_text='t')
    assert (await process_pending_emails(adopted))['outcomes'] == {'sent': 1}
    assert await told(conn) == accepted != []

    inbox.control.misbehave('rcpt', 'refuse', code=451, text='4.7.1 later', times=2)
    email_id = await queue_email(conn, recipient='bert@example.com', subject='s', body_text='t')
    assert (await process_pending_emails(adopted))['outcomes'] == {'failed': 1}
    await conn.execute(DUE, email_id)
    assert (await process_pending_emails(adopted))['outcomes'] == {'sent': 1}
    assert await told(conn) == deferred_history


async def prepared(
    conn: asyncpg.Connection, *ddl: str, words: Sequence[str] = STATES, taken_over: bool = True
) -> None:
    """Adopt a table with a history and these triggers."""
    await create_legacy(conn, 'enum', tuple(words))
    await conn.execute(HISTORY)
    for each in ddl:
        await conn.execute(each)
    await (adopt if taken_over else migrate)(conn)


async def queue(conn: asyncpg.Connection, name: str = 'anna') -> int:
    return await queue_email(conn, recipient=f'{name}@example.com', subject='s', body_text='t')


async def write(conn: asyncpg.Connection, email_id: int, **values: Any) -> None:
    """Write as this program does, by way of the view."""
    listed = ', '.join(f'{name} = ${n}' for n, name in enumerate(values, 2))
    await conn.execute(f'UPDATE mail_outbox SET {listed} WHERE id = $1', email_id, *values.values())


async def test_states_that_the_application_shows_as_failed_stay_what_they_are(conn, worker_pool):
    """Our second UPDATE writes the word `failed`, and nobody else has written it."""
    await prepared(conn, OF_STATUS)
    email_id = await queue(conn)
    assert len(await claim_due(worker_pool, 1, **CLAIM)) == 1
    await write(conn, email_id, lease_expires_at=LONG_AGO)
    assert [r.status for r in await rescue(worker_pool, ['*'])] == ['uncertain']
    assert await state_of(conn, email_id) == ('uncertain', 'failed')
    assert await mark_sent(worker_pool, [email_id]) == [email_id]
    await conn.execute("UPDATE outbound_emails SET status = 'failed' WHERE id = $1", email_id)
    assert await state_of(conn, email_id) == ('failed', 'failed')
    assert await retry(worker_pool, [email_id], expiry_hours=1) == [email_id]
    assert [(old, new) for old, new, _ in await told(conn)] == [
        ('pending', 'sending'), ('sending', 'failed'), ('failed', 'sent'), ('sent', 'failed'),
        ('failed', 'pending'),
    ]  # fmt: skip


async def test_lease_that_is_renewed_and_a_due_time_that_is_given_tell_nobody(conn, worker_pool):
    await prepared(conn, OF_STATUS)
    email_id = await queue(conn)
    [claim] = await claim_due(worker_pool, 1, **CLAIM)
    await told(conn)
    assert await renew(worker_pool, [claim.key], 60) == set()
    await write(conn, email_id, next_retry_at=EARLIER, recipient_outcomes='{}')
    assert await told(conn) == []


REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.recipient = 'bad@example.com' AND NEW.status = '{}' THEN RAISE 'not this one'; END IF;
    RETURN NEW;
END $$;
CREATE {} TRIGGER refuse {} UPDATE OF status ON outbound_emails {}
    FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize('when', ['BEFORE', 'AFTER', 'CONSTRAINT'])
@pytest.mark.parametrize('refused', ['sending', 'sent'])
async def test_row_that_a_trigger_refuses_is_set_aside_and_the_others_are_sent(
    conn, worker_pool, ctx, inbox, when, refused
):
    deferred = 'DEFERRABLE INITIALLY DEFERRED' if when == 'CONSTRAINT' else ''
    constraint, when = (when, 'AFTER') if deferred else ('', when)
    await prepared(conn, OF_STATUS, REFUSING.format(refused, constraint, when, deferred))
    ids = [await queue(conn, name) for name in ('anna', 'bad', 'bert', 'clara')]
    await told(conn)
    adopted = {'runtime': another(ctx['runtime'], pool=worker_pool)}
    outcomes = (await process_pending_emails(adopted))['outcomes']
    assert outcomes['sent'] == 3
    states = [await state_of(conn, email_id) for email_id in ids]
    assert [states[0], *states[2:]] == [('sent', 'sent')] * 3
    row = await conn.fetchrow('SELECT * FROM mail_outbox WHERE id = $1', ids[1])
    # What its relay has is not sent again.
    state = 'failed' if refused == 'sending' else 'uncertain'
    assert (row['status'], row['dead_reason'], row['next_retry_at']) == (state, 'refused', None)
    assert 'not this one' in row['last_error']
    assert len(inbox.accepted('bad@example.com')) == (0 if refused == 'sending' else 1)
    words = ['failed'] if refused == 'sending' else ['sending', 'failed']
    assert [new for _, new, _ in await told(conn, ids[1])] == words


async def test_trigger_that_writes_the_email_again_is_another_program(conn, worker_pool):
    """It is called by our second UPDATE, and what it writes is the application's word."""
    await prepared(
        conn,
        OF_STATUS,
        """
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE outbound_emails SET subject = 'seen ' || NEW.status,
                status = CASE NEW.subject WHEN 'stop' THEN 'cancelled' ELSE status END
            WHERE id = NEW.id;
            RETURN NULL;
        END $$;
        CREATE TRIGGER zzz AFTER UPDATE OF status ON outbound_emails FOR EACH ROW
            WHEN (OLD.status = 'pending' AND NEW.status = 'sending') EXECUTE FUNCTION again();
        """,
    )
    plain = await queue(conn)
    stopped = await queue_email(conn, recipient='b@example.com', subject='stop', body_text='t')
    assert len(await claim_due(worker_pool, 2, **CLAIM)) == 2
    assert await state_of(conn, plain) == ('sending', 'sending')
    assert await state_of(conn, stopped) == ('cancelled', 'cancelled')
    subjects = await conn.fetch('SELECT subject FROM outbound_emails ORDER BY id')
    assert [row['subject'] for row in subjects] == ['seen sending'] * 2
    changes = [(old, new) for old, new, _ in await told(conn, stopped)]
    assert ('sending', 'cancelled') in changes


async def test_trigger_that_shows_another_word_than_ours_changes_no_state(conn):
    await prepared(
        conn,
        OF_STATUS,
        """
        CREATE FUNCTION softens() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.status = 'failed' THEN NEW.status := 'expired'; END IF; RETURN NEW;
        END $$;
        CREATE TRIGGER softens BEFORE UPDATE OF status ON outbound_emails
            FOR EACH ROW EXECUTE FUNCTION softens();
        """,
    )
    email_id = await queue(conn)
    await write(conn, email_id, status='failed', attempts=1, next_retry_at=LATER)
    assert await state_of(conn, email_id) == ('failed', 'expired')
    await write(conn, email_id, status='sent', sent_at=EARLIER)
    assert await state_of(conn, email_id) == ('sent', 'sent')


async def test_second_update_comes_in_the_order_of_words_and_its_mark_ends_with_it(conn):
    """Two batches whose trigger counts by status do not wait for each other in a circle."""
    await prepared(conn, OF_STATUS)
    ids = [await queue(conn, str(n)) for n in range(6)]
    await conn.execute(
        "UPDATE mail_outbox SET status = CASE id % 2 WHEN 0 THEN 'sent' ELSE 'failed' END"
    )
    assert [new for _, new, _ in await told(conn)] == ['failed'] * 3 + ['sent'] * 3
    async with conn.transaction():
        await write(conn, ids[0], status='cancelled')
        assert not await conn.fetchval("SELECT current_setting('outbox.showing', true)")


# Slow between one counter and the next.
COUNTERS = """
CREATE TABLE counters (status text PRIMARY KEY, emails bigint);
INSERT INTO counters VALUES ('sent', 0), ('failed', 0);
CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counters SET emails = emails + 1 WHERE status = NEW.status::text;
    PERFORM pg_sleep(0.1);
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER UPDATE OF status ON outbound_emails
    FOR EACH ROW EXECUTE FUNCTION counted();
"""


async def test_batches_of_two_workers_that_a_trigger_counts_by_status_do_not_deadlock(
    conn, worker_pool
):
    await prepared(conn, COUNTERS)
    ids = [await queue(conn, str(n)) for n in range(4)]

    async def record(batch: Sequence[int], words: Sequence[str]) -> None:
        await worker_pool.execute(
            'UPDATE mail_outbox SET status = CASE id WHEN $1 THEN $3 ELSE $4 END '
            'WHERE id IN ($1, $2)',
            *batch,
            *words,
        )

    await asyncio.gather(record(ids[:2], ('sent', 'failed')), record(ids[2:], ('failed', 'sent')))
    assert dict(await conn.fetch('SELECT * FROM counters')) == {'sent': 2, 'failed': 2}


async def test_what_is_shared_is_hidden_and_tells_of_no_change_that_nobody_sees(conn, worker_pool):
    await prepared(conn, OF_STATUS, taken_over=False)
    ours = await queue(conn)
    [claim] = await claim_due(worker_pool, 1, **CLAIM)
    assert claim.email.id == ours
    await write(conn, ours, status='failed', attempts=1, next_retry_at=LATER, max_attempts=3)
    assert await told(conn) == []
    await write(conn, ours, status='sent', sent_at=EARLIER)
    assert await told(conn) == [('sending', 'sent', True)]
    later = await queue(conn)
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        await take_over(conn, form, hold_after=DAY, progress=lambda *_: None)
    assert await state_of(conn, later) == ('pending', 'pending')
    assert await told(conn) == [('sending', 'pending', False)]


async def test_take_over_tells_what_becomes_of_an_email_that_was_being_sent(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(HISTORY)
    await conn.execute(OF_STATUS)
    for status in ('pending', 'sending', 'sent'):
        await conn.execute(
            'INSERT INTO outbound_emails (recipient, status) VALUES ($1, $2::email_status)',
            f'{status}@example.com',
            status,
        )
    assert await adopt(conn) == {'pending': 1, 'uncertain': 1}
    assert await told(conn) == [('sending', 'failed', False)]


async def test_words_of_the_applications_own_for_the_same_state_stay(conn):
    await prepared(conn, OF_STATUS, words=('pending', 'queued', 'sent', 'failed'))
    await migrate(conn, given={'queued': 'pending'})
    await conn.execute(
        "INSERT INTO outbound_emails (recipient, status) VALUES ('a@example.com', 'queued')"
    )
    await conn.execute('UPDATE outbound_emails SET attempts = 0, next_retry_at = now()')
    email_id = await conn.fetchval('SELECT id FROM outbound_emails')
    assert await state_of(conn, email_id) == ('pending', 'queued')
    assert await told(conn) == []


async def test_role_that_may_only_write_to_the_view_tells_the_triggers_as_the_tables_owner(
    conn, empty_database
):
    await prepared(conn, OF_STATUS)
    email_id = await queue(conn)
    role = f'{empty_database.name}_worker'
    await conn.execute(
        f'DROP ROLE IF EXISTS {role}; CREATE ROLE {role};'
        f'GRANT SELECT, UPDATE ON mail_outbox TO {role}'
    )
    try:
        await conn.execute(f'SET ROLE {role}')
        # A table of the session's own stands for none of the application's.
        await conn.execute('CREATE TEMPORARY TABLE history (old text, new text)')
        await write(conn, email_id, status='cancelled')
        await conn.execute('DROP TABLE pg_temp.history; RESET ROLE')
        assert await told(conn) == [('pending', 'cancelled', False)]
    finally:
        await conn.execute(f'RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}')


async def test_superuser_who_migrates_gives_the_function_to_the_tables_owner(conn, empty_database):
    owner = f'{empty_database.name}_owner'
    await create_legacy(conn, 'enum')
    await conn.execute(HISTORY)
    await conn.execute(OF_STATUS)
    await conn.execute(
        f'DROP ROLE IF EXISTS {owner}; CREATE ROLE {owner};'
        f'ALTER TABLE outbound_emails OWNER TO {owner}; GRANT ALL ON history TO {owner};'
        f'GRANT USAGE ON SEQUENCE history_id_seq TO {owner}'
    )
    try:
        await adopt(conn)
        email_id = await queue(conn)
        await write(conn, email_id, status='cancelled')
        assert await told(conn) == [('pending', 'cancelled', False)]
        assert owner == await conn.fetchval(
            "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'outbox_show_afterwards'"
        )
    finally:
        await conn.execute(f'DROP OWNED BY {owner} CASCADE; DROP ROLE {owner}')


CHECKS = {
    "status <> 'sent' OR sent_at IS NOT NULL": True,
    "status = 'pending' OR attempts > 0": True,
    "status <> 'pending' OR attempts = 0": False,
    "status = 'failed' OR next_retry_at IS NULL": False,
}


@pytest.mark.parametrize('check', CHECKS)
async def test_check_that_a_second_update_would_not_pass_is_named_and_the_mail_is_sent(
    conn, worker_pool, ctx, inbox, check
):
    is_passed = CHECKS[check]
    await create_legacy(conn, 'enum')
    await conn.execute(HISTORY)
    await conn.execute(OF_STATUS)
    await conn.execute(f'ALTER TABLE outbound_emails ADD CONSTRAINT sane CHECK ({check})')
    planned = await plan(conn, zone='UTC', max_attempts=None)
    [note] = [note for note in planned.notes if 'triggers of yours' in note]
    assert ('sane' in note) is not is_passed
    await adopt(conn)
    assert (await read_unseeing(conn) == ['told']) is not is_passed
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text, attempts) '
        "VALUES ('anna@example.com', 's', 't', 0)"
    )
    await conn.execute('UPDATE outbound_emails SET next_retry_at = NULL')
    claimed = await claim_due(worker_pool, 1, **CLAIM) or await claim(worker_pool, [1], **CLAIM)
    assert len(claimed) == 1
    assert [new for _, new, _ in await told(conn)] == (['sending'] if is_passed else [])


async def test_trigger_that_comes_later_is_named_by_doctor_until_db_migrate_lets_it_see(conn):
    """As it is with a database that an earlier version has adopted."""
    await prepared(conn)
    email_id = await queue(conn)
    assert list(await triggers_there(conn)) == [SYNC]
    assert await read_unseeing(conn) == ()
    await conn.execute(OF_STATUS)
    [finding] = judge_triggers(await read_unseeing(conn))
    assert (finding.severity, 'told' in finding.what) == ('warning', True)
    assert 'python -m db.migrate' in finding.remedy
    await migrate(conn)
    assert await read_unseeing(conn) == ()
    await write(conn, email_id, status='cancelled')
    assert await told(conn) == [('pending', 'cancelled', False)]

    await conn.execute(
        f'CREATE TRIGGER early BEFORE UPDATE OF attempts {ROW} EXECUTE FUNCTION note_when_changed()'
    )
    await conn.execute('DROP TRIGGER told ON outbound_emails')
    assert await read_unseeing(conn) == ['early']
    await migrate(conn)
    assert sorted(await triggers_there(conn)) == [SHOW_FIRST, SYNC]
    await conn.execute('DROP TRIGGER early ON outbound_emails')
    await migrate(conn)
    assert list(await triggers_there(conn)) == [SYNC]
    functions = await conn.fetch("SELECT FROM pg_proc WHERE proname LIKE 'outbox_show%'")
    assert functions == []


async def test_trigger_on_a_table_that_this_program_made_is_nobodys_business(conn):
    await migrate(conn)
    await conn.execute(
        'CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$'
    )
    await conn.execute(OF_STATUS)
    assert await read_unseeing(conn) == ()


@pytest.mark.parametrize('ending', ['finish', 'undo'])
async def test_our_triggers_end_with_the_adoption_and_theirs_go_on(conn, ending):
    await prepared(conn, f'CREATE {TRIGGERS["of several columns"]}')
    assert set(await triggers_there(conn)) == set(OURS)
    async with alone(conn, 'UTC'):
        if ending == 'finish':
            await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), silent)
        else:
            await undo(conn, (await plan(conn, zone='UTC', max_attempts=5)).form, silent)
    assert await triggers_there(conn) == {}
    assert await conn.fetch("SELECT FROM pg_proc WHERE proname LIKE 'outbox_show%'") == []
    await conn.execute("INSERT INTO outbound_emails (recipient) VALUES ('a@example.com')")
    await told(conn)
    await conn.execute("UPDATE outbound_emails SET status = 'sent', sent_at = now()")
    assert [row[:2] for row in await told(conn)] == [('pending', 'sent')]


async def test_triggers_of_a_restored_table_wait_for_their_functions(conn):
    """A backup of tables has none: deploy/restore.sh puts others in their place."""
    script = (ROOT / 'deploy/restore.sh').read_text()
    await create_legacy(conn, 'enum')
    await conn.execute('ALTER TABLE outbound_emails ADD COLUMN mail_status text')
    await conn.execute(script.partition("<<'STUB'\n")[2].partition('\nSTUB')[0])
    triggers = Remedy(afterwards=True, first_of=('attempts',)).triggers
    for ddl in (trigger_ddl(), *triggers.values()):
        await conn.execute(ddl)
    change = "UPDATE outbound_emails SET mail_status = 'sent', attempts = 1"
    await conn.execute("INSERT INTO outbound_emails (recipient) VALUES ('a@example.com')")
    await conn.execute(change)
    await conn.execute('SET outbox.restoring = off')
    with pytest.raises(asyncpg.RaiseError, match=r'python -m db\.migrate'):
        await conn.execute(change)
