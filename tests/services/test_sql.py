"""Every statement fits the migrated schema, and the enums of the program those of the database."""

import importlib
import pkgutil
import re
from typing import Any

import asyncpg
import pytest

import db
from mail.outcome import Outcome, Status


def statements() -> dict[str, str]:
    """Find every *_SQL constant of the package db."""
    found = {}
    for info in pkgutil.walk_packages(db.__path__, 'db.'):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.endswith('_SQL') and isinstance(value, str):
                found[f'{info.name}.{name}'] = value
    return found


async def test_every_statement_prepares_against_the_migrated_schema(pool):
    found = statements()
    assert {'db.claims.CLAIM_SQL', 'db.claims.RECORD_SQL', 'db.leases.RESCUE_SQL', 'db.outbox.QUEUE_SQL'} <= set(found)
    failures = {}
    async with pool.acquire() as conn:
        for name, sql in found.items():
            try:
                await conn.prepare(sql)
            except asyncpg.PostgresError as error:
                failures[name] = str(error)
    assert failures == {}


async def test_claim_statements_use_the_partial_indexes(pool):
    # An empty table is best read in full, so that way is closed: what is left must be an index of the design.
    await pool.execute(
        "INSERT INTO outbound_emails (recipient, status, sent_at) SELECT 'a@example.com', 'sent', now() "
        'FROM generate_series(1, 5000)'
    )
    await pool.execute('ANALYZE outbound_emails')
    arguments = {
        'db.claims.CLAIM_DUE_SQL': ("10, '00000000-0000-0000-0000-000000000000', 'w', 30, 'example.com'", 'due'),
        'db.claims.GIVE_DUE_TIME_SQL': ('', 'unscheduled'),
        'db.leases.RESCUE_SQL': ("'{}', 3, 10", 'leased'),
        'db.transitions.EXPIRABLE_SQL': ('10', 'due'),
    }
    async with pool.acquire() as conn, conn.transaction():
        for name, (values, index) in arguments.items():
            await conn.execute(f'PREPARE statement AS {statements()[name]}')
            call = f'EXECUTE statement({values})' if values else 'EXECUTE statement'
            plan = '\n'.join(row[0] for row in await conn.fetch(f'EXPLAIN {call}'))
            await conn.execute('DEALLOCATE statement')
            assert f'outbound_emails_{index}' in plan, f'{name}:\n{plan}'
            assert 'Seq Scan on outbound_emails' not in plan, f'{name}:\n{plan}'


@pytest.mark.parametrize(
    ('constraint', 'enum'), [('outbound_emails_status_known', Status), ('email_attempts_outcome_known', Outcome)]
)
async def test_enum_has_the_values_of_its_check_constraint(pool, constraint: str, enum: Any):
    definition = await pool.fetchval(
        'SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1', constraint
    )
    assert set(re.findall(r"'([^']+)'", definition)) == {member.value for member in enum}
