"""Rows that other rows refer to.

What a foreign key holds is stepped over, and one row that fails fails alone.

A foreign key may also ask the server to delete, or to change, the rows that refer (CASCADE, SET
NULL, SET DEFAULT). Those rows are the application's, so the row they refer to counts as held, too.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from db.errors import DATABASE_DOWN
from db.narrowing import Key, Narrowed, halve

AnyConnection = asyncpg.Connection | PoolConnectionProxy


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key to a table.

    Attributes:
        table: The table it stands in, quoted where it must be.
        holds: SQL that is true of a row `t` that a row of that table refers to; None when this role
            must not look.
        refuses: The server itself refuses to delete a row that is referred to.
        is_indexed: The server finds the rows that refer to one without reading all.
    """

    name: str
    table: str
    holds: str | None
    refuses: bool
    is_indexed: bool


# The operators are those of the constraint itself: whatever its types and the search_path. A row
# that refers to itself holds nothing. Constraints of partitions are copies of their parent's.
REFERENCES_SQL = """
SELECT c.conname AS name, c.conrelid::regclass::text AS table,
    c.confdeltype IN ('a', 'r') AS refuses,
    bool_and(has_column_privilege(role, c.conrelid, f.attnum, 'SELECT')
             AND has_column_privilege(role, c.confrelid, p.attnum, 'SELECT'))
        AND NOT row_security_active(c.conrelid)
        AND has_schema_privilege(role, (SELECT relnamespace FROM pg_class WHERE oid = c.conrelid),
            'USAGE') AS may_look,
    string_agg(format('t.%I OPERATOR(%I.%s) f.%I', p.attname, n.nspname, o.oprname, f.attname),
        ' AND ' ORDER BY k.n)
        AS refers,
    string_agg(format('f.%I OPERATOR(%I.%s) t.%I', p.attname, ns.nspname, s.oprname, p.attname),
        ' AND ' ORDER BY k.n)
        AS is_the_same, c.conrelid = c.confrelid AS is_own,
    EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.conrelid AND i.indpred IS NULL
            AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey) AS is_indexed
FROM pg_constraint AS c CROSS JOIN COALESCE($2::name, current_user) AS role
CROSS JOIN LATERAL unnest(c.confkey, c.conkey, c.conpfeqop, c.conppeqop) WITH ORDINALITY
    AS k (key, referring, operator, same, n)
JOIN pg_attribute AS p ON p.attrelid = c.confrelid AND p.attnum = k.key
JOIN pg_attribute AS f ON f.attrelid = c.conrelid AND f.attnum = k.referring
JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS n ON n.oid = o.oprnamespace
JOIN pg_operator AS s ON s.oid = k.same JOIN pg_namespace AS ns ON ns.oid = s.oprnamespace
WHERE c.contype = 'f' AND c.conparentid = 0
  AND (c.confrelid = $1::oid
       OR c.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
GROUP BY c.oid, c.conname, c.conrelid, c.conkey, c.confrelid, c.confdeltype, role ORDER BY 2, 1
"""


async def read_references(
    conn: AnyConnection | asyncpg.Pool, table: int, role: str | None = None
) -> list[Reference]:
    """Return the foreign keys to a table, those to a partition's parents included.

    Args:
        table: Its oid.
        role: Whose rights decide; None: ours.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    found = []
    for row in await conn.fetch(REFERENCES_SQL, table, role):
        other = f' AND NOT ({row["is_the_same"]})' if row['is_own'] else ''
        holds = f'EXISTS (SELECT FROM {row["table"]} AS f WHERE {row["refers"]}{other})'
        seen = holds if row['may_look'] else None
        found.append(Reference(row['name'], row['table'], seen, row['refuses'], row['is_indexed']))
    return found


def held(reference: Reference) -> str:
    """Return SQL that is true of a row `t` that must be stepped over.

    Where this role must not look, every row may be held; if the server refuses such rows by itself,
    it may decide.
    """
    if reference.holds is not None:
        return reference.holds
    return 'false' if reference.refuses else 'true'


def unseen(references: Sequence[Reference]) -> list[str]:
    """Name the tables that must be readable before any row can be deleted."""
    return sorted({r.table for r in references if r.holds is None and not r.refuses})


OF_THE_SERVER = (*DATABASE_DOWN, asyncpg.InsufficientPrivilegeError)


def _concerns_all(error: Exception) -> bool:
    """Whether a row's deletion failed for no reason of the row's.

    A lock on a row is the row's; so is a key that was not seen, or a trigger of the application's.
    """
    return isinstance(error, OF_THE_SERVER) and not isinstance(error, asyncpg.LockNotAvailableError)


async def delete_narrowly(
    conn: AnyConnection,
    keys: Sequence[Key],
    delete: Callable[[Sequence[Key]], Awaitable[list[asyncpg.Record]]],
) -> Narrowed[Key]:
    """Delete rows, in a transaction that is open, but for those that the server refuses.

    Args:
        delete: Deletes the rows with these keys, and returns a record for each.
    Raises:
        asyncpg.PostgresError, OSError: connection failure, a time limit, or a right that is
            missing.
    """

    async def to_a_savepoint(part: Sequence[Key]) -> list[asyncpg.Record]:
        async with conn.transaction():
            return await delete(part)

    return await halve(to_a_savepoint, keys, concerns_all=_concerns_all)
