"""Every statement fits the migrated schema, and the enums of the program those of the database."""

import importlib
import pkgutil
import re
from typing import Any

import asyncpg
import pytest

import db
import mail_outbox
from db.pools import BY_INDEX
from db.switches import SwitchKind
from mail.outcome import Outcome
from mail_outbox.states import DeadReason, Status
from tests.services.adopted import FEW_STATES, STATES, adopt, create_legacy


def statements() -> dict[str, str]:
    """Find every *_SQL constant of the rooms that ask PostgreSQL."""
    found = {}
    for room in (db, mail_outbox):
        for info in pkgutil.walk_packages(room.__path__, f'{room.__name__}.'):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if name.endswith('_SQL') and isinstance(value, str):
                    found[f'{info.name}.{name}'] = value
    return found


ADOPTED_ONLY = ('SHOW_SQL', 'FILL_SQL')  # these name columns that only an adopted table has
FINISHED_ONLY = ('LATE_SQL',)  # and this one is for the moment after them


async def test_every_statement_prepares_against_the_migrated_schema(pool):
    found = {name: sql for name, sql in statements().items() if not name.endswith(ADOPTED_ONLY)}
    assert {
        'db.claims.CLAIM_SQL',
        'db.claim_request.CLAIM_THESE_SQL',
        'db.leases.RESCUE_IN_CONTACT_SQL',
        'db.leases.RESCUE_THESE_SQL',
        'db.results.RECORD_SQL',
        'db.results.RECORD_AND_DROP_SQL',
        'db.leases.RESCUE_SQL',
        'mail_outbox.queueing.QUEUE_SQL',
    } <= set(found)
    failures = {}
    async with pool.acquire() as conn:
        for name, sql in found.items():
            try:
                await conn.prepare(sql)
            except asyncpg.PostgresError as error:
                failures[name] = str(error)
    assert failures == {}


@pytest.mark.parametrize(
    ('status', 'words'), [('varchar(20)', STATES), ('enum', STATES), ('check', FEW_STATES)]
)
async def test_every_statement_prepares_against_an_adopted_table(empty_database, status, words):
    """Native enum, naive times, varchar, json, uuid: each statement has one text for all."""
    conn = await asyncpg.connect(empty_database.dsn)
    try:
        await create_legacy(conn, status, words)
        await adopt(conn)
        failures = {}
        for name, sql in statements().items():
            if name.endswith(FINISHED_ONLY):
                continue
            try:
                await conn.prepare(sql)
            except asyncpg.PostgresError as error:
                failures[name] = str(error)
        assert failures == {}
    finally:
        await conn.close()


CLAIM = "'00000000-0000-0000-0000-000000000000', 'w', 30, 'example.com', '{}', '{}'"
RESULT = (
    """'{"1": {"claim_token": "00000000-0000-0000-0000-000000000000", "status": "sent", """
    """"counts": true, """
    """"outcome": "accepted", "phase": "replied", "relay": "primary", "smtp_code": 250, """
    """"duration_s": 1.5}}', 'w', """
    """'{1}'"""
)
HOT_STATEMENTS = {  # arguments, the index
    'db.claims.CLAIM_SQL': (f"'{{1,2,3}}', {CLAIM}", 'pkey'),
    'db.claims.CLAIM_DUE_SQL': (f'10, {CLAIM}', 'due'),
    'db.claims.CLAIM_SUSPECTS_SQL': (f'10, {CLAIM}, 1', 'suspect'),
    'db.due.GIVE_DUE_TIME_SQL': ("10, '{}'", 'unscheduled'),
    'db.results.RECORD_SQL': (RESULT, 'pkey'),
    'db.results.RECORD_AND_DROP_SQL': (RESULT, 'pkey'),
    'db.results.DROP_CONTENT_SQL': ("'{1}'", 'pkey'),
    'db.leases.RENEW_SQL': ("'{1}', '{00000000-0000-0000-0000-000000000000}', 30", 'pkey'),
    'db.leases.RESCUE_SQL': ("'{}', 3, 10, '{}'", 'leased'),
    'db.leases.RESCUE_IN_CONTACT_SQL': ("'{}', 3, 10, '{}', now(), 60, now()", 'leased'),
    'db.transitions.EXPIRE_SQL': ("'{1,2,3}'", 'pkey'),
    # All that waits for its time, in either index.
    'db.transitions.EXPIRABLE_SQL': ('10', '(due|tenants)'),
    'db.due.NEXT_DUE_SQL': ('300', 'due'),
    'db.retention.REMOVE_SQL': ("90, 0, 10, '{}'", 'pkey'),
    'db.transitions.STATE_SQL': ("'{1,2,3}'", 'pkey'),
    'db.due.PRIORITIES_SQL': ("'{1,2,3}'", 'pkey'),
    'db.fairness.WAITING_SQL': ("''", 'tenants'),
    'db.fairness.SHARES_SQL': ("10, '{}', '{}', '{-,7}', 1, 1", 'tenants'),
    'db.claims.URGENT_SQL': ("10, '{}', '{}', '{}'", 'due'),
}
FILL_SQL = """
INSERT INTO outbound_emails (recipient, status, sent_at, next_retry_at)
SELECT 'a@example.com', CASE WHEN n <= $1 THEN 'sent' ELSE 'pending' END, now(), CASE WHEN n > $1
    THEN now() END
FROM generate_series(1, $1::int + $2::int) AS n
"""


