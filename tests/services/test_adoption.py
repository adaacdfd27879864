"""A table that was there before.

Nothing of it is changed until the operator finishes it, and there is a way back.
"""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from db.adoption.columns import read_columns
from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.adoption.forecast import forecast
from db.adoption.indexes import INDEXES
from db.adoption.locks import TableBusyError, briefly
from db.adoption.phases import AdoptionPhase, read_phase
from db.adoption.plan import NotAdoptableError, plan
from db.adoption.status_triggers import Remedy
from db.adoption.takeover import WrongPhaseError, take_over
from db.adoption.undo import undo
from db.checkup import read_indexes
from db.claims import claim_due
from db.due import give_due_time
from db.migrate import alone, connect_directly, migrate, silent
from db.schema import SchemaMismatchError, check_schema
from jobs.process_pending_emails import process_pending_emails
from jobs.send_email import send_email
from mail_outbox.outbox import queue_email
from reporting.checks.postgresql import judge_indexes
from tests.services.adopted import DAY, FEW_STATES, STATES, adopt, create_legacy, state_of
from tests.services.other_worker import another

UPPER = tuple(word.upper() for word in FEW_STATES)
FORMS = [
    ('varchar(20)', STATES),
    ('text', STATES),
    ('enum', STATES),
    ('enum', FEW_STATES),
    ('enum', UPPER),
    ('enum', ('pending', 'sent', 'failed')),
    ('check', FEW_STATES),
]
CLAIM = {'worker': 'w@h:1', 'lease_s': 30, 'message_id_domain': 'example.com'}
SHAPE_SQL = """
SELECT 'column' AS kind, attname::text AS name, concat_ws(' ', format_type(atttypid, atttypmod),
    attnotnull,
        pg_get_expr(d.adbin, d.adrelid)) AS what
FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'outbound_emails'::regclass AND a.attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'outbound_emails'::regclass
UNION ALL SELECT 'constraint', conname, concat_ws(' ', pg_get_constraintdef(oid), convalidated)
    FROM pg_constraint
WHERE conrelid = 'outbound_emails'::regclass AND contype <> 'n'
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger
WHERE tgrelid = 'outbound_emails'::regclass AND NOT tgisinternal
UNION ALL SELECT 'option', unnest(reloptions), '' FROM pg_class
    WHERE oid = 'outbound_emails'::regclass
"""


async def shape(conn: asyncpg.Connection) -> set[tuple[str, str, str]]:
    return {tuple(row) for row in await conn.fetch(SHAPE_SQL)}


async def insert(conn: asyncpg.Connection, name: str, status: str, **columns: Any) -> int:
    """Insert a row as the application does. Times are hours from now, in UTC."""
    hours = {
        'next_retry_at',
        'created_at',
        'expires_at',
        'sent_at',
        'last_attempt_at',
        'updated_at',
    }
    values = {
        'recipient': f'{name}@example.com',
        'subject': 's',
        'body_text': 't',
        'status': status,
    } | columns
    places = [
        f"timezone('utc', now()) + ${n}::float8 * interval '1 hour'" if column in hours else f'${n}'
        for n, column in enumerate(values, 1)
    ]
    sql = (
        f'INSERT INTO outbound_emails ({", ".join(values)}) VALUES ({", ".join(places)}) '
        'RETURNING id'
    )
    email_id: int = await conn.fetchval(sql, *values.values())
    return email_id


def word(words: tuple[str, ...], state: str) -> str:
    return next(word for word in words if word.lower() == state)


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_expanding_only_adds(conn, status, words):
    await create_legacy(conn, status, words)
    for n, each in enumerate(words):
        await insert(conn, f'row{n}', each, attempts=n, max_attempts=None)
    shape_before, rows_before = (
        await shape(conn),
        await conn.fetch('SELECT * FROM outbound_emails ORDER BY id'),
    )
    await migrate(conn)
    assert await read_phase(conn) is AdoptionPhase.SHARED
    assert shape_before <= await shape(conn)
    names = ', '.join(rows_before[0].keys())
    assert await conn.fetch(f'SELECT {names} FROM outbound_emails ORDER BY id') == rows_before
    assert not [
        row for row in await shape(conn) if row[0] == 'constraint' and row not in shape_before
    ]


@pytest.mark.parametrize(('status', 'words'), FORMS)
@pytest.mark.parametrize('taken_over', [False, True])
async def test_the_old_program_writes_what_it_always_wrote(conn, status, words, taken_over):
    await create_legacy(conn, status, words)
    await (adopt if taken_over else migrate)(conn)
    for state in ('pending', *(['sending'] if 'sending' in words else []), 'failed', 'sent'):
        email_id = await insert(
            conn, state, word(words, 'pending'), attempts=None, max_attempts=None, updated_at=None
        )
        await conn.execute(
            (
                'UPDATE outbound_emails SET status = $1, attempts = 9, sent_at = NULL, '
                'updated_at = NULL WHERE id = $2'
            ),
            word(words, state),
            email_id,
        )
        _, theirs = await state_of(conn, email_id)
        assert theirs == word(words, state)
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, status) VALUES ($1, DEFAULT)',
        'default@example.com',
    )
    await conn.execute('DELETE FROM outbound_emails')


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_while_shared_workers_take_only_what_queue_email_queued_and_sweeps_do_not_see_it(
    conn, worker_pool, status, words
):
    await create_legacy(conn, status, words)
    await insert(conn, 'before', word(words, 'pending'), next_retry_at=-0.1)
    if status in ('text', 'varchar(20)'):  # the application knows the words that stand in its table
        await insert(conn, 'known', 'sending')
    await migrate(conn)
    await insert(conn, 'after', word(words, 'pending'), next_retry_at=-0.1)
    async with conn.transaction():
        ours = await queue_email(conn, recipient='ours@example.com', subject='s', body_text='t')
    claimed = {claim.email.id for claim in await claim_due(worker_pool, 10, **CLAIM)}
    swept = {
        row['id']
        for row in await conn.fetch(
            (
                'SELECT id FROM outbound_emails WHERE status::text = $1 OR (status::text = '
                '$2 AND attempts < max_attempts)'
            ),
            word(words, 'pending'),
            word(words, 'failed'),
        )
    }
    assert len(claimed | swept) == 3
    assert not claimed & swept
    assert claimed <= {ours}
    assert bool(claimed) is any(w.lower() == 'sending' for w in words)


