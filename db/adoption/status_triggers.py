"""Triggers of the application that look at `status`, and whether they see what we do to it. Reads.

PostgreSQL goes by the columns that an UPDATE names. Ours names `mail_status`, and a trigger of ours
sets `status`: a trigger on UPDATE OF status does not fire, and one before the UPDATE of each row
looks at the row before ours has set it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from db.adoption.checks import refusing_in_between
from db.adoption.columns import Column
from db.adoption.phases import AdoptionPhase, read_phase
from db.adoption.quoting import quoted

SYNC = 'zz_outbox_sync'  # triggers fire in the order of their names: after the application's own
SHOW_FIRST = '00_outbox_show'  # before the application's own
SHOW_AFTERWARDS = 'zz_outbox_show'
OURS = (SYNC, SHOW_FIRST, SHOW_AFTERWARDS)


class StatusTrigger(NamedTuple):
    """One that is blind: it looks at `status`, and fires too early or not at all.

    names_status says whether it is one on UPDATE OF status; columns are the others of its list,
    None where it has no list.
    """

    name: str
    names_status: bool
    columns: Sequence[str] | None


class Remedy(NamedTuple):
    """What has the application's triggers see each change of status once.

    afterwards: A second UPDATE that names status, where the first one did not change it.
    first_of: The first one does change it, before their triggers, when it names one of these: then
    all of them fire anyway.
    """

    afterwards: bool = False
    first_of: tuple[str, ...] = ()

    @property
    def triggers(self) -> dict[str, str]:
        """Return the DDL of the triggers that this takes, by their names."""
        triggers = {}
        if self.first_of:
            triggers[SHOW_FIRST] = (
                f'CREATE OR REPLACE TRIGGER {quoted(SHOW_FIRST)} '
                f'BEFORE UPDATE OF {", ".join(quoted(name) for name in self.first_of)} '
                'ON outbound_emails FOR EACH ROW '
                'WHEN (OLD.mail_status IS DISTINCT FROM NEW.mail_status) '
                'EXECUTE FUNCTION outbox_show_first()'
            )
        if self.afterwards:
            triggers[SHOW_AFTERWARDS] = (
                f'CREATE OR REPLACE TRIGGER {SHOW_AFTERWARDS} AFTER UPDATE ON outbound_emails '
                'REFERENCING NEW TABLE AS written '
                'FOR EACH STATEMENT EXECUTE FUNCTION outbox_show_afterwards()'
            )
        return triggers


NO_REMEDY = Remedy()


def remedy_for(blind: Sequence[StatusTrigger]) -> Remedy:
    """Decide what has these triggers see each change of status once."""
    lists = [set(trigger.columns) for trigger in blind if trigger.columns is not None]
    first_of: set[str] = set.intersection(*lists) if lists else set()
    if blind and not lists:
        first_of = {'mail_status'}  # they fire whatever is named
    return Remedy(any(trigger.names_status for trigger in blind), tuple(sorted(first_of)))


# A trigger before each row's UPDATE looks at status where its function or its condition names
# NEW.status, or takes NEW as a whole. Bits of tgtype: 1 for each row, 2 before, 16 update.
BLIND_SQL = r"""
SELECT name, 'status' = ANY (columns) AS names_status,
    CASE WHEN has_list THEN array_remove(columns, 'status') END AS columns
FROM (
    SELECT t.tgname::text AS name, t.tgattr <> '' AS has_list,
        t.tgtype & 3 = 3 AND pg_get_functiondef(t.tgfoid) || pg_get_triggerdef(t.oid)
            ~* '\mNEW\s*([.]\s*([*]|"?status\M)|[,)])' AS looks_before,
        ARRAY(SELECT a.attname::text FROM pg_attribute AS a
              WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[])) AS columns
    FROM pg_trigger AS t
    WHERE t.tgrelid = 'outbound_emails'::regclass AND NOT t.tgisinternal AND t.tgenabled <> 'D'
      AND t.tgtype & 16 > 0 AND t.tgname <> ALL ($1::text[])
) AS triggers
WHERE 'status' = ANY (columns) OR looks_before
ORDER BY 1
"""


class Watched(NamedTuple):
    """Which triggers of the application are blind, and what has them see."""

    names: Sequence[str] = ()
    remedy: Remedy = NO_REMEDY


async def read_watched(conn: Any) -> Watched:
    """Look for triggers that are blind, and decide what has them see.

    Args:
        conn: A connection or a pool, here and below.
    """
    blind = [StatusTrigger(*row) for row in await conn.fetch(BLIND_SQL, list(OURS))]
    return Watched([trigger.name for trigger in blind], remedy_for(blind))


WATCHING = (
    'triggers of yours look at status: {}. Ours have them see each change of it here as well, '
    'docs/migration.md'
)
UNSEEING = (
    'triggers of yours on UPDATE OF status will not see what this system does to it: {}. CHECKs '
    'over status and other columns are in the way of a second UPDATE: {}. AFTER UPDATE ON '
    'outbound_emails ... WHEN (OLD.status IS DISTINCT FROM NEW.status) sees everything'
)


async def plan_remedy(
    conn: asyncpg.Connection, columns: Mapping[str, Column], shown: Mapping[str, str | None]
) -> tuple[Remedy, list[str]]:
    """Decide what has the application's triggers see, and what is to be told about it.

    Args:
        shown: The application's word for each state.
    """
    names, remedy = await read_watched(conn)
    if not names:
        return remedy, []
    if remedy.afterwards and (checks := await refusing_in_between(conn, columns, shown)):
        note = UNSEEING.format(', '.join(names), ', '.join(checks))
        return remedy._replace(afterwards=False), [note]
    return remedy, [WATCHING.format(', '.join(names))]


OURS_THERE_SQL = """
SELECT t.tgname::text AS name, ARRAY(
    SELECT a.attname::text FROM pg_attribute AS a
    WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[]) ORDER BY 1) AS columns
FROM pg_trigger AS t WHERE t.tgrelid = 'outbound_emails'::regclass AND t.tgname = ANY ($1::text[])
"""


async def triggers_there(conn: Any) -> dict[str, list[str]]:
    """Return those of our triggers that the table has, with the columns that they are on."""
    return {row['name']: row['columns'] for row in await conn.fetch(OURS_THERE_SQL, list(OURS))}


async def read_unseeing(conn: Any) -> Sequence[str]:
    """Return the triggers that look at status of an adopted table, and do not see all of ours."""
    if await read_phase(conn) in (None, AdoptionPhase.EXPANDING, AdoptionPhase.FINISHED):
        return ()
    names, remedy = await read_watched(conn)
    there = await triggers_there(conn)
    sees_all = SHOW_AFTERWARDS in there or not remedy.afterwards
    if sees_all and tuple(there.get(SHOW_FIRST, ())) == remedy.first_of:
        return ()
    return names
