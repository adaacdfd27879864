"""Sessions and refresh tokens: only their end is ours.

They are deleted from tables that this program made, or that a setting names.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from db.errors import DATABASE_DOWN
from db.origins import note_report, read_origin
from db.references import Reference, delete_narrowly, held, read_references, unseen

MADE_HERE = ('sessions', 'refresh_tokens')  # what a new installation has
BLOCKS = 128  # of 8 KiB: a batch has some thousand rows
TIMES = ('timestamp with time zone', 'timestamp without time zone', 'date')


@dataclass(slots=True)
class Cleaned:
    """What became of one table in one run.

    deleted, held (another row refers to it) and refused (by the server, see note) are rows.
    reported is how many a first run would have deleted. note is for people: why the table was left
    alone, or a part of it.
    """

    deleted: int = 0
    held: int = 0
    refused: int = 0
    reported: int | None = None
    note: str | None = None


class SessionTable(NamedTuple):
    """A table as it is.

    kind is that of pg_class.relkind; the types of the two times are without domains.
    """

    oid: int
    sql: str
    kind: str
    created_at: str | None
    expires_at: str | None
    may_read: bool  # any column; at least those two by may_clean
    may_clean: bool


TABLE_SQL = """
SELECT c.oid, c.oid::regclass::text AS sql, c.relkind::text AS kind, types.created_at,
    types.expires_at,
    has_table_privilege(role, c.oid, 'SELECT') AS may_read,
    has_table_privilege(role, c.oid, 'DELETE') AND types.may_see AS may_clean