@pytest.mark.parametrize(('sent', 'due'), [(0, 1), (1000, 300), (5000, 0), (0, 5000)])
async def test_hot_statements_go_by_their_index_whatever_the_statistics_say(
    database, sent: int, due: int
):
    conn = await asyncpg.connect(database.dsn, server_settings=BY_INDEX)
    try:
        await conn.execute('ALTER TABLE outbound_emails SET (autovacuum_enabled = off)')
        await conn.execute(FILL_SQL, sent, due)
        await conn.execute('ANALYZE outbound_emails')
        for mode in ('force_generic_plan', 'force_custom_plan'):
            await conn.execute(f'SET plan_cache_mode = {mode}')
            for name, (values, index) in HOT_STATEMENTS.items():
                await conn.execute(f'PREPARE statement AS {statements()[name]}')
                rows = await conn.fetch(f'EXPLAIN EXECUTE statement({values})')
                await conn.execute('DEALLOCATE statement')
                plan = '\n'.join(row[0] for row in rows)
                assert re.search(f'outbound_emails_{index}', plan), f'{name}, {mode}:\n{plan}'
                for much in (
                    'Seq Scan on outbound_emails',
                    'Sort Key',
                    'Hash Join',
                    'Semi Join',
                    'Merge Join',
                ):
                    assert much not in plan, f'{name}, {mode}:\n{plan}'
    finally:
        await conn.close()


async def test_claim_looks_at_no_mail_that_is_scheduled_for_later(pool, database):
    await pool.execute(
        "INSERT INTO outbound_emails (recipient, next_retry_at) SELECT 'a@example.com', now() + "
        "interval '1 hour' "
        'FROM generate_series(1, 2000)'
    )
    conn = await asyncpg.connect(database.dsn, server_settings=BY_INDEX)  # as a worker does
    try:
        await conn.execute(f'PREPARE statement AS {statements()["db.claims.CLAIM_DUE_SQL"]}')
        plan = await conn.fetchval(f'EXPLAIN (ANALYZE, FORMAT json) EXECUTE statement(10, {CLAIM})')
    finally:
        await conn.close()
    assert set(re.findall(r'"Rows Removed by Filter": (\d+)', plan)) == {'0'}


@pytest.mark.parametrize(
    ('constraint', 'enum'),
    [
        ('outbound_emails_status_known', Status),
        ('outbound_emails_dead_reason_known', DeadReason),
        ('email_attempts_outcome_known', Outcome),
        ('mail_switches_kind_known', SwitchKind),
    ],
)
async def test_enum_has_the_values_of_its_check_constraint(pool, constraint: str, enum: Any):
    definition = await pool.fetchval(
        'SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1', constraint
    )
    assert set(re.findall(r"'([^']+)'", definition)) == {member.value for member in enum}
