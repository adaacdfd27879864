"""What operators read stands a row that holds anything.

Its time is told as PostgreSQL writes it, and no traceback.
"""

import json
from typing import Any

import asyncpg
import httpx
import pytest

from reporting.servers import ServerAddresses
from reporting.wording import as_json
from tests.services.adopted import adopt, create_legacy
from tests.services.api_desk import api_for
from tests.services.ops_desk import insert, rendered, run
from tests.services.test_rows_that_break import ODD_VALUES
from web.application import make_application
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

TIMES = ('infinity', '-infinity', '20260-03-01', '4000-01-01 BC', '294276-12-31 23:59:59')
COLUMNS = (
    'next_retry_at',
    'expires_at',
    'created_at',
    'updated_at',
    'last_attempt_at',
    'message_date',
    'claimed_at',
)
STATES: dict[str, dict[str, Any]] = {
    'pending': {},
    'failed': {'attempts': 5, 'smtp_code': 550},
    'uncertain': {'attempts': 1, 'next_retry_at': 'sql:now()'},
    'held': {'next_retry_at': 'sql:now()'},
    'sending': {},
    'sent': {'sent_at': 'sql:now()'},
    'expired': {},
}
COMMANDS = (
    ('failed',),
    ('failed', '--dead'),
    ('inspect', 'scheduled'),
    ('inspect', 'active'),
    ('held', 'ls'),
    ('status',),
    ('qshape',),
    ('retry', '--status', 'failed', '--dry-run'),
)


def strict(document: Any) -> str:
    """Encode as --json does, and see that others can read it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f'{constant} is no JSON')

    text = as_json(document)
    json.loads(text, parse_constant=refuse)
    return text


async def read_all(env: dict[str, str], ids: list[int]) -> str:
    """Run every reading command in both forms; return all they said."""
    told = []
    of_one = [(command, str(i)) for i in ids for command in ('show', 'explain')]
    dry = [('retry', *map(str, ids), '--dry-run')]
    for arguments in (*COMMANDS, *of_one, *dry):
        given = await run(env, *arguments)
        told += [strict(given.document), rendered(arguments[0], given)]
    return '\n'.join(told)


@pytest.mark.parametrize('moment', TIMES)
async def test_row_with_a_time_outside_of_the_years_is_told_as_it_is_by_every_command(
    env, pool, redis, moment
):
    ids = [await insert(pool, status=status, **columns) for status, columns in STATES.items()]
    for column in COLUMNS:
        await pool.execute(f'UPDATE outbound_emails SET {column} = $1::text::timestamptz', moment)
    told = await read_all(env, ids)
    year = {'-infinity': '-infinity', 'infinity': 'infinity'}.get(moment, moment.partition('-')[0])
    assert year in told
    assert (' BC' in told) == moment.endswith('BC')
    assert '9999-12-31' not in told


@pytest.mark.parametrize('change', ODD_VALUES.values(), ids=ODD_VALUES)
async def test_row_with_an_odd_value_is_read_by_every_command(env, pool, redis, change):
    ids = []
    for status in ('pending', 'failed', 'sent'):
        ids.append(await insert(pool, status=status, **STATES[status]))
        await pool.execute(f'UPDATE outbound_emails SET {change} WHERE id = $1', ids[-1])
    assert await read_all(env, ids)


@pytest.mark.parametrize('moment', TIMES)
async def test_page_and_metrics_stand_a_time_outside_of_the_years(env, pool, redis, moment):
    for status, columns in STATES.items():
        for column in COLUMNS:
            email_id = await insert(pool, status=status, **columns)
            await pool.execute(
                f'UPDATE outbound_emails SET {column} = $1::text::timestamptz WHERE id = $2',
                moment,
                email_id,
            )
    at = ServerAddresses(postgres_dsn=env['DATABASE_URL'], redis_url=env['ARQ_REDIS_URL'])
    watches = [Watch(at, asked, deadline_s=60.0, shared_s=0) for asked in (OVERVIEW, READINESS)]
    try:
        app = make_application(*watches, token=None, loopback_only=True, api=api_for(at))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url='http://localhost'
        ) as client:
            metrics = (await client.get('/metrics')).text
            assert 'email_source_up{source="postgresql"} 1.0' in metrics
            assert 'email_outbox_emails{state="dead"}' in metrics
            assert (await client.get('/')).status_code == 200
    finally:
        for watch in watches:
            await watch.close()


async def test_adopted_rows_without_recipient_and_numbers_are_read_by_every_command(
    env, empty_database, redis
):
    conn = await asyncpg.connect(empty_database.dsn)
    await create_legacy(conn, 'enum')
    for column in ('recipient', 'attempts', 'max_attempts', 'created_at'):
        await conn.execute(f'ALTER TABLE outbound_emails ALTER {column} DROP NOT NULL')
    await adopt(conn)
    rows = await conn.fetch(
        'INSERT INTO mail_outbox (recipient, status, attempts, max_attempts, created_at, '
        'next_retry_at, expires_at) '
        'SELECT NULL, s, NULL, NULL, NULL, t, t FROM unnest($1::text[]) AS s, '
        "unnest('{infinity,20260-01-01}'::timestamp[]) AS t RETURNING id",
        ['pending', 'failed', 'uncertain', 'held', 'expired'],
    )
    await conn.close()
    assert await read_all(env | {'DATABASE_URL': empty_database.dsn}, [row['id'] for row in rows])