async def test_a_row_that_is_ours_stays_hidden_whatever_the_old_program_writes_into_it(conn):
    await create_legacy(conn, 'enum')
    await migrate(conn)
    email_id = await queue_email(conn, recipient='ours@example.com', subject='s', body_text='t')
    for theirs in ('pending', 'failed'):
        await conn.execute(
            'UPDATE outbound_emails SET status = $1::email_status WHERE id = $2', theirs, email_id
        )
        assert await state_of(conn, email_id) == (theirs, 'sending')
    await conn.execute("UPDATE outbound_emails SET status = 'sent' WHERE id = $1", email_id)
    assert await state_of(conn, email_id) == ('sent', 'sent')


async def test_a_row_of_the_old_program_stays_its_own_while_shared(conn):
    await create_legacy(conn, 'enum')
    email_id = await insert(conn, 'theirs', 'pending')
    await migrate(conn)
    for theirs in ('sending', 'failed', 'pending', 'sent', 'pending'):
        await conn.execute(
            'UPDATE outbound_emails SET status = $1::email_status WHERE id = $2', theirs, email_id
        )
        assert await state_of(conn, email_id) == ('external', theirs)


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_take_over_holds_what_was_due_too_long_ago(conn, worker_pool, status, words):
    await create_legacy(conn, status, words)
    pending, failed = word(words, 'pending'), word(words, 'failed')
    ids = {
        'recent': await insert(conn, 'recent', pending, created_at=-1),
        'scheduled': await insert(conn, 'scheduled', pending, next_retry_at=5, created_at=-900),
        'old': await insert(conn, 'old', pending, created_at=-900),
        'retry': await insert(
            conn, 'retry', failed, attempts=1, max_attempts=5, next_retry_at=-1, created_at=-9
        ),
        'old retry': await insert(
            conn, 'old-retry', failed, attempts=1, max_attempts=5, next_retry_at=-500
        ),
        'dead': await insert(conn, 'dead', failed, attempts=5, max_attempts=5, created_at=-900),
        'old expired': await insert(conn, 'old-expired', pending, created_at=-900, expires_at=-800),
        'sent': await insert(conn, 'sent', word(words, 'sent'), created_at=-900),
    }
    if any(w.lower() == 'sending' for w in words):
        ids['sending'] = await insert(
            conn, 'sending', word(words, 'sending'), attempts=1, max_attempts=5
        )
    before = {name: (await state_of_base(conn, email_id)) for name, email_id in ids.items()}
    states = await adopt(conn)
    ours = {name: (await state_of(conn, email_id))[0] for name, email_id in ids.items()}
    assert ours == {
        'recent': 'pending',
        'scheduled': 'pending',
        'old': 'held',
        'retry': 'failed',
        'old retry': 'held',
        'dead': 'failed',
        'old expired': 'pending',
        'sent': 'external',
    } | ({'sending': 'uncertain'} if 'sending' in ids else {})
    assert sum(states.values()) == len(ids) - 1
    assert states['held'] == 2
    # What the application sees of what is held has not changed.
    assert {
        name: await state_of_base(conn, ids[name]) for name in ('old', 'old retry', 'dead')
    } == {name: before[name] for name in ('old', 'old retry', 'dead')}
    claimed = {claim.email.id for claim in await claim_due(worker_pool, 10, **CLAIM)}
    assert claimed <= {ids['recent'], ids['retry']}
    assert ids['retry'] in claimed


async def state_of_base(conn: asyncpg.Connection, email_id: int) -> tuple[str, Any]:
    row = await conn.fetchrow(
        'SELECT status::text, next_retry_at FROM outbound_emails WHERE id = $1', email_id
    )
    return tuple(row)


async def test_the_forecast_says_what_the_take_over_does(conn):
    await create_legacy(conn, 'enum')
    for n in range(3):
        await insert(conn, f'old{n}', 'pending', created_at=-900 - n)
    await insert(conn, 'recent', 'pending', created_at=-1)
    await insert(conn, 'retry', 'failed', attempts=1, max_attempts=5, next_retry_at=-1)
    await insert(conn, 'later', 'failed', attempts=1, max_attempts=5, next_retry_at=1)
    await insert(conn, 'expired', 'pending', expires_at=-1)
    await insert(conn, 'sending', 'sending')
    await insert(conn, 'dead', 'failed', attempts=5, max_attempts=5)
    await insert(conn, 'sent', 'sent')
    for expanded in (False, True):
        if expanded:
            await migrate(conn)
        async with alone(conn, 'UTC'):
            planned = await plan(conn, zone='UTC', max_attempts=5)
            expected = await forecast(conn, await read_columns(conn), planned.form, DAY)
        assert {(e.status, e.fate): e.emails for e in expected} == {
            ('pending', 'sent now'): 1,
            ('failed', 'sent now'): 1,
            ('failed', 'sent later'): 1,
            ('pending', 'held'): 3,
            ('sending', 'uncertain'): 1,
            ('pending', 'expired'): 1,
            ('failed', 'ended'): 1,
            ('sent', 'ended'): 1,
        }
        (held,) = [e for e in expected if e.fate == 'held']
        assert held.first_id == 3


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_the_application_never_sees_a_word_it_does_not_know(
    conn, worker_pool, ctx, inbox, status, words
):
    """Every state that an e-mail can come into is shown by a word of the application's own."""
    await create_legacy(conn, status, words)
    for each in words:
        await insert(conn, f'known-{each}', each)
    await adopt(conn)
    email_id = await insert(conn, 'anna', word(words, 'pending'))
    for state in (
        'sending',
        'failed',
        'uncertain',
        'held',
        'expired',
        'cancelled',
        'pending',
        'sent',
    ):
        await conn.execute(
            'UPDATE mail_outbox SET status = $1, claim_token = gen_random_uuid(), claimed_by = $2, '
            'lease_expires_at = now() WHERE id = $3',
            state,
            'w',
            email_id,
        )
        ours, theirs = await state_of(conn, email_id)
        assert ours == state
        assert theirs in words


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_adopted_rows_are_sent_by_the_jobs(conn, worker_pool, ctx, inbox, status, words):
    await create_legacy(conn, status, words)
    await insert(conn, 'pending', word(words, 'pending'))
    await conn.execute(
        "INSERT INTO email_templates VALUES ('welcome', 'Welcome', 'Hi {{ name }}', 'Hello', NULL)"
    )
    template_id = await insert(
        conn,
        'template',
        word(words, 'pending'),
        template_id='welcome',
        template_data='{"name": "Anna"}',
    )
    await adopt(conn)
    adopted = {'runtime': another(ctx['runtime'], pool=worker_pool)}
    assert await send_email(adopted, template_id) == {
        'email_id': template_id,
        'status': 'sent',
        'attempts': 1,
    }
    assert inbox.accepted('template@example.com')[0]['subject'] == 'Hi Anna'
    assert (await process_pending_emails(adopted))['outcomes'] == {'sent': 1}
    assert await state_of(conn, template_id) == ('sent', word(words, 'sent'))
    row = await conn.fetchrow(
        'SELECT attempts, smtp_code, sent_at FROM outbound_emails WHERE id = $1', template_id
    )
    assert (row['attempts'], row['smtp_code']) == (1, 250)
    assert row['sent_at'] is not None
    user = '6f9619ff-8b86-4d01-b42d-00cf4fc964ff'
    queued = await queue_email(
        conn, recipient='new@example.com', template_id='welcome', template_data={'name': 'Bert'},
        user_id=user,
        organization_id=user, idempotency_key='k',
    )  # fmt: skip
    # In whatever zone the application's session is, the e-mail is due now.
    assert (await send_email(adopted, queued))['status'] == 'sent'
    assert inbox.accepted('new@example.com')[0]['subject'] == 'Hi Bert'


