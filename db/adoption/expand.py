"""Add to an adopted table what this program needs besides.

Nothing is changed, removed or refused, and nobody waits.
"""

import json

import asyncpg

from db.adoption.indexes import add_indexes
from db.adoption.locks import ReportProgress, briefly
from db.adoption.phases import AdoptionPhase, read_adoption, set_phase
from db.adoption.plan import Plan
from db.adoption.quoting import quoted
from db.adoption.trigger import install_sync, state_ddl, trigger_ddl, view_ddl

BEGIN_SQL = "INSERT INTO outbox_adoption (phase) VALUES ('expanding') ON CONFLICT DO NOTHING"
LATER_SQL = 'UPDATE outbox_adoption SET added_columns = added_columns || $1::text[]'
DECIDED_SQL = 'UPDATE outbox_adoption SET added_columns = $1, words = $2::text::jsonb'


async def expand(conn: asyncpg.Connection, plan: Plan, progress: ReportProgress) -> None:
    """Add what is missing.

    Each step is committed by itself, and finds what an interrupted call before it has done.

    Raises:
        TableBusyError: somebody holds the table; nothing of this step was changed.
        asyncpg.PostgresError: connection or statement failure; calling again goes on.
    """
    await conn.execute(BEGIN_SQL)
    adoption = await read_adoption(conn)
    assert adoption is not None  # noqa: S101 - just made
    if not adoption.added_columns:
        await _add_columns(conn, plan, progress)
    elif plan.added:
        await _add_later_columns(conn, plan, progress)
    await add_indexes(conn, plan.form.names, progress)
    await conn.execute('ANALYZE outbound_emails')
    if 'mail_status' in plan.form.added:
        # A later version of this program may have another trigger, and so may the application.
        await _renew_triggers(conn, plan, progress, adoption.phase)
    if adoption.phase is AdoptionPhase.EXPANDING:
        await set_phase(conn, AdoptionPhase.SHARED)


async def _renew_triggers(
    conn: asyncpg.Connection, plan: Plan, progress: ReportProgress, phase: AdoptionPhase
) -> None:
    async def change() -> None:
        await install_sync(conn, plan.form, shared=phase is not AdoptionPhase.TAKEN_OVER)

    await briefly(conn, change, progress)


async def _add_columns(conn: asyncpg.Connection, plan: Plan, progress: ReportProgress) -> None:
    """Columns, trigger and view in one moment: from then on each row that is written is marked.

    A constant default is kept in the catalog, so no row is rewritten: every row that is there
    becomes `external`, and who inserts later without naming the column leaves it to the trigger.
    """
    columns = ', '.join(
        f'ADD COLUMN {quoted(name)} {ddl}'
        for name, ddl in plan.added.items()
        if name != 'mail_status'
    )
    form = plan.form

    async def change() -> None:
        await conn.execute(
            "ALTER TABLE outbound_emails ADD COLUMN mail_status text DEFAULT 'external', "
            f'{columns};'
            'ALTER TABLE outbound_emails ALTER COLUMN mail_status DROP DEFAULT'
        )
        await conn.execute(state_ddl(form.words))
        await install_sync(conn, form, shared=True)
        await conn.execute(trigger_ddl())
        await conn.execute(view_ddl(form.names))
        await conn.execute(DECIDED_SQL, list(plan.added), json.dumps(form.words.as_json()))

    await briefly(conn, change, progress)
    progress(f'added {len(plan.added)} columns, the trigger and the view mail_outbox')


async def _add_later_columns(
    conn: asyncpg.Connection, plan: Plan, progress: ReportProgress
) -> None:
    """Add what an earlier version did not know of, and the view that shows it."""
    columns = ', '.join(f'ADD COLUMN {quoted(name)} {ddl}' for name, ddl in plan.added.items())

    async def change() -> None:
        await conn.execute(f'ALTER TABLE outbound_emails {columns}')
        await conn.execute(view_ddl(plan.form.names))
        await conn.execute(LATER_SQL, list(plan.added))

    await briefly(conn, change, progress)
    progress(f'added {len(plan.added)} columns that this version needs')
