"""The end of retention: e-mails that ended long ago are deleted, in batches by id."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import asyncpg

from db.errors import DATABASE_DOWN
from db.pools import BY_INDEX
from db.references import AnyConnection, Reference, delete_narrowly, held, read_references
from db.states import OVER, sql_list

NO_TYPES: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Removed:
    """What one batch of the retention removed.

    last_id is the last id it looked at, None when the rest is not old.

    held counts the e-mails that a foreign key kept, refused those that the server would not delete,
    and refusal is why.
    """

    emails: int
    content_ids: list[str]
    last_id: int | None
    held: int = 0
    refused: int = 0
    refusal: str | None = None


# How long a row is kept: by its type, or as all others.
_DAYS = "COALESCE(($4::text::jsonb ->> email_type::text)::integer, $1::integer) * interval '1 day'"
_FEWEST_DAYS = """
    (SELECT LEAST(min(value::integer), $1::integer) FROM jsonb_each_text($4::text::jsonb))
    * interval '1 day'"""
# An adopted table may hold NULLs: a row without any time is looked past, and never deleted.
_NEXT_OLD = f"""
WITH next AS (
    SELECT id,
        (COALESCE(created_at, updated_at) < now() - {_DAYS}) IS NOT FALSE AS is_old,
        (COALESCE(created_at, updated_at) < now() - {_FEWEST_DAYS}) IS NOT FALSE AS may_be_old
    FROM mail_outbox WHERE id > $2 ORDER BY id LIMIT $3
)"""
_ENDED_LONG_AGO = f"""
    id = ANY(ARRAY(SELECT id FROM next WHERE is_old))
      AND COALESCE(updated_at, created_at) < now() - {_DAYS}
      AND (COALESCE(status, '') IN ({sql_list(OVER)})
           OR (status = 'failed' AND next_retry_at IS NULL))
"""

# Ids grow with time, so each batch is the next stretch of the primary key: no row is looked at
# twice, however many dead ones the batches before have left. SKIP LOCKED keeps the hot path free.
REMOVE_SQL = f"""
{_NEXT_OLD}, old AS (
    SELECT id FROM mail_outbox WHERE {_ENDED_LONG_AGO}
    FOR UPDATE SKIP LOCKED
), removed AS (
    DELETE FROM mail_outbox WHERE id = ANY(ARRAY(SELECT id FROM old)) RETURNING id, content_id
), attempts AS (
    DELETE FROM email_attempts WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), attached AS (
    DELETE FROM email_attachments WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), reported AS (
    DELETE FROM email_feedback WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
)
SELECT count(*) AS emails,
    COALESCE(array_agg(content_id) FILTER (WHERE content_id IS NOT NULL), '{{}}') AS content_ids,
    (SELECT max(id) FROM next HAVING bool_or(may_be_old)) AS last_id
FROM removed
"""

OUTBOUND_EMAILS_SQL = "SELECT 'outbound_emails'::regclass::oid"


async def remove_old(
    pool: asyncpg.Pool,
    older_than_days: int,
    after_id: int = 0,
    batch: int = 1000,
    *,
    days_by_type: Mapping[str, int] = NO_TYPES,
) -> Removed:
    """Delete e-mails that ended long ago, with their attempts, in one stretch of ids.

    Uncertain ones stay.

    What another row refers to stays, and what the server refuses to delete.

    Args:
        after_id: The last_id of the stretch before.
        batch: How many rows it looks at.
        days_by_type: Instead of older_than_days, by email_type.
    """
    asked = (older_than_days, after_id, batch, json.dumps(dict(days_by_type)))
    references = await read_references(pool, await pool.fetchval(OUTBOUND_EMAILS_SQL))
    if not references:
        try:
            [row] = await pool.fetch(REMOVE_SQL, *asked)
            return Removed(row['emails'], row['content_ids'], row['last_id'])
        except (*DATABASE_DOWN, asyncpg.InsufficientPrivilegeError):
            raise
        except asyncpg.PostgresError:  # a trigger of the application's refuses one of them
            pass
    async with pool.acquire() as conn, conn.transaction():
        return await _remove_around(conn, references, asked)


LOCK_OLD_SQL = f"""
{_NEXT_OLD}, old AS (
    SELECT id FROM mail_outbox WHERE {_ENDED_LONG_AGO}
    FOR UPDATE SKIP LOCKED
)
SELECT ARRAY(SELECT id::bigint FROM old) AS ids,
    (SELECT max(id) FROM next HAVING bool_or(may_be_old)) AS last_id
"""

# Their tables may be large and have no index that helps: better read one once than once for each
# row.
PLAN_FREELY_SQL = "SELECT set_config(name, 'on', true) FROM unnest($1::text[]) AS s (name)"

DELETE_SQL = """
WITH removed AS (
    DELETE FROM mail_outbox WHERE id = ANY($1::bigint[]) RETURNING id, content_id
), attempts AS (
    DELETE FROM email_attempts WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), attached AS (
    DELETE FROM email_attachments WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
), reported AS (
    DELETE FROM email_feedback WHERE email_id = ANY(ARRAY(SELECT id FROM removed))
)
SELECT content_id FROM removed
"""


async def _remove_around(
    conn: AnyConnection,
    references: Sequence[Reference],
    asked: tuple[int, int, int, str],
) -> Removed:
    """Do what REMOVE_SQL does, around the rows that must stay.

    Once the rows are locked, nobody can refer to one of them anew.
    """
    await conn.execute('SET CONSTRAINTS ALL IMMEDIATE')
    [old] = await conn.fetch(LOCK_OLD_SQL, *asked)
    ids = set(old['ids'])
    await conn.execute(PLAN_FREELY_SQL, list(BY_INDEX))
    for reference in references:
        sql = (
            'SELECT t.id FROM outbound_emails AS t '
            f'WHERE t.id = ANY($1::bigint[]) AND {held(reference)}'
        )
        ids -= {row['id'] for row in await conn.fetch(sql, list(ids))}
    done = await delete_narrowly(conn, sorted(ids), lambda some: conn.fetch(DELETE_SQL, some))
    content_ids = [row['content_id'] for row in done.done if row['content_id'] is not None]
    return Removed(
        len(done.done),
        content_ids,
        old['last_id'],
        held=len(old['ids']) - len(ids),
        refused=len(done.refused),
        refusal=done.refusal,
    )


COUNT_OLD_SQL = f"""
{_NEXT_OLD}
SELECT (SELECT count(*) FROM mail_outbox WHERE {_ENDED_LONG_AGO}) AS emails,
    (SELECT max(id) FROM next HAVING bool_or(may_be_old)) AS last_id
"""


async def count_old(
    pool: asyncpg.Pool,
    older_than_days: int,
    batch: int = 10_000,
    *,
    days_by_type: Mapping[str, int] = NO_TYPES,
) -> int:
    """Count the e-mails that the retention would delete, foreign keys apart."""
    emails = 0
    last_id: int | None = 0
    while last_id is not None:
        [row] = await pool.fetch(
            COUNT_OLD_SQL, older_than_days, last_id, batch, json.dumps(dict(days_by_type))
        )
        emails, last_id = emails + row['emails'], row['last_id']
    return emails