async def test_operators_sql_works_on_an_adopted_table(conn, worker_pool):
    await create_legacy(conn, 'enum', FEW_STATES)
    ids = [
        await insert(conn, 'dead', 'failed', attempts=5, max_attempts=5),
        await insert(conn, 'held', 'pending', created_at=-900),
    ]
    await adopt(conn)
    utc = await asyncpg.connect(**conn_arguments(conn), server_settings={'timezone': 'UTC'})
    await utc.execute(
        (
            "UPDATE outbound_emails SET status = 'pending', next_retry_at = NOW() WHERE id = "
            'ANY($1::int[])'
        ),
        ids,
    )
    await utc.close()
    assert [claim.email.id for claim in await claim_due(worker_pool, 10, **CLAIM)] == ids
    assert (
        len(
            await conn.fetch(
                "SELECT * FROM outbound_emails WHERE status = 'failed' AND attempts < max_attempts"
            )
        )
        == 0
    )


def conn_arguments(conn: asyncpg.Connection) -> dict[str, Any]:
    address, parameters = conn._addr, conn._params
    return {
        'host': address[0], 'port': address[1], 'user': parameters.user,
        'password': parameters.password,
        'database': parameters.database,
    }  # fmt: skip


async def test_narrow_columns_of_the_application_get_what_goes_in(conn, worker_pool, ctx, inbox):
    await create_legacy(conn, 'text')
    await conn.execute(
        'ALTER TABLE outbound_emails ALTER COLUMN smtp_response TYPE varchar(20), '
        'ALTER COLUMN smtp_code TYPE varchar(10)'
    )
    await adopt(conn)
    inbox.control.misbehave(
        'rcpt', 'refuse', code=550, text='5.1.1 ' + 'no such user ' * 20, times=1
    )
    email_id = await queue_email(conn, recipient='wordy@example.com', subject='s', body_text='t')
    adopted = {'runtime': another(ctx['runtime'], pool=worker_pool)}
    assert (await send_email(adopted, email_id))['status'] == 'failed'
    theirs = await conn.fetchrow(
        'SELECT smtp_response, smtp_code FROM outbound_emails WHERE id = $1', email_id
    )
    ours = await conn.fetchrow(
        'SELECT smtp_response, smtp_code, dead_reason FROM mail_outbox WHERE id = $1', email_id
    )
    assert tuple(ours)[1:] == (550, 'rejected')
    assert len(ours['smtp_response']) > 100
    assert tuple(theirs) == (ours['smtp_response'][:20], '550')


async def test_columns_of_the_application_with_our_names_stay_its_own(conn, worker_pool):
    await create_legacy(conn, 'text')
    await conn.execute(
        "ALTER TABLE outbound_emails ADD COLUMN priority text NOT NULL DEFAULT 'urgent', "
        'ADD COLUMN message_id varchar(10), ADD COLUMN last_error integer'
    )
    await insert(conn, 'a', 'pending')
    await adopt(conn)
    await give_due_time(worker_pool)
    (claim,) = await claim_due(worker_pool, 1, **CLAIM)
    row = await conn.fetchrow(
        'SELECT priority, message_id, last_error, mail_message_id FROM outbound_emails'
    )
    assert (row['priority'], row['message_id'], row['last_error']) == ('urgent', None, None)
    assert row['mail_message_id'] == claim.email.message_id


@pytest.mark.parametrize(
    'missing',
    [
        [
            'organization_id',
            'user_id',
            'template_id',
            'template_data',
            'expires_at',
            'sent_at',
            'email_type',
            'body_html',
        ],
        ['smtp_response', 'smtp_code', 'last_attempt_at', 'updated_at'],
        ['attempts', 'max_attempts', 'next_retry_at', 'created_at'],
    ],
)
async def test_columns_that_the_application_does_not_have_are_added(conn, worker_pool, missing):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'ALTER TABLE outbound_emails ' + ', '.join(f'DROP COLUMN {name}' for name in missing)
    )
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text) VALUES '
        "('a@example.com', 's', 't')"
    )
    await adopt(conn)
    await give_due_time(worker_pool)
    assert len(await claim_due(worker_pool, 1, **CLAIM)) == 1


async def test_triggers_and_keys_of_the_application_go_on(conn, worker_pool):
    await create_legacy(conn, 'enum')
    await conn.execute("""
        CREATE TABLE invoices (id serial PRIMARY KEY,
            email_id integer REFERENCES outbound_emails (id));
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.updated_at := timezone('utc', now()); RETURN NEW; END $$;
        CREATE TRIGGER touch BEFORE UPDATE ON outbound_emails FOR EACH ROW EXECUTE FUNCTION touch();
    """)
    email_id = await insert(conn, 'a', 'pending', updated_at=-1)
    await conn.execute('INSERT INTO invoices (email_id) VALUES ($1)', email_id)
    await adopt(conn)
    await give_due_time(worker_pool)
    assert len(await claim_due(worker_pool, 1, **CLAIM)) == 1
    assert await conn.fetchval(
        "SELECT updated_at > timezone('utc', now()) - interval '1 minute' FROM outbound_emails"
    )
    assert await conn.fetchval('SELECT email_id FROM invoices') == email_id


