"""How much the hot statements touch, on real rows, when the statistics tell of another table than
there is.
"""

import json
from typing import Any

import asyncpg
import pytest

from db.pools import BY_INDEX
from tests.services.adopted import adopt, create_legacy
from tests.services.test_sql import statements

BATCH = 50
TOKEN = '11111111-1111-1111-1111-111111111111'
CLAIM = f"'{TOKEN}', 'w', 30, 'example.com', '{{{{}}}}', '{{{{}}}}'"
RESULT = {
    'claim_token': TOKEN, 'status': 'sent', 'counts': True, 'outcome': 'accepted',
    'phase': 'replied',
    'relay': 'primary', 'smtp_code': 250, 'duration_s': 1.5,
}  # fmt: skip

# Statement -> its arguments; {due} and {held} are ids of such rows, {results} what record() sends
# for the held ones.
WORK = {
    'db.claims.CLAIM_SQL': f"'{{{{{{due}}}}}}', {CLAIM}",
    'db.claims.CLAIM_DUE_SQL': f'{BATCH}, {CLAIM}',
    'db.fairness.WAITING_SQL': "''",
    'db.fairness.CLAIM_IN_TURNS_SQL': f"{BATCH}, {CLAIM}, '{{{{-,7,8}}}}', 1, 17",
    'db.fairness.CLAIM_SHARES_SQL': f"{BATCH}, {CLAIM}, '{{{{-,7,8}}}}', 1, 1",
    'db.claims.CLAIM_SUSPECTS_SQL': f'{BATCH}, {CLAIM}, 1',
    'db.due.GIVE_DUE_TIME_SQL': f"{BATCH}, '{{{{}}}}'",
    'db.results.RECORD_SQL': "'{results}', 'w', '{{{held}}}'",
    'db.results.RECORD_AND_DROP_SQL': "'{results}', 'w', '{{{held}}}'",
    'db.results.KEEP_RECIPIENTS_SQL': f"{{one}}, '{TOKEN}', '{{{{}}}}', 30",
    'db.leases.RENEW_SQL': "'{{{held}}}', array_fill('" + TOKEN + "'::uuid, ARRAY[{count}]), 30",
    'db.leases.RESCUE_SQL': f"'{{{{}}}}', 3, {BATCH}, '{{{{}}}}'",
    'db.transitions.EXPIRE_SQL': "'{{{due}}}'",
    'db.due.NEXT_DUE_SQL': '300',
    'db.retention.REMOVE_SQL': f"90, 0, {BATCH}, '{{{{}}}}'",
    'db.transitions.STATE_SQL': 'ARRAY[{one}]',
}
# An application that wrote times to what it sent leaves old mail in an index of its own on them.
FILL_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, priority, status, sent_at, next_retry_at,
    lost_attempts,
    attempts, max_attempts, claim_token, claimed_by, claimed_at, lease_expires_at, created_at,
        updated_at)
SELECT 'a@example.com', 'Hello', 'Hello', 1, s.status, CASE WHEN s.status = 'sent' THEN now() END,
    now() + s.due_in,
    s.lost, 1, 5, s.token::uuid, CASE WHEN s.status = 'sending' THEN 'w' END,
    CASE WHEN s.status = 'sending' THEN now() END, now() + s.leased_for, now(), now()
FROM (VALUES
    ('sent', 8, '-1 day'::interval, 0, NULL, NULL::interval),
    ('sent', 8, NULL, 0, NULL, NULL),
    ('pending', 8, '-1 hour', 0, NULL, NULL),
    ('failed', 1, '-1 hour', 1, NULL, NULL),
    ('pending', 4, '1 hour', 0, NULL, NULL),
    ('pending', 4, NULL, 0, NULL, NULL),
    ('failed', 4, NULL, 0, NULL, NULL),
    ('sending', 1, NULL, 0, '11111111-1111-1111-1111-111111111111', '1 hour'),
    ('sending', 8, NULL, 0, '22222222-2222-2222-2222-222222222222', '1 hour'),
    ('sending', 4, NULL, 0, '33333333-3333-3333-3333-333333333333', '-1 hour')
) AS s (status, share, due_in, lost, token, leased_for) CROSS JOIN LATERAL generate_series(1,
    s.share * $1::int)
