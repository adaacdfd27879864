"""The indexes that our statements need, built while others write.

A new table has most of them from db/migrations/0001_outbox.sql; whatever is missing is added to it
as well.
"""

from collections.abc import Mapping

import asyncpg

from db.adoption.locks import ReportProgress
from db.adoption.quoting import quoted
from db.recipient_key import IS_ONE_OF_SEVERAL, RECIPIENT_KEY
from db.states import CLAIMED, FOLLOWED_BY_NONE, OTHERS, TRIED, sql_list

BLOOM = (
    'text_bloom_ops (n_distinct_per_range = 600, false_positive_rate = 0.002)) '
    'WITH (pages_per_range = 32, autosummarize = on)'
)

# As in db/migrations/0001_outbox.sql, in the table's own names, and those that came later; a test
# holds a finished table against a new one.
INDEXES: Mapping[str, str] = {
    'outbound_emails_due': (
        f'({{priority}}, next_retry_at) WHERE {{status}} IN ({sql_list(CLAIMED)}) '
        'AND next_retry_at IS NOT NULL'
    ),
    # Each tenant's together, see db/fairness.py.
    'outbound_emails_tenants': (
        "((COALESCE(NULLIF(organization_id::text, ''), '-') COLLATE \"C\"), {priority}, "
        f'next_retry_at) WHERE {{status}} IN ({sql_list(CLAIMED)}) AND next_retry_at IS NOT NULL'
    ),
    'outbound_emails_unscheduled': ("(id) WHERE {status} = 'pending' AND next_retry_at IS NULL"),
    'outbound_emails_leased': "({lease_expires_at}) WHERE {status} = 'sending'",
    'outbound_emails_suspect': (
        f'(next_retry_at) WHERE {{lost_attempts}} > 0 AND {{status}} IN ({sql_list(CLAIMED)}) '
        'AND next_retry_at IS NOT NULL'
    ),
    'outbound_emails_failed': f'(created_at) WHERE {{status}} IN ({sql_list(TRIED)})',
    'outbound_emails_final': (
        f'({{dead_reason}}, updated_at) WHERE {{status}} IN ({sql_list(TRIED)}) '
        'AND next_retry_at IS NULL'
    ),
    'outbound_emails_held': "(created_at) WHERE {status} = 'held'",
    'outbound_emails_idempotency': '(organization_id, {idempotency_key}) NULLS NOT DISTINCT '
    'WHERE {idempotency_key} IS NOT NULL',
    'outbound_emails_created': 'USING brin (created_at)',
    # For who looks for a mail, see db/email_list.py. A Bloom filter for each 32 pages costs a claim
    # nothing that can be measured, where a B-tree costs an entry for each state (2026-12).
    'outbound_emails_recipient': f'USING brin ({RECIPIENT_KEY} {BLOOM}',
    'outbound_emails_several': f'(id) WHERE {IS_ONE_OF_SEVERAL.format(cc="{cc}", bcc="{bcc}")}',
    'outbound_emails_other': (
        f'({{status}}, ({FOLLOWED_BY_NONE}), id) WHERE {{status}} IN ({sql_list(OTHERS)})'
    ),
}
UNIQUE = ('outbound_emails_idempotency',)
# The planner knows nothing of their values before the next ANALYZE, and would not use them.
OF_EXPRESSIONS = ('outbound_emails_recipient', 'outbound_emails_other')

VALID_INDEXES_SQL = """
SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = 'outbound_emails'::regclass AND i.indisvalid
"""


async def valid_indexes(conn: asyncpg.Connection) -> set[str]:
    """Return the names of the indexes that serve."""
    return {row['relname'] for row in await conn.fetch(VALID_INDEXES_SQL)}


NOTE_INDEX_SQL = """
UPDATE outbox_adoption SET added_indexes = added_indexes || $1::text
WHERE NOT $1 = ANY(added_indexes)
"""
INDEX_STATE_SQL = """
SELECT i.indisvalid FROM pg_index AS i
WHERE i.indexrelid = to_regclass($1) AND i.indrelid = 'outbound_emails'::regclass
"""


def index_ddl(name: str, names: Mapping[str, str]) -> str:
    """Return the DDL of one index; CONCURRENTLY lets others write meanwhile."""
    unique = 'UNIQUE ' if name in UNIQUE else ''
    definition = INDEXES[name].format(**{key: quoted(value) for key, value in names.items()})
    return f'CREATE {unique}INDEX CONCURRENTLY {name} ON outbound_emails {definition}'


async def add_indexes(
    conn: asyncpg.Connection, names: Mapping[str, str], progress: ReportProgress
) -> None:
    """Build those that are missing.

    Args:
        names: How the table calls our columns.
    """
    for name in INDEXES:
        await add_index(conn, name, names, progress)


async def add_index(
    conn: asyncpg.Connection, name: str, names: Mapping[str, str], progress: ReportProgress
) -> None:
    """Build an index unless a valid one is there; a half-built one is built anew."""
    valid = await conn.fetchval(INDEX_STATE_SQL, name)
    if valid:
        return
    if valid is False:
        await conn.execute(f'DROP INDEX CONCURRENTLY {name}')
    await conn.execute(
        NOTE_INDEX_SQL, name
    )  # first: an interrupted call leaves an index that is ours
    await conn.execute(index_ddl(name, names))
    if name in OF_EXPRESSIONS:
        await conn.execute('ANALYZE outbound_emails')
    progress(f'built the index {name}')