UNSUITABLE = {
    'no id': ('ALTER TABLE outbound_emails DROP COLUMN id', 'no column id'),
    'no recipient': ('ALTER TABLE outbound_emails DROP COLUMN recipient', 'no column recipient'),
    'no status': ('ALTER TABLE outbound_emails DROP COLUMN status', 'no column status'),
    'id not unique': (
        'ALTER TABLE outbound_emails DROP CONSTRAINT outbound_emails_pkey',
        'ADD PRIMARY KEY',
    ),
    'id is a uuid': (
        (
            'ALTER TABLE outbound_emails DROP COLUMN id; ALTER TABLE outbound_emails ADD '
            'COLUMN id uuid PRIMARY KEY'
        ),
        'id has the type uuid',
    ),
    'time as text': (
        'ALTER TABLE outbound_emails ALTER COLUMN next_retry_at TYPE text',
        'next_retry_at has the type',
    ),
    'time as number': (
        (
            'ALTER TABLE outbound_emails DROP COLUMN expires_at; ALTER TABLE outbound_emails '
            'ADD COLUMN expires_at bigint'
        ),
        'expires_at has the type bigint',
    ),
    'next_retry_at refuses NULL': (
        'ALTER TABLE outbound_emails ALTER COLUMN next_retry_at SET NOT NULL',
        'ALTER COLUMN next_retry_at DROP NOT NULL',
    ),
    'status as a number': (
        (
            'ALTER TABLE outbound_emails DROP COLUMN status; ALTER TABLE outbound_emails ADD '
            'COLUMN status integer'
        ),
        'status has the type integer',
    ),
    'row security': ('ALTER TABLE outbound_emails ENABLE ROW LEVEL SECURITY', 'row-level security'),
    'unknown words': (
        (
            "INSERT INTO outbound_emails (recipient, status) VALUES ('a@example.com', "
            "'archived'), ('b@b.de', 'archived')"
        ),
        'archived (2 rows)',
    ),
}


@pytest.mark.parametrize('what', UNSUITABLE)
async def test_a_table_that_cannot_serve_is_refused_before_anything_is_changed(conn, what):
    await create_legacy(conn, 'text')
    ddl, told = UNSUITABLE[what]
    await conn.execute(ddl)
    before = await shape(conn)
    with pytest.raises(NotAdoptableError) as refusal:
        await migrate(conn)
    assert told in str(refusal.value)
    assert await shape(conn) == before
    assert await conn.fetchval("SELECT to_regclass('_pogo_migration')") is None


TAKEN = {
    'a view mail_outbox': 'CREATE VIEW mail_outbox AS SELECT id FROM outbound_emails',
    'a table or view email_attempts': 'CREATE TABLE email_attempts (id int)',
    'a table or view cron_runs': 'CREATE TABLE cron_runs (id int)',
    'a function outbox_sync()': (
        "CREATE FUNCTION outbox_sync() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    ),
    'an index outbound_emails_due': 'CREATE INDEX outbound_emails_due ON outbound_emails (user_id)',
    'a column mail_status': 'ALTER TABLE outbound_emails ADD COLUMN mail_status text',
    'a column mail_headers': (
        'ALTER TABLE outbound_emails ADD COLUMN headers text, ADD COLUMN mail_headers text'
    ),
}


@pytest.mark.parametrize('what', TAKEN)
async def test_a_name_that_is_taken_is_told_before_anything_is_changed(conn, what):
    await create_legacy(conn, 'enum')
    await conn.execute(TAKEN[what])
    before = await shape(conn)
    with pytest.raises(NotAdoptableError) as refusal:
        await migrate(conn)
    (reason,) = refusal.value.reasons
    assert what.split()[-1] in reason
    assert 'rename it' in reason
    assert await shape(conn) == before
    assert await conn.fetchval("SELECT to_regclass('_pogo_migration')") is None


async def test_a_table_outbox_of_the_application_is_nobodys_business(conn):
    await create_legacy(conn, 'enum')
    await conn.execute('CREATE TABLE outbox (id bigserial PRIMARY KEY, payload json)')
    await adopt(conn)
    columns = await conn.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'outbox'"
    )
    assert len(columns) == 2


async def test_columns_of_the_application_called_like_ours_beside_theirs_are_not_taken_for_ours(
    conn, worker_pool
):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'ALTER TABLE outbound_emails ADD COLUMN mail_headers varchar(5), ADD COLUMN '
        'mail_message_id int'
    )
    await insert(conn, 'a', 'pending')
    await adopt(conn)
    await give_due_time(worker_pool)
    (claim,) = await claim_due(worker_pool, 1, **CLAIM)
    row = await conn.fetchrow('SELECT mail_message_id, message_id FROM outbound_emails')
    assert (row['mail_message_id'], row['message_id']) == (None, claim.email.message_id)


PASSING_CHECKS = (
    'CHECK (body_text IS NOT NULL OR body_html IS NOT NULL)',
    "CHECK (status <> 'sent' OR (sent_at IS NOT NULL AND smtp_response IS NOT NULL))",
    "CHECK (status <> 'sent' OR recipient IS NOT NULL)",
    'CHECK (attempts >= 0)',
)


@pytest.mark.parametrize('check', PASSING_CHECKS)
async def test_checks_that_our_writes_pass_are_no_obstacle(conn, worker_pool, ctx, inbox, check):
    await create_legacy(conn, 'enum')
    await conn.execute(f'ALTER TABLE outbound_emails ADD CONSTRAINT theirs {check}')
    await adopt(conn)
    email_id = await queue_email(conn, recipient='anna@example.com', subject='s', body_text='t')
    adopted = {'runtime': another(ctx['runtime'], pool=worker_pool)}
    assert (await send_email(adopted, email_id))['status'] == 'sent'


async def test_a_check_that_our_writes_do_not_pass_is_named(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'ALTER TABLE outbound_emails ADD COLUMN provider_id text, '
        "ADD CONSTRAINT has_provider CHECK (status <> 'sent' OR provider_id IS NOT NULL)"
    )
    with pytest.raises(NotAdoptableError, match=r'CHECK has_provider .* sent'):
        await migrate(conn)


async def test_a_column_of_a_domain_that_refuses_null_is_no_obstacle(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'CREATE DOMAIN nn AS int NOT NULL; ALTER TABLE outbound_emails ADD COLUMN tenant '
        'nn DEFAULT 1'
    )
    await adopt(conn)


async def test_an_operator_explains_a_word_in_the_applications_own_spelling(conn):
    await create_legacy(conn, 'enum', ('QUEUED', 'PENDING', 'SENT', 'FAILED'))
    email_id = await insert(conn, 'a', 'QUEUED')
    await adopt(conn, given={'QUEUED': 'pending'})
    assert (await state_of(conn, email_id))[0] == 'pending'


STANDING = {
    'a view': 'CREATE VIEW dashboard AS SELECT status FROM outbound_emails',
    'a generated column': (
        'ALTER TABLE outbound_emails ADD COLUMN is_sent boolean GENERATED ALWAYS AS '
        "(status = 'sent') STORED"
    ),
    'a function': (
        'CREATE FUNCTION waiting() RETURNS bigint LANGUAGE sql '
        "BEGIN ATOMIC SELECT count(*) FROM outbound_emails WHERE status = 'pending'; END"
    ),
    'a unique index': (
        'CREATE UNIQUE INDEX one_open ON outbound_emails (recipient, email_type) WHERE '
        "status IN ('pending', 'sending')"
    ),
    'a rule': 'CREATE RULE keep AS ON DELETE TO outbound_emails DO INSTEAD NOTHING',
    'a trigger with a condition': (
        'CREATE TRIGGER told AFTER UPDATE ON outbound_emails FOR EACH ROW WHEN (NEW.status = '
        "'sent') "
        'EXECUTE FUNCTION noop()'
    ),
}
NOOP = 'CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$'


