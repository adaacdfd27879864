"""The way back: give the table to the application as it was, so that its old system can go on."""

from collections import Counter

import asyncpg

from db.adoption.locks import ReportProgress, briefly
from db.adoption.phases import AdoptionPhase, read_adoption
from db.adoption.quoting import literal, quoted
from db.adoption.showing import REMOVE_SHOWING_DDL
from db.adoption.status_triggers import SYNC
from db.adoption.takeover import CUT_OFF, WrongPhaseError
from db.adoption.trigger import Form, install_sync
from db.quota_triggers import REMOVE_COUNTING_DDL
from db.states import UNSENT, sql_list
from db.webhook_capture import REMOVE_CAPTURE_DDL
from mail_outbox.states import Status

LIVE_SQL = """
SELECT count(*) FROM mail_outbox WHERE status = 'sending' AND lease_expires_at > now()
"""


def give_back_sql(form: Form) -> str:
    """Return the statement that has every e-mail show the word that the other system knows it by.

    What ended here and shows `failed` there has no attempt left, or the other system would send it:
    refused, cancelled or perhaps delivered as it is. What waits shows the word it waits under; what
    was being sent there is as it was.
    """
    return f"""
UPDATE outbound_emails
SET mail_status = CASE mail_status WHEN 'sending' THEN 'uncertain' ELSE mail_status END,
    attempts = CASE WHEN mail_status IN ('pending', 'held')
            OR (mail_status = 'failed' AND next_retry_at IS NOT NULL) OR {_cut_off(form)}
        THEN attempts ELSE GREATEST(attempts, max_attempts) END
WHERE mail_status IN ({sql_list((*UNSENT, Status.SENDING))})
RETURNING CASE WHEN mail_status = 'failed' AND next_retry_at IS NOT NULL THEN 'retrying'
               ELSE mail_status END AS state
"""


def _cut_off(form: Form) -> str:
    """Return the condition of what was being sent at the take-over, and nobody has sent since."""
    error, message_id = quoted(form.names['last_error']), quoted(form.names['message_id'])
    return f"(mail_status = 'uncertain' AND {message_id} IS NULL AND {error} = {literal(CUT_OFF)})"


UNVIEW_DDL = f"""
DROP TRIGGER IF EXISTS {SYNC} ON outbound_emails;
{REMOVE_SHOWING_DDL}
{REMOVE_CAPTURE_DDL}
{REMOVE_COUNTING_DDL}
DROP VIEW IF EXISTS mail_outbox;
DROP FUNCTION IF EXISTS outbox_sync();
DELETE FROM outbox_adoption;
"""

VIEWS_SQL = """
SELECT DISTINCT r.ev_class::regclass::text AS name
FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'outbound_emails'::regclass
  AND a.attname = ANY($1::text[])
  AND r.ev_class <> COALESCE(to_regclass('mail_outbox')::oid, 0)
ORDER BY 1
"""
STAYS = (
    (
        'email_attempts, email_suppressions, mail_switches, cron_runs and the other tables of this '
        'program stay'
    ),
    'the columns that this program added are gone, and with them Message-IDs and claims',
)


async def undo(
    conn: asyncpg.Connection, form: Form | None, progress: ReportProgress
) -> dict[str, int]:
    """Take away what expanding added. Called again after an interruption, it goes on.

    The workers must have stopped.

    Args:
        form: From db.adoption.plan.plan; None when nothing was added yet.
    Returns:
        How many e-mails were given back, by state: pending and retrying ones the other system
        sends.
    Raises:
        WrongPhaseError: the table was made by this program, is finished, or workers hold e-mails.
        TableBusyError: somebody holds the table; calling again goes on.
    """
    adoption = await read_adoption(conn)
    if adoption is None:
        raise WrongPhaseError('outbound_emails was not adopted: there is nothing to undo')
    if adoption.phase is AdoptionPhase.FINISHED:
        raise WrongPhaseError(
            'the table was finished: its old form is gone, and with it the way back'
        )
    await _refuse_views(conn, adoption.added_columns)
    counts = (
        await _give_back(conn, form, progress)
        if adoption.added_columns and form is not None
        else {}
    )
    columns = ', '.join(f'DROP COLUMN IF EXISTS {quoted(name)}' for name in adoption.added_columns)

    async def remove() -> None:
        await conn.execute(UNVIEW_DDL)
        if adoption.added_columns and form is not None and (word := form.words.shown['sending']):
            await conn.execute(
                f'UPDATE outbound_emails SET status = {literal(word)} WHERE {_cut_off(form)}'
            )
        for name in adoption.added_indexes:
            await conn.execute(f'DROP INDEX IF EXISTS {quoted(name)}')
        if columns:
            await conn.execute(f'ALTER TABLE outbound_emails {columns}')

    await briefly(conn, remove, progress)
    return counts


async def _refuse_views(conn: asyncpg.Connection, added_columns: list[str]) -> None:
    """Raise WrongPhaseError when views of the application's read columns that go."""
    if views := await conn.fetch(VIEWS_SQL, added_columns):
        names = ', '.join(row['name'] for row in views)
        raise WrongPhaseError(
            f'these read columns that this program added: {names}. Drop them, then run this again'
        )


async def _give_back(
    conn: asyncpg.Connection, form: Form, progress: ReportProgress
) -> dict[str, int]:
    """Have every e-mail show the word that the other system knows. Returns how many, by state."""
    live = await conn.fetchval(LIVE_SQL)
    if live:
        raise WrongPhaseError(f'workers are sending {live} e-mails: stop them, then run this again')

    async def show_own_words() -> None:
        await install_sync(conn, form, shared=False)

    await briefly(conn, show_own_words, progress)
    return dict(Counter(row['state'] for row in await conn.fetch(give_back_sql(form))))
