"""Which database this is, as all its clients see it.

Every other cluster, database and schema is another one.
"""

import hashlib
from collections.abc import Iterable

import asyncpg

# A promoted standby has its primary's identifier.
CLUSTER_SQL = 'SELECT system_identifier::text FROM pg_control_system()'
# Two applications may share a database, in two schemas.
DATABASE_SQL = """
SELECT format('%s:%s:%s', current_database(),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    (SELECT relnamespace FROM pg_class WHERE oid = 'outbound_emails'::regclass))
"""
UNKNOWN = '-'
DIGITS = 8


async def read_identity(pool: asyncpg.Pool) -> str:
    """Return who this database is, as `cluster.database`. See is_other.

    Both are digests, which tell nothing to who reads them.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    try:
        cluster = _digest(await pool.fetchval(CLUSTER_SQL))
    except asyncpg.InsufficientPrivilegeError:  # everybody may, unless somebody revoked it
        cluster = UNKNOWN
    return f'{cluster}.{_digest(await pool.fetchval(DATABASE_SQL))}'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def is_other(identity: str | None, ours: str | None) -> bool | None:
    """Whether two are different databases.

    None: one of them is not known, as from a worker of an older version.
    """
    if not identity or not ours:
        return None
    (cluster, _, database), (our_cluster, _, our_database) = (
        identity.partition('.'),
        ours.partition('.'),
    )
    return database != our_database or (
        UNKNOWN not in (cluster, our_cluster) and cluster != our_cluster
    )


def are_mixed(identities: Iterable[str]) -> bool:
    """Whether some of these are different databases."""
    known = {identity for identity in identities if identity}
    return any(is_other(one, another) for one in known for another in known)