@pytest.mark.parametrize('what', STANDING)
async def test_finishing_names_what_would_break_before_anything_is_changed(conn, what):
    await create_legacy(conn, 'enum')
    await conn.execute(NOOP)
    await conn.execute(STANDING[what])
    await adopt(conn)
    before = await shape(conn)
    with pytest.raises(WrongPhaseError, match=r'these stand on columns .*\n  - '):
        await plan_finish(conn, zone='UTC', max_attempts=5)
    assert await shape(conn) == before


async def test_finishing_makes_triggers_of_the_application_anew_and_lists_what_goes(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(NOOP)
    await conn.execute(
        'CREATE TRIGGER told AFTER UPDATE OF status, next_retry_at ON outbound_emails '
        'FOR EACH ROW EXECUTE FUNCTION noop()'
    )
    await conn.execute(
        "ALTER TABLE outbound_emails ADD CONSTRAINT sane CHECK (status <> 'sent' OR "
        'recipient IS NOT NULL)'
    )
    await adopt(conn)
    async with alone(conn, 'UTC'):
        planned = await plan_finish(conn, zone='UTC', max_attempts=5)
        told = '\n'.join(change.what for change in planned.changes)
        assert 'ix_outbound_emails_status' in told
        assert 'sane' in told
        await finish(conn, planned, silent)
    assert await conn.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname = 'told'") == 1
    assert await read_phase(conn) is AdoptionPhase.FINISHED


async def test_every_reason_is_told_at_once(conn):
    await create_legacy(conn, 'text')
    await conn.execute(
        'ALTER TABLE outbound_emails DROP COLUMN recipient, DROP CONSTRAINT outbound_emails_pkey, '
        'ALTER COLUMN next_retry_at TYPE text, ALTER COLUMN sent_at TYPE date'
    )
    with pytest.raises(NotAdoptableError) as refusal:
        await migrate(conn)
    assert len(refusal.value.reasons) == 4


async def test_a_view_and_a_partitioned_table_are_refused(conn):
    await create_legacy(conn, 'text')
    await conn.execute(
        'ALTER TABLE outbound_emails RENAME TO emails; CREATE VIEW outbound_emails AS '
        'SELECT * FROM emails'
    )
    with pytest.raises(NotAdoptableError, match='is a view'):
        await migrate(conn)
    await conn.execute(
        'DROP VIEW outbound_emails; CREATE TABLE outbound_emails (LIKE emails) PARTITION '
        'BY RANGE (created_at)'
    )
    with pytest.raises(NotAdoptableError, match='partitioned'):
        await migrate(conn)


async def test_a_role_that_does_not_own_the_table_is_told_which_does(conn, empty_database):
    await create_legacy(conn, 'text')
    await conn.execute(
        f'DROP ROLE IF EXISTS {empty_database.name}; CREATE ROLE {empty_database.name}'
    )
    try:
        await conn.execute(f'SET ROLE {empty_database.name}')
        with pytest.raises(NotAdoptableError, match='it belongs to'):
            await migrate(conn)
    finally:
        await conn.execute(f'RESET ROLE; DROP ROLE {empty_database.name}')


async def test_a_word_that_an_operator_explains_is_understood(conn):
    await create_legacy(conn, 'enum', ('queued', 'pending', 'sent', 'failed', 'returned'))
    queued = await insert(conn, 'a', 'queued')
    returned = await insert(conn, 'b', 'returned')
    with pytest.raises(NotAdoptableError, match=r'queued \(1 rows\), returned \(1 rows\)'):
        await migrate(conn)
    await adopt(conn, given={'queued': 'pending', 'returned': 'failed'})
    assert await state_of(conn, queued) == ('pending', 'queued')
    assert await state_of(conn, returned) == ('failed', 'returned')


async def test_what_an_application_calls_bounced_stays_its_own(conn):
    await create_legacy(conn, 'enum', ('pending', 'sent', 'failed', 'bounced'))
    theirs = await insert(conn, 'a', 'bounced')
    await adopt(conn)
    assert await state_of(conn, theirs) == ('external', 'bounced')


async def test_an_e_mail_that_bounces_shows_the_word_of_the_application_for_sent(conn):
    await create_legacy(conn, 'enum')
    ours = await insert(conn, 'a', 'pending')
    await adopt(conn)
    await conn.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now() WHERE id = $1", ours
    )
    await conn.execute("UPDATE mail_outbox SET status = 'bounced' WHERE id = $1", ours)
    assert await state_of(conn, ours) == ('bounced', 'sent')
    await conn.execute('UPDATE outbound_emails SET updated_at = now() WHERE id = $1', ours)
    assert await state_of(conn, ours) == ('bounced', 'sent')


async def test_a_word_is_understood_as_its_application_spells_it(conn):
    await create_legacy(conn, 'enum', ('PENDING', 'Queued', 'SENT', 'FAILED'))
    queued = await insert(conn, 'a', 'Queued')
    await adopt(conn, given={'Queued': 'pending'})
    assert await state_of(conn, queued) == ('pending', 'Queued')


@pytest.mark.parametrize(
    'check',
    [
        'body_text IS NOT NULL OR body_html IS NOT NULL',
        'octet_length(recipient) > 3',
        "status::text <> 'sent' OR (sent_at IS NOT NULL AND smtp_response IS NOT NULL)",
        "status::text NOT IN ('sent', 'failed') OR length(subject) > 0",
    ],
)
@pytest.mark.parametrize('status', ['text', 'enum'])
async def test_checks_of_the_application_on_other_columns_hinder_nothing(conn, status, check):
    await create_legacy(conn, status)
    await conn.execute(f"""
        CREATE DOMAIN never_null AS integer NOT NULL;
        ALTER TABLE outbound_emails ADD CHECK ({check}), ADD COLUMN "Own one" never_null DEFAULT 1
    """)
    email_id = await insert(conn, 'a', 'pending')
    await adopt(conn)
    assert await state_of(conn, email_id) == ('pending', 'pending')


async def test_a_check_that_wants_what_only_the_application_writes_is_named(conn):
    await create_legacy(conn, 'text')
    await conn.execute("""
        ALTER TABLE outbound_emails ADD COLUMN provider_id text,
            ADD CONSTRAINT has_provider CHECK (status <> 'sent' OR provider_id IS NOT NULL)
    """)
    with pytest.raises(NotAdoptableError, match=r'has_provider .*provider_id'):
        await migrate(conn)


