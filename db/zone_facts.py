"""What is known of times without a zone in an application's outbound_emails. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from db.references import AnyConnection

TIMES = (
    'created_at',
    'updated_at',
    'last_attempt_at',
    'sent_at',
    'next_retry_at',
    'expires_at',
    'claimed_at',
)
SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Writer:
    """A role whose sessions may insert e-mails.

    With their TimeZone, and how far it is ahead of DB_NAIVE_TIMEZONE.
    """

    role: str
    zone: str
    ahead: timedelta
    ahead_later: timedelta  # half a year from now


@dataclass(frozen=True, slots=True)
class ZoneFacts:
    """What is known.

    rows are the newest. Their times are aware: those without a zone as DB_NAIVE_TIMEZONE has it.
    """

    zone: str  # DB_NAIVE_TIMEZONE
    now: datetime
    naive: Sequence[str]  # columns
    writers: Sequence[Writer]
    rows: Sequence[Mapping[str, Any]]


TIME_COLUMNS_SQL = """
SELECT a.attname AS name,
    COALESCE(NULLIF(t.typbasetype, 0), t.oid) = 'timestamp'::regtype AS is_naive
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = 'outbound_emails'::regclass AND a.attname = ANY($1::text[])
  AND COALESCE(NULLIF(t.typbasetype, 0), t.oid) IN ('timestamp'::regtype, 'timestamptz'::regtype)
"""

# What a session gets that asks for nothing: by role and database, by role, by database, or as the
# server has it.
WRITERS_SQL = """
WITH configured AS (
    SELECT setdatabase, setrole, substr(option, strpos(option, '=') + 1) AS zone
    FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS o (option)
    WHERE lower(split_part(option, '=', 1)) = 'timezone'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
), writers AS (
    SELECT r.rolname::text AS role, COALESCE((
        SELECT zone FROM configured WHERE setrole IN (0, r.oid)
        ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1
    ), $2::text) AS zone
    FROM pg_class AS t CROSS JOIN pg_roles AS r
    WHERE t.oid = 'outbound_emails'::regclass AND r.rolcanlogin AND (
        r.oid = t.relowner OR EXISTS (SELECT FROM configured WHERE setrole = r.oid)
        OR NOT r.rolsuper) AND has_any_column_privilege(r.oid, t.oid, 'INSERT')
)
SELECT role, zone, (now() AT TIME ZONE zone) - (now() AT TIME ZONE $1) AS ahead,
    ((now() + interval '182 days') AT TIME ZONE zone)
        - ((now() + interval '182 days') AT TIME ZONE $1) AS ahead_later
FROM writers WHERE zone IS NOT NULL ORDER BY role
"""

SERVER_ZONE_SQL = """
SELECT setting AS zone,
    source NOT IN ('client', 'session', 'database', 'user', 'database user') AS is_the_servers
FROM pg_settings WHERE name = 'TimeZone'
"""
FILE_ZONE_SQL = (
    "SELECT setting FROM pg_file_settings WHERE lower(name) = 'timezone' "
    'ORDER BY seqno DESC LIMIT 1'
)


async def _server_zone(conn: AnyConnection) -> str | None:
    """Return the TimeZone of the server's configuration.

    None: this session, or its role, may not see it.
    """
    [row] = await conn.fetch(SERVER_ZONE_SQL)
    if row['is_the_servers']:
        return str(row['zone'])
    try:
        async with conn.transaction():
            found: str | None = await conn.fetchval(FILE_ZONE_SQL)
            return found
    except asyncpg.InsufficientPrivilegeError:
        return None


async def read_zone_facts(conn: AnyConnection, naive_timezone: str) -> ZoneFacts | None:
    """Return what sessions and columns say, None where every column has its zone.

    Args:
        conn: Best one that asked for no TimeZone: only then is the server's own known.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure;
        asyncpg.UndefinedTableError: no such table.
    """
    columns = {
        row['name']: row['is_naive'] for row in await conn.fetch(TIME_COLUMNS_SQL, list(TIMES))
    }
    naive = [name for name in TIMES if columns.get(name)]
    if not naive:
        return None
    server_zone = await _server_zone(conn)
    writers = [Writer(*row) for row in await conn.fetch(WRITERS_SQL, naive_timezone, server_zone)]
    # Zones that no calendar knows, and times that no datetime holds, are left out.
    chosen = ', '.join(
        f"CASE WHEN {name} BETWEEN '1990-01-01' AND '2900-01-01' "
        f'THEN {name}{" AT TIME ZONE $1" * columns[name]} END AS {name}'
        for name in columns
    )
    newest = f"""
        SELECT id, $1::text AS zone, {chosen} FROM outbound_emails ORDER BY id DESC LIMIT {SAMPLE}
    """
    rows = [dict(row) for row in await conn.fetch(newest, naive_timezone)]
    now: datetime = await conn.fetchval('SELECT now()')
    return ZoneFacts(naive_timezone, now, naive, writers, rows)
