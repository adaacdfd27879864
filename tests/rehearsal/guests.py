"""What belongs to the application and must stay as it is.

Rows of its tables, and the columns of outbound_emails.
"""

from dataclasses import dataclass

import asyncpg

from db.adoption.phases import AdoptionPhase, read_phase

# Rows the old program itself adds to service_health come later than those of schema.sql.
ROWS_SQL = {
    'sessions': 'SELECT md5(t::text) FROM sessions AS t',
    'refresh_tokens': 'SELECT md5(t::text) FROM refresh_tokens AS t',
    'service_health': 'SELECT md5(t::text) FROM service_health AS t WHERE id <= 40',
    'invoices': 'SELECT md5(t::text) FROM invoices AS t',
}
FORM_SQL = """
SELECT format('%s.%s %s%s default %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, COALESCE(pg_get_expr(d.adbin, d.adrelid),
        '-'))
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname = ANY ($1) AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0
    AND NOT a.attisdropped
UNION ALL
SELECT format('%s constraint %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE contype <> 'n' AND conrelid = ANY ($1::text[]::regclass[])
UNION ALL
SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY ($1)
UNION ALL
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    AND tgrelid = ANY ($1::text[]::regclass[])
"""
TABLES = [
    'outbound_emails',
    'users',
    'email_audit',
    'invoices',
    'sessions',
    'refresh_tokens',
    'service_health',
]


@dataclass(frozen=True)
class Guests:
    """The application's things at one moment."""

    rows: dict[str, frozenset[str]]
    form: frozenset[str]


async def look(conn: asyncpg.Connection) -> Guests:
    """Read them."""
    rows = {
        table: frozenset(row[0] for row in await conn.fetch(sql)) for table, sql in ROWS_SQL.items()
    }
    form = await conn.fetch(FORM_SQL, TABLES)
    return Guests(rows, frozenset(row[0] for row in form))


def rows_gone(before: Guests, now: Guests) -> dict[str, int]:
    """Count rows that were deleted or changed, by table."""
    gone = {table: len(rows - now.rows[table]) for table, rows in before.rows.items()}
    return {table: count for table, count in gone.items() if count}


def form_changed(before: Guests, now: Guests, *, exactly: bool = False) -> list[str]:
    """Tell what is missing of the application's schema, or different.

    Exactly: also what has come.
    """
    come = now.form - before.form if exactly else frozenset()
    return [f'missing: {line}' for line in sorted(before.form - now.form)] + [
        f'added: {line}' for line in sorted(come)
    ]


# Each change continues the one before it, the last one leads to what stands there now, and what was
# sent has some.
NOT_TOLD_SQL = """
WITH told AS (
    SELECT email_id, old_status, new_status,
        lag(new_status) OVER (PARTITION BY email_id ORDER BY id) AS before,
        row_number() OVER (PARTITION BY email_id ORDER BY id DESC) = 1 AS is_last
    FROM email_audit
)
SELECT email_id AS id FROM told WHERE before <> old_status OR old_status = new_status
UNION
SELECT e.id FROM outbound_emails AS e LEFT JOIN told AS t ON t.email_id = e.id AND t.is_last
WHERE t.new_status <> e.status::text OR (t.new_status IS NULL AND lower(e.status::text) = 'sent')
"""


async def not_told(conn: asyncpg.Connection) -> set[int]:
    """Return the e-mails of which the history that the application's trigger keeps has gaps.

    Nothing is said of a finished table: its last step wants the trigger dropped for a while.
    """
    if await read_phase(conn) is AdoptionPhase.FINISHED:
        return set()
    return {row['id'] for row in await conn.fetch(NOT_TOLD_SQL)}