@pytest.mark.parametrize('ended', ['sent', 'failed', 'uncertain', 'cancelled', 'expired', 'held'])
@pytest.mark.parametrize('taken_over', [False, True])
async def test_an_old_row_saved_whole_over_what_has_ended_sends_nothing_again(
    conn, worker_pool, ended, taken_over
):
    await create_legacy(conn, 'enum', UPPER)
    await (adopt if taken_over else migrate)(conn)
    email_id = await queue_email(conn, recipient='anna@example.com', subject='s', body_text='t')
    await conn.execute(
        'UPDATE mail_outbox SET status = $2, next_retry_at = NULL, sent_at = CASE WHEN $2 = '
        "'sent' THEN now() END "
        'WHERE id = $1',
        email_id,
        ended,
    )
    before = await state_of(conn, email_id)
    await conn.execute(
        "UPDATE outbound_emails SET recipient = recipient, status = 'SENDING', next_retry_at = "
        'NULL, attempts = 0 '
        'WHERE id = $1',
        email_id,
    )
    assert await state_of(conn, email_id) == before
    assert await claim_due(worker_pool, 10, **CLAIM) == []


async def test_queue_email_dates_on_the_clock_of_the_table_in_a_session_of_any_zone(conn):
    await create_legacy(conn, 'text')
    await conn.execute('ALTER TABLE outbound_emails ALTER COLUMN updated_at SET DEFAULT now()')
    await adopt(conn, zone='Europe/Berlin')
    await conn.execute("SET TimeZone = 'Asia/Tokyo'")
    email_id = await queue_email(conn, recipient='anna@example.com', subject='s', body_text='t')
    ages = await conn.fetchrow(
        "SELECT now() - created_at AT TIME ZONE 'Europe/Berlin' AS made, "
        "now() - updated_at AT TIME ZONE 'Europe/Berlin' AS updated FROM outbound_emails WHERE id "
        '= $1',
        email_id,
    )
    assert all(timedelta() <= age < timedelta(minutes=10) for age in ages)


async def test_time_limits_of_the_role_do_not_stop_a_migration(conn, empty_database):
    limits = ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')
    for limit in limits:
        await conn.execute(f"ALTER DATABASE {empty_database.name} SET {limit} = '1ms'")
    direct = await connect_directly(empty_database.dsn, 20)
    try:
        assert [await direct.fetchval('SELECT current_setting($1)', limit) for limit in limits] == [
            '0'
        ] * 3
    finally:
        await direct.close()


async def test_doctor_misses_no_index_of_ours_beside_a_service_health_of_the_application(
    conn, worker_pool
):
    await create_legacy(conn, 'text')
    await adopt(conn)
    assert [*judge_indexes(await read_indexes(worker_pool))] == []
    await conn.execute('DROP INDEX mail_service_health_checked')
    [finding] = judge_indexes(await read_indexes(worker_pool))
    assert 'service_health_checked' in finding.what


async def test_triggers_that_look_at_status_are_named(conn):
    await create_legacy(conn, 'enum')
    await conn.execute("""
        CREATE FUNCTION looks() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.status = 'sent' THEN NEW.subject := 'x'; END IF; RETURN NEW; END $$;
        CREATE FUNCTION dates() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
        CREATE TRIGGER before_all BEFORE UPDATE
            ON outbound_emails FOR EACH ROW EXECUTE FUNCTION looks();
        CREATE TRIGGER of_status AFTER UPDATE OF status
            ON outbound_emails FOR EACH ROW EXECUTE FUNCTION dates();
        CREATE TRIGGER stamps BEFORE UPDATE
            ON outbound_emails FOR EACH ROW EXECUTE FUNCTION dates();
        CREATE TRIGGER sees AFTER UPDATE ON outbound_emails FOR EACH ROW
            WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION looks();
    """)
    planned = await plan(conn, zone='UTC', max_attempts=None)
    [note] = [note for note in planned.notes if 'triggers of yours' in note]
    assert 'before_all, of_status.' in note
    assert planned.form.remedy == Remedy(afterwards=True)


async def test_an_unknown_word_that_comes_later_is_left_alone(conn, worker_pool):
    await create_legacy(conn, 'text')
    await adopt(conn)
    email_id = await insert(conn, 'draft', 'draft')
    assert await state_of(conn, email_id) == ('external', 'draft')
    assert await claim_due(worker_pool, 10, **CLAIM) == []


class Interrupted(Exception):  # noqa: N818 - what happens, not what is wrong
    pass


@pytest.mark.parametrize('after', ['added', 'due', 'leased', 'created'])
async def test_an_interrupted_expansion_goes_on(conn, worker_pool, after):
    await create_legacy(conn, 'enum')
    await insert(conn, 'a', 'pending')

    def interrupt(text: str, *_: int | None) -> None:
        if after in text:
            raise Interrupted

    with pytest.raises(Interrupted):
        await migrate(conn, progress=interrupt)
    assert await read_phase(conn) is AdoptionPhase.EXPANDING
    with pytest.raises(SchemaMismatchError, match=r'python -m db\.migrate'):
        await check_schema(worker_pool)
    await adopt(conn)
    await check_schema(worker_pool)
    assert (
        len(await conn.fetch("SELECT FROM pg_indexes WHERE indexname LIKE 'outbound_emails_%'"))
        == len(INDEXES) + 1
    )


async def test_an_index_that_was_left_half_built_is_built_anew(conn, empty_database):
    await create_legacy(conn, 'enum')

    def interrupt(text: str, *_: int | None) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        await migrate(conn, progress=interrupt)
    await conn.execute("UPDATE outbox_adoption SET added_indexes = '{outbound_emails_created}'")
    other = await asyncpg.connect(empty_database.dsn)
    holding = other.transaction()
    await holding.start()
    await other.execute("INSERT INTO outbound_emails (recipient) VALUES ('slow@example.com')")
    await conn.execute("SET statement_timeout = '300ms'")  # building waits for the transaction
    with pytest.raises(asyncpg.PostgresError):
        await conn.execute(
            'CREATE INDEX CONCURRENTLY outbound_emails_created ON outbound_emails USING '
            'brin (created_at)'
        )
    await conn.execute('RESET statement_timeout')
    assert await conn.fetchval(
        "SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 'outbound_emails_created'::regclass"
    )
    await holding.rollback()
    await other.close()
    await migrate(conn)
    assert await conn.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'outbound_emails_created'::regclass"
    )


