"""Make every e-mail that is not sent ours: from then on the other system has nothing left to do."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

import asyncpg

from db.adoption.locks import ReportProgress, briefly, by_index, count_rows
from db.adoption.phases import AdoptionPhase, read_phase, set_phase
from db.adoption.quoting import literal, quoted
from db.adoption.trigger import Form, install_sync
from db.states import ACCEPTED, OVER_UNSENT, UNSENT, sql_list
from mail_outbox.states import Status

BATCH = 5_000
CUT_OFF = 'was being sent by the previous system when its table was taken over'

# What becomes of an e-mail, by what its application's word means. Nobody can know whether an e-mail
# that was being sent got as far as its final dot, so an operator decides about it; and about what
# has been due for so long that whoever waits for it has stopped waiting.
BECOMES = """
CASE
    WHEN natural_state = 'sending' THEN 'uncertain'
    WHEN expires_at <= now() THEN natural_state
    WHEN natural_state = 'pending'
        AND COALESCE(next_retry_at, created_at) < now() - $1::interval THEN 'held'
    WHEN natural_state = 'failed' AND next_retry_at < now() - $1::interval
        AND COALESCE(attempts, 0) < COALESCE(max_attempts, $2::int) THEN 'held'
    ELSE natural_state
END
"""


class WrongPhaseError(Exception):
    """The adoption has not come so far yet, or further; the message says what to do."""


def take_batch_sql(names: Mapping[str, str]) -> str:
    """Return the statement that takes one stretch of ids.

    Parameters: how long ago is too long, attempts of rows that do not say, the last id before the
    stretch, its length.
    """
    copied = ''
    if names['smtp_response'] != 'smtp_response':
        copied = 'mail_smtp_response = COALESCE(e.mail_smtp_response, e.smtp_response::text),'
    return f"""
WITH stretch AS (
    SELECT id, status, mail_status, next_retry_at, expires_at, created_at, attempts, max_attempts
    FROM outbound_emails WHERE id > $3::bigint ORDER BY id LIMIT $4
), judged AS (
    SELECT *, outbox_state(status::text) AS natural_state FROM stretch
    WHERE COALESCE(mail_status, 'external') = 'external' -- no trigger fired where it is empty
), wanted AS (
    SELECT id, {BECOMES} AS state FROM judged WHERE natural_state NOT IN ({sql_list(ACCEPTED)})
), taken AS (
    UPDATE outbound_emails AS e
    SET mail_status = w.state, {copied}
        next_retry_at = CASE WHEN w.state IN ({sql_list((Status.UNCERTAIN, *OVER_UNSENT))})
                             THEN NULL ELSE e.next_retry_at END,
        {quoted(names['last_error'])} = CASE WHEN w.state = 'uncertain'
            THEN {literal(CUT_OFF)}
            ELSE e.{quoted(names['last_error'])} END
    FROM wanted AS w WHERE e.id = w.id AND COALESCE(e.mail_status, 'external') = 'external'
    RETURNING e.mail_status
)
SELECT (SELECT max(id) FROM stretch) AS last_id, (SELECT count(*) FROM stretch) AS walked, (
    SELECT jsonb_object_agg(mail_status, n)::text
    FROM (SELECT mail_status, count(*) AS n FROM taken GROUP BY 1) AS t
) AS counted
"""


# What was hidden from the other system shows its own word again.
SHOW_SQL = f"""
UPDATE outbound_emails SET mail_status = mail_status
WHERE mail_status IN ({sql_list(UNSENT)}) AND status::text = $1
"""


async def take_over(
    conn: asyncpg.Connection, form: Form, *, hold_after: timedelta, progress: ReportProgress
) -> dict[str, int]:
    """Take every e-mail of the other system that is not sent.

    Called again after an interruption, it goes on.

    The other system must not send any more. What it sent stays `external`: it is its own, and no
    duty deletes it.

    Args:
        form: From db.adoption.plan.plan.
        hold_after: What was due longer ago is held for an operator.
    Returns:
        How many e-mails came into which state.
    Raises:
        WrongPhaseError: the table is not shared.
        TableBusyError: somebody holds the table; nothing was changed.
        asyncpg.PostgresError: connection or statement failure; calling again goes on.
    """
    phase = await read_phase(conn)
    if phase is not AdoptionPhase.SHARED:
        raise WrongPhaseError(
            'the table is not shared with another system'
            if phase
            else 'outbound_emails was made by this program'
        )

    async def change() -> None:
        # Waits for those who are writing: what they insert is still theirs, and is taken below.
        await conn.execute('LOCK TABLE outbound_emails IN SHARE ROW EXCLUSIVE MODE')
        await install_sync(conn, form, shared=False)

    await briefly(conn, change, progress)
    async with by_index(conn):
        states = await _take_all(conn, form, hold_after, progress)
    if form.words.hidden is not None:
        await conn.execute(SHOW_SQL, form.words.hidden)
    await set_phase(conn, AdoptionPhase.TAKEN_OVER)
    return dict(states)


async def _take_all(
    conn: asyncpg.Connection, form: Form, hold_after: timedelta, progress: ReportProgress
) -> Counter[str]:
    """Take one stretch of ids after the other. Returns how many e-mails came into which state."""
    states: Counter[str] = Counter()
    sql, last_id = take_batch_sql(form.names), -(2**63)
    walked, total = 0, await count_rows(conn)
    while last_id is not None:
        [row] = await conn.fetch(sql, hold_after, form.max_attempts, last_id, BATCH)
        last_id = row['last_id']
        states.update(_counts(row['counted']))
        walked += row['walked']
        progress(f'took over {states.total()} e-mails', walked, total)
    return states


def _counts(counted: str | None) -> dict[str, int]:
    counts: dict[str, int] = json.loads(counted) if counted else {}
    return counts