"""
MANY, FEW = 300, 10
ONE_SQL = (
    "INSERT INTO mail_outbox (recipient, status, next_retry_at) VALUES ('a@example.com', "
    "'pending', now())"
)
SENT_SQL = (
    "INSERT INTO mail_outbox (recipient, status, sent_at, attempts) SELECT 'a@example.com', "
    "'sent', now(), 1 "
    'FROM generate_series(1, 5000)'
)
ANALYZE = 'ANALYZE outbound_emails, email_attempts'
HISTORIES = {  # what was before the statements were planned, and then
    'never analysed': ([], []),
    'analysed empty': ([ANALYZE], []),
    'analysed at one row': ([ONE_SQL, ANALYZE], []),
    'analysed when all was sent': ([SENT_SQL, ANALYZE], []),
    'analysed full': ([FILL_SQL, ANALYZE], []),
    'emptied since': (
        [FILL_SQL, ANALYZE, 'DELETE FROM outbound_emails', 'VACUUM outbound_emails'],
        [],
    ),
    'analysed afterwards': ([ONE_SQL], [ANALYZE]),
}


async def arguments(conn: asyncpg.Connection) -> dict[str, str]:
    """Return the arguments of each statement for the rows that are there."""

    async def ids(where: str) -> list[int]:
        found = await conn.fetch(
            f'SELECT id FROM mail_outbox WHERE {where} ORDER BY id LIMIT {BATCH}'
        )
        return [row['id'] for row in found]

    held, due = (
        await ids(f"claim_token = '{TOKEN}'"),
        await ids("status = 'pending' AND next_retry_at <= now()"),
    )
    held, due = held or [1], due or [1]
    filled = {
        'held': ','.join(map(str, held)),
        'due': ','.join(map(str, due)),
        'one': str(held[0]),
        'count': str(len(held)),
        'results': json.dumps(dict.fromkeys(map(str, held), RESULT)),
    }
    return {name: values.format(**filled) for name, values in WORK.items()}


def touched(node: dict[str, Any]) -> float:
    """Return how many rows the scans of a plan looked at, those that a filter or a join left out
    included.

    What stands in a CTE is no more than the batch.
    """
    if node['Node Type'] == 'CTE Scan':
        return sum(touched(part) for part in node.get('Plans', ()))
    looked = sum(
        node.get(kind, 0) for kind in ('Rows Removed by Filter', 'Rows Removed by Index Recheck')
    )
    looked += node['Actual Rows'] if 'Scan' in node['Node Type'] else 0
    looked += node.get('Rows Removed by Join Filter', 0)
    return looked * node['Actual Loops'] + sum(touched(part) for part in node.get('Plans', ()))


async def explain(conn: asyncpg.Connection, place: int, values: str) -> dict[str, Any]:
    transaction = conn.transaction()
    await transaction.start()
    try:
        text = await conn.fetchval(
            f'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) EXECUTE s{place}({values})'
        )
    finally:
        await transaction.rollback()
    return json.loads(text)[0]['Plan']


async def work(
    conn: asyncpg.Connection, history: str, mode: str
) -> dict[str, tuple[float, int, Any]]:
    """Plan before the table grows, run after it has.

    Return rows and pages touched by each statement.
    """
    before, after = HISTORIES[history]
    await conn.execute('ALTER TABLE outbound_emails SET (autovacuum_enabled = off)')
    await conn.execute(f'SET plan_cache_mode = {mode}')
    for sql in before:
        await conn.execute(sql.replace('$1', str(MANY)))
    small = await arguments(conn)
    for place, name in enumerate(WORK):
        await conn.execute(f'PREPARE s{place} AS {statements()[name]}')
        await explain(conn, place, small[name])
    await conn.execute(FILL_SQL.replace('$1', str(FEW if history == 'emptied since' else MANY)))
    for sql in after:
        await conn.execute(sql)
    grown = await arguments(conn)
    found = {}
    for place, name in enumerate(WORK):
        plan = await explain(conn, place, grown[name])
        found[name] = touched(plan), plan['Shared Hit Blocks'] + plan['Shared Read Blocks'], plan
    return found


def judge(found: dict[str, tuple[float, int, Any]]) -> dict[str, Any]:
    """Return what touched more than some rows for each of the batch, or than each with each.

    The table is larger.
    """
    return {
        name: (rows, pages, json.dumps(plan, indent=1))
        for name, (rows, pages, plan) in found.items()
        if rows > (20 + BATCH) * BATCH or pages > 100 * BATCH
    }


@pytest.mark.parametrize('mode', ['force_generic_plan', 'force_custom_plan', 'auto'])
@pytest.mark.parametrize('history', HISTORIES)
async def test_hot_statements_touch_their_batch_only_however_stale_the_statistics_are(
    database: Any, history: str, mode: str
):
    conn = await asyncpg.connect(database.dsn, server_settings=BY_INDEX)
    try:
        assert judge(await work(conn, history, mode)) == {}
    finally:
        await conn.close()


@pytest.mark.parametrize('mode', ['force_generic_plan', 'force_custom_plan'])
@pytest.mark.parametrize('history', HISTORIES)
async def test_hot_statements_touch_their_batch_only_on_an_adopted_table_with_indexes_of_its_own(
    empty_database: Any, history: str, mode: str
):
    conn = await asyncpg.connect(empty_database.dsn, server_settings=BY_INDEX | {'timezone': 'UTC'})
    try:
        await create_legacy(conn, 'enum')
        await conn.execute('CREATE INDEX of_theirs ON outbound_emails (email_type, next_retry_at)')
        await conn.execute('CREATE INDEX also_theirs ON outbound_emails (expires_at)')
        await adopt(conn)
        found = await work(conn, history, mode)
        if conn.get_server_version().major < 16:
            # There the planner may find the rows of a rescue by the primary key alone: some
            # thousand rows every eight seconds, and only while a worker was lost. Everything else
            # holds.
            del found['db.leases.RESCUE_SQL']
        assert judge(found) == {}
    finally:
        await conn.close()