async def test_a_table_that_somebody_holds_is_told_and_nobody_waits_behind_the_try(
    conn, empty_database
):
    await create_legacy(conn, 'enum')
    other = await asyncpg.connect(
        empty_database.dsn, server_settings={'application_name': 'a report'}
    )
    holding = other.transaction()
    await holding.start()
    await other.fetch('SELECT * FROM outbound_emails')
    told: list[str] = []

    async def change() -> None:
        await conn.execute('ALTER TABLE outbound_emails ADD COLUMN x int')

    with pytest.raises(TableBusyError, match='a report'):
        await briefly(conn, change, told.append, give_up_s=0)
    await holding.rollback()
    await briefly(conn, change, told.append, give_up_s=0)
    await other.close()


@pytest.mark.parametrize(('status', 'words'), FORMS)
@pytest.mark.parametrize('taken_over', [False, True])
async def test_the_way_back_leaves_the_table_as_it_was(conn, status, words, taken_over):
    await create_legacy(conn, status, words)
    for n, each in enumerate(words):
        await insert(
            conn, f'row{n}', each, attempts=1, max_attempts=5, next_retry_at=-1, created_at=-1
        )
    await insert(conn, 'old', word(words, 'pending'), attempts=0, max_attempts=5, created_at=-900)
    shape_before = await shape(conn)
    rows = 'SELECT * FROM outbound_emails WHERE id <> ALL($1::int[]) ORDER BY id'
    # What had ended has no attempt left to make.
    ended = [w for w in words if w in ('expired', 'cancelled')] if taken_over else []
    if taken_over:  # its time of the next attempt is gone: nobody knows whether it was sent
        ended += [w for w in words if w.lower() == 'sending']
    touched = [
        r['id']
        for r in await conn.fetch(
            'SELECT id FROM outbound_emails WHERE status::text = ANY($1)', ended
        )
    ]
    before = await conn.fetch(rows, touched)
    await (adopt if taken_over else migrate)(conn)
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        await undo(conn, form, silent)
    assert await shape(conn) == shape_before
    assert await conn.fetch(rows, touched) == before
    assert await read_phase(conn) is None


async def test_what_was_queued_here_is_sent_by_the_old_program_after_the_way_back(conn):
    await create_legacy(conn, 'enum', FEW_STATES)
    await migrate(conn)
    ids = [
        await queue_email(conn, recipient=f'{n}@example.com', subject='s', body_text='t')
        for n in range(4)
    ]
    await conn.execute(
        "UPDATE mail_outbox SET status = 'sent', sent_at = now() WHERE id = $1", ids[1]
    )
    await conn.execute(
        (
            "UPDATE mail_outbox SET status = 'failed', attempts = 1, next_retry_at = NULL "
            'WHERE id = $1'
        ),
        ids[2],
    )
    await conn.execute(
        (
            "UPDATE mail_outbox SET status = 'uncertain', attempts = 1, next_retry_at = NULL "
            'WHERE id = $1'
        ),
        ids[3],
    )
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        assert await undo(conn, form, silent) == {'pending': 1, 'failed': 1, 'uncertain': 1}
    swept = await conn.fetch(
        "SELECT id FROM outbound_emails WHERE status = 'pending' OR (status = 'failed' "
        'AND attempts < max_attempts)'
    )
    assert [row['id'] for row in swept] == ids[:1]
    await adopt(conn)  # and forth again


async def test_the_way_back_waits_for_workers_to_stop(conn, worker_pool):
    await create_legacy(conn, 'enum')
    await insert(conn, 'a', 'pending', created_at=-1)
    await adopt(conn)
    await give_due_time(worker_pool)
    assert await claim_due(worker_pool, 1, **CLAIM)
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        with pytest.raises(WrongPhaseError, match='stop them'):
            await undo(conn, form, silent)


@pytest.mark.parametrize(('status', 'words'), FORMS)
async def test_a_finished_table_has_the_form_of_a_new_one(conn, worker_pool, pool, status, words):
    await create_legacy(conn, status, words)
    for n, each in enumerate(words):
        await insert(conn, f'row{n}', each, attempts=7, max_attempts=5, updated_at=None)
    await insert(
        conn, 'null', word(words, 'sent'), attempts=None, max_attempts=None, created_at=None
    )
    await adopt(conn)
    async with alone(conn, 'UTC'):
        await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), silent)
    async with pool.acquire() as new:
        wanted = {(kind, name): what for kind, name, what in await shape(new)}
    found = {(kind, name): what for kind, name, what in await shape(conn)}
    theirs = {
        'template_id',
        'template_data',
        'user_id',
        'organization_id',
        'id',
    }  # of the application's types
    differing = {key for key in wanted if found.get(key) != wanted[key]}
    assert differing <= {('column', name) for name in theirs}
    assert await read_phase(conn) is AdoptionPhase.FINISHED
    assert {row['status'] for row in await conn.fetch('SELECT status FROM outbound_emails')} <= {
        'pending', 'sent', 'failed', 'uncertain', 'expired', 'cancelled', 'held',
    }  # fmt: skip
    await check_schema(worker_pool)
    await migrate(conn)
    email_id = await queue_email(conn, recipient='new@example.com', subject='s', body_text='t')
    assert email_id in {claim.email.id for claim in await claim_due(worker_pool, 50, **CLAIM)}


async def test_finishing_reads_naive_times_in_the_zone_that_they_mean(conn):
    await create_legacy(conn, 'text')
    await conn.execute(
        'INSERT INTO outbound_emails (recipient, status, created_at, next_retry_at) '
        "VALUES ('a@example.com', 'sent', '2026-07-01 12:00', NULL)"
    )
    await adopt(conn, zone='America/New_York')
    async with alone(conn, 'America/New_York'):
        await finish(conn, await plan_finish(conn, zone='America/New_York', max_attempts=5), silent)
    assert (
        str(await conn.fetchval("SELECT created_at AT TIME ZONE 'UTC' FROM outbound_emails"))
        == '2026-07-01 16:00:00'
    )


async def test_an_interrupted_finish_goes_on(conn):
    await create_legacy(conn, 'enum')
    await insert(conn, 'a', 'sent', updated_at=None)
    await adopt(conn)

    def interrupt(text: str, *_: int | None) -> None:
        if 'new form' in text:
            raise Interrupted

    async with alone(conn, 'UTC'):
        with pytest.raises(Interrupted):
            await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), interrupt)
        await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), silent)
    assert await read_phase(conn) is AdoptionPhase.FINISHED
    assert not await conn.fetch(
        "SELECT FROM pg_constraint WHERE conname LIKE 'outbound_emails_%' AND NOT convalidated"
    )


