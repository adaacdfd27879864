"""Which database this is: the same for all its clients, another for every other database, schema and cluster."""

import hashlib

import asyncpg

# A promoted standby has its primary's identifier. Two applications may also share a database, in two schemas.
IDENTITY_SQL = """
SELECT concat_ws(':', CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
        THEN (SELECT system_identifier::text FROM pg_control_system()) END,
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    (SELECT relnamespace FROM pg_class WHERE oid = 'outbound_emails'::regclass))
"""
DIGITS = 12


async def read_identity(pool: asyncpg.Pool) -> str:
    """Return a digest of cluster, database and schema: 12 hexadecimal digits, nothing that leads there.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    told: str = await pool.fetchval(IDENTITY_SQL)
    return hashlib.sha256(told.encode()).hexdigest()[:DIGITS]