FROM pg_class AS c CROSS JOIN COALESCE($2::name, current_user) AS role CROSS JOIN LATERAL (
    SELECT max(type) FILTER (WHERE attname = 'created_at') AS created_at,
        max(type) FILTER (WHERE attname = 'expires_at') AS expires_at,
        bool_and(may_see) FILTER (WHERE attname IN ('created_at', 'expires_at')) AS may_see
    FROM (
        SELECT a.attname, has_column_privilege(role, c.oid, a.attnum, 'SELECT') AS may_see,
            format_type(COALESCE(NULLIF(t.typbasetype, 0), t.oid), NULL) AS type
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns
) AS types
WHERE c.oid = to_regclass($1)
"""


def quoted_table(name: str) -> str:
    """Return a name, with its schema or without, as SQL takes it: to the letter."""
    return '.'.join('"' + part.replace('"', '""') + '"' for part in name.split('.'))


async def read_table(pool: asyncpg.Pool, name: str, role: str | None = None) -> SessionTable | None:
    """Return the table of this name, with its schema or without; None when there is none.

    Args:
        role: Whose rights are told; None: ours.
    """
    row = await pool.fetchrow(TABLE_SQL, quoted_table(name), role)
    return SessionTable(*row) if row else None


def why_left_alone(table: SessionTable, *, made_here: bool, role: str | None = None) -> str | None:
    """Say why nothing can be deleted from a table, and what to do; None when it can.

    Args:
        role: Whose rights those of the table are; None: ours.
    """
    if table.kind not in ('r', 'p'):
        return f'{table.sql} is no table: name the table itself in CLEANUP_SESSION_TABLES'
    for name, type_ in (('created_at', table.created_at), ('expires_at', table.expires_at)):
        if type_ is None:
            return (
                f'{table.sql} has no column {name}: nobody can tell what is over, so nothing is '
                'deleted'
            )
        if type_ not in TIMES:
            return f'{table.sql}.{name} is of the type {type_}, not a time, so nothing is deleted'
    if not table.may_clean or not (table.may_read or made_here):
        who = f'the role {role}' if role else 'this role'
        return f'{who} lacks rights: GRANT SELECT, DELETE ON {table.sql}'
    return None


async def clean(
    pool: asyncpg.Pool, named: Collection[str], older_than_days: int
) -> dict[str, Cleaned]:
    """Delete the rows that are older than the retention and over; one without an end is never over.

    From a table that was there before this program nothing is deleted unless it is named, and the
    first time the rows are only counted.

    Args:
        named: Tables that a setting names, each with its schema or without.
    Returns:
        What became of each table, by its name. Those that are neither made here nor named are
        missing.
    Raises:
        asyncpg.PostgresError, OSError: PostgreSQL does not answer; what was deleted stays deleted.
    """
    cleaned = {}
    seen = set()  # two names may mean one table, of which the second would not report any more
    for name in (*sorted(named), *MADE_HERE):
        table = await read_table(pool, name)
        if table is not None and table.oid not in seen:
            seen.add(table.oid)
            if name in named or (await read_origin(pool, table.oid)).made_here:
                cleaned[name] = await _clean_table(pool, table, older_than_days)
        elif table is None and name in named:
            cleaned[name] = Cleaned(note=f'there is no table {name}')
    return cleaned


async def find_problems(
    pool: asyncpg.Pool, named: Collection[str], role: str | None = None
) -> list[str]:
    """Say of each table that clean() looks at why it deletes nothing from it.

    Args:
        role: Who cleans; None: we do.
    """
    found = []
    for name in (*sorted(named), *MADE_HERE):
        table = await read_table(pool, name, role)
        if table is None:
            found += [f'there is no table {name}'] if name in named else []
            continue
        made_here = (await read_origin(pool, table.oid)).made_here
        note = why_left_alone(table, made_here=made_here, role=role)
        if note and (made_here or name in named):
            found.append(note)
    return list(dict.fromkeys(found))


async def _clean_table(pool: asyncpg.Pool, table: SessionTable, older_than_days: int) -> Cleaned:
    origin = await read_origin(pool, table.oid)
    if note := why_left_alone(table, made_here=origin.made_here):
        return Cleaned(note=note)
    try:
        if not origin.made_here and origin.reported_at is None:
            reported = await _count(pool, table, older_than_days)
            await note_report(pool, table.oid, reported)
            return Cleaned(reported=reported)
        return await _delete(pool, table, older_than_days)
    except asyncpg.QueryCanceledError:
        why = (
            'a batch took longer than DB_COMMAND_TIMEOUT_S; see the indexes of the tables that '
            'refer to it'
        )
        return Cleaned(note=f'{table.sql}: {why}')
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError as error:  # one table's problem is not the other's
        return Cleaned(note=f'{table.sql}: {error}')


LEAVES_SQL = """
SELECT oid, oid::regclass::text AS sql,
    ceil(pg_relation_size(oid) / current_setting('block_size')::float8)::bigint AS blocks
FROM pg_class
WHERE relkind = 'r' AND (oid = $1::oid OR oid IN (
    SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf))
"""

# Older than the limit and no longer valid: a session that is still used keeps a later expires_at.
_OVER = "t.created_at < now() - $1 * interval '1 day' AND t.expires_at < now()"
_STRETCH = f'{_OVER} AND t.ctid >= $2 AND t.ctid < $3'


DiskPlace = tuple[int, int]  # block, and row in it


async def _stretches(
    pool: asyncpg.Pool, table: SessionTable
) -> AsyncIterator[tuple[int, str, DiskPlace, DiskPlace]]:
    """Yield oid, table, and where to begin and end.

    They come in the order of the disk, which needs no index and no sorting.
    """
    for oid, sql, blocks in await pool.fetch(LEAVES_SQL, table.oid):
        for first in range(0, blocks, BLOCKS):
            yield oid, sql, (first, 0), (first + BLOCKS, 0)


async def _count(pool: asyncpg.Pool, table: SessionTable, older_than_days: int) -> int:
    rows = 0
    async for _, leaf, begin, end in _stretches(pool, table):
        counting = f'SELECT count(*) FROM ONLY {leaf} AS t WHERE {_STRETCH}'
        rows += await pool.fetchval(counting, older_than_days, begin, end)
    return rows


async def _delete(pool: asyncpg.Pool, table: SessionTable, older_than_days: int) -> Cleaned:
    cleaned = Cleaned()
    if not table.may_read:
        await _delete_at_once(pool, table, older_than_days, cleaned)
        return cleaned
    references: dict[int, list[Reference]] = {}
    async for oid, leaf, begin, end in _stretches(pool, table):
        if oid not in references:
            references[oid] = await read_references(pool, oid)
            if hidden := unseen(references[oid]):
                remedy = f'GRANT SELECT ON {", ".join(hidden)}'
                cleaned.note = (
                    f'rows of {", ".join(hidden)} would go, or change, with those of {leaf}: '
                    f'{remedy}'
                )
        await _delete_stretch(pool, leaf, references[oid], (older_than_days, begin, end), cleaned)
    return cleaned


async def _delete_at_once(
    pool: asyncpg.Pool, table: SessionTable, older_than_days: int, cleaned: Cleaned
) -> None:
    """Delete what is over from a table of our own.

    Of its columns this role sees no more than the two times.
    """
    is_held = (
        ' OR '.join(held(reference) for reference in await read_references(pool, table.oid))
        or 'false'
    )
    deleting = f'DELETE FROM ONLY {table.sql} AS t WHERE {_OVER} AND NOT ({is_held})'
    cleaned.deleted = int((await pool.execute(deleting, older_than_days)).split()[-1])


async def _delete_stretch(
    pool: asyncpg.Pool,
    leaf: str,
    references: Sequence[Reference],
    stretch: tuple[object, ...],
    cleaned: Cleaned,
) -> None:
    """Delete what is over in some blocks of a table, in one transaction, and add it up."""
    is_held = ' OR '.join(held(reference) for reference in references) or 'false'
    finding = f'SELECT t.ctid, {is_held} AS is_held FROM ONLY {leaf} AS t WHERE {_STRETCH}'
    # The conditions once more: a row that was changed meanwhile is looked at as it is now.
    deleting = f"""
        DELETE FROM ONLY {leaf} AS t
        WHERE t.ctid = ANY($2::tid[]) AND {_OVER} AND NOT ({is_held}) RETURNING 1
    """
    async with pool.acquire() as conn, conn.transaction():
        # A row that the application holds is narrowed down and left for the next run.
        await conn.execute("SET LOCAL lock_timeout = '200ms'; SET CONSTRAINTS ALL IMMEDIATE")
        rows = await conn.fetch(finding, *stretch)
        free = [row['ctid'] for row in rows if not row['is_held']]
        done = await delete_narrowly(
            conn, free, lambda some: conn.fetch(deleting, stretch[0], some)
        )
    cleaned.deleted += len(done.done)
    cleaned.held += len(rows) - len(free)
    cleaned.refused += len(done.refused)
    cleaned.note = cleaned.note or done.refusal