async def test_finishing_keeps_a_dead_reason_of_somebody_elses_words_as_an_error(conn):
    await create_legacy(conn, 'enum')
    await conn.execute('ALTER TABLE outbound_emails ADD COLUMN dead_reason text')
    await insert(conn, 'a', 'failed', dead_reason='of the application')
    await adopt(conn)
    await conn.execute("UPDATE mail_outbox SET dead_reason = 'spam'")
    async with alone(conn, 'UTC'):
        await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), silent)
    row = await conn.fetchrow('SELECT dead_reason, last_error FROM mail_outbox')
    assert tuple(row) == ('given up', 'spam')
    assert await conn.fetchval('SELECT dead_reason FROM outbound_emails') == 'of the application'
    await conn.execute("DELETE FROM _pogo_migration WHERE migration_id ~ '^000[78]'")
    await conn.execute(
        'ALTER TABLE outbound_emails DROP CONSTRAINT outbound_emails_dead_reason_known'
    )
    await migrate(conn)  # an update of a table that was finished before there was the list
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE mail_outbox SET dead_reason = 'spam'")


async def test_finishing_names_views_of_the_application_that_would_break(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'CREATE VIEW dashboard AS SELECT status, count(*) FROM outbound_emails GROUP BY 1'
    )
    await adopt(conn)
    with pytest.raises(WrongPhaseError, match='dashboard'):
        await plan_finish(conn, zone='UTC', max_attempts=5)


async def test_finishing_comes_after_the_take_over(conn):
    await create_legacy(conn, 'enum')
    await migrate(conn)
    with pytest.raises(WrongPhaseError, match='import-celery'):
        await plan_finish(conn, zone='UTC', max_attempts=5)


async def test_a_worker_goes_on_while_its_table_is_finished(conn, worker_pool):
    await create_legacy(conn, 'enum')
    await adopt(conn)
    for n in range(3):
        await queue_email(conn, recipient=f'{n}@example.com', subject='s', body_text='t')
    assert len(await claim_due(worker_pool, 1, **CLAIM)) == 1
    async with alone(conn, 'UTC'):
        await finish(conn, await plan_finish(conn, zone='UTC', max_attempts=5), silent)
    assert len(await claim_due(worker_pool, 1, **CLAIM)) == 1


async def test_other_tables_of_the_application_are_not_touched(conn):
    await create_legacy(conn, 'enum')
    await conn.execute(
        'ALTER TABLE service_health ADD COLUMN region text NOT NULL, '
        "ADD CONSTRAINT known CHECK (status IN ('healthy', 'unhealthy')); "
        'DROP TABLE sessions; CREATE TABLE sessions (sid text PRIMARY KEY, data bytea)'
    )
    columns = (
        'SELECT table_name, column_name, data_type, is_nullable, column_default FROM '
        'information_schema.columns '
        "WHERE table_name IN ('sessions', 'refresh_tokens', 'service_health') ORDER BY 1, 2"
    )
    constraints = (
        "SELECT conname FROM pg_constraint WHERE conrelid = 'service_health'::regclass ORDER BY 1"
    )
    before = await conn.fetch(columns), await conn.fetch(constraints)
    await adopt(conn)
    assert (await conn.fetch(columns), await conn.fetch(constraints)) == before
    origins = dict(await conn.fetch('SELECT name, made_here FROM table_origins'))
    assert origins == {'sessions': False, 'refresh_tokens': False, 'service_health': False}


async def test_row_written_without_triggers_is_read_by_the_next_update_and_by_the_take_over(
    conn,
):
    await create_legacy(conn, 'enum')
    await migrate(conn)
    await conn.execute('SET session_replication_role = replica')
    before = await insert(conn, 'before', 'pending')
    await conn.execute('RESET session_replication_role')
    await adopt(conn)
    assert await state_of(conn, before) == ('pending', 'pending')
    await conn.execute('SET session_replication_role = replica')
    after = await insert(conn, 'after', 'pending')
    await conn.execute('RESET session_replication_role')
    await conn.execute('UPDATE outbound_emails SET status = status WHERE mail_status IS NULL')
    assert await state_of(conn, after) == ('pending', 'pending')


async def test_a_table_in_a_schema_that_nobody_looks_into_is_named(conn):
    await conn.execute('CREATE SCHEMA shop; SET search_path = shop')
    await create_legacy(conn, 'enum')
    await conn.execute('RESET search_path')
    with pytest.raises(NotAdoptableError, match='SET search_path = shop, public'):
        await migrate(conn)
    assert await conn.fetchval("SELECT to_regclass('public.outbound_emails')") is None


async def test_a_view_over_our_columns_is_named_before_the_way_back_changes_anything(conn):
    await create_legacy(conn, 'enum')
    await adopt(conn)
    await conn.execute('CREATE VIEW all_of_it AS SELECT * FROM outbound_emails')
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        with pytest.raises(WrongPhaseError, match='all_of_it'):
            await undo(conn, form, silent)
    assert await read_phase(conn) is AdoptionPhase.TAKEN_OVER


async def test_two_expansions_at_once_are_one(conn, empty_database, worker_pool):
    await create_legacy(conn, 'enum')
    other = await asyncpg.connect(empty_database.dsn)
    await asyncio.gather(migrate(conn), migrate(other))
    await other.close()
    await check_schema(worker_pool)


async def test_what_another_program_sends_without_end_is_taken_from_it_after_an_hour(
    conn, worker_pool
):
    await create_legacy(conn, 'enum')
    await adopt(conn)
    email_id = await insert(conn, 'a', 'pending')
    await conn.execute("UPDATE outbound_emails SET status = 'sending' WHERE id = $1", email_id)
    row = await conn.fetchrow(
        'SELECT status, claimed_by, lease_expires_at - now() AS left FROM mail_outbox'
    )
    assert (row['status'], row['claimed_by']) == ('sending', 'another program')
    assert timedelta(minutes=59) < row['left'] <= timedelta(hours=1)


async def test_take_over_that_is_interrupted_between_stretches_goes_on(conn, monkeypatch):
    monkeypatch.setattr('db.adoption.takeover.BATCH', 2)
    await create_legacy(conn, 'enum')
    for name in 'abcde':
        await insert(conn, name, 'pending')
    planned = await plan(conn, zone='UTC', max_attempts=5)
    await migrate(conn)
    told = []

    def interrupt(text: str, done: int | None = None, _total: int | None = None) -> None:
        told.append((text, done))
        if done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        await take_over(conn, planned.form, hold_after=timedelta(days=1), progress=interrupt)
    assert told == [('took over 2 e-mails', 2), ('took over 4 e-mails', 4)]
    assert await read_phase(conn) is AdoptionPhase.SHARED
    states = await take_over(conn, planned.form, hold_after=timedelta(days=1), progress=silent)
    assert states == {'pending': 1}
