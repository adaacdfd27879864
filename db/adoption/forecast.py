"""What the first start would do with an existing table, by state and age. Reads only."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from db.adoption.columns import Column
from db.adoption.quoting import case
from db.adoption.takeover import BECOMES
from db.adoption.trigger import Form

FATES = {
    'sent now': 'due: the first start sends them',
    'sent later': 'scheduled, or waiting for their next attempt: sent when due',
    'held': 'due too long ago: an operator releases or cancels them, `python -m ops held`',
    'uncertain': 'were being sent: an operator decides, `python -m ops resolve`',
    'expired': 'past their expires_at: not sent',
    'ended': 'sent, cancelled, expired, or failed without a further attempt: stay as they are',
}


@dataclass(frozen=True, slots=True)
class Expected:
    """E-mails of one state that the same becomes of."""

    status: str | None  # the application's word
    fate: str  # a key of FATES
    emails: int
    oldest_due_at: datetime | None
    first_id: int  # of the one that is due longest, or of any


# What decides, with the type that stands for a column that the table does not have yet.
DECIDING = {
    'next_retry_at': 'timestamptz',
    'expires_at': 'timestamptz',
    'created_at': 'timestamptz',
    'attempts': 'integer',
    'max_attempts': 'integer',
}


def forecast_sql(columns: Collection[str], form: Form) -> str:
    """Return the statement.

    Parameters: how long ago is too long, attempts of rows that do not say.

    Args:
        columns: Those that the table has now.
    """
    source = ', '.join(
        name if name in columns else f'NULL::{kind} AS {name}' for name, kind in DECIDING.items()
    )
    theirs = "WHERE mail_status = 'external'" if 'mail_status' in columns else ''
    return f"""
WITH emails AS (
    SELECT id, status::text AS status,
        {case('lower(status::text)', form.words.read, 'NULL')} AS natural_state, {source}
    FROM outbound_emails {theirs}
), judged AS (
    SELECT *, {BECOMES} AS state, COALESCE(next_retry_at, created_at) AS due_at,
        natural_state = 'pending' OR (natural_state = 'failed' AND next_retry_at IS NOT NULL
            AND COALESCE(attempts, 0) < COALESCE(max_attempts, $2::int)) AS is_open
    FROM emails
), fated AS (
    SELECT id, status, due_at, CASE
        WHEN state IN ('held', 'uncertain') THEN state
        WHEN NOT is_open OR natural_state IS NULL THEN 'ended'
        WHEN expires_at <= now() THEN 'expired'
        WHEN next_retry_at > now() THEN 'sent later'
        ELSE 'sent now' END AS fate
    FROM judged
)
SELECT status, fate, count(*) AS emails,
    min(due_at) FILTER (WHERE fate <> 'ended')::timestamptz AS oldest_due_at,
    (array_agg(id ORDER BY due_at))[1]::bigint AS first_id
FROM fated GROUP BY status, fate ORDER BY fate, emails DESC
"""


async def forecast(
    conn: asyncpg.Connection, columns: dict[str, Column], form: Form, hold_after: timedelta
) -> Sequence[Expected]:
    """Say what would become of the other system's e-mails, also before anything was added.

    Args:
        columns: From db.adoption.columns.read_columns.
        form: From db.adoption.plan.plan.
    Raises:
        asyncpg.PostgresError: connection or statement failure.
    """
    rows = await conn.fetch(forecast_sql(columns, form), hold_after, form.max_attempts)
    order = list(FATES)
    return sorted((Expected(*row) for row in rows), key=lambda e: (order.index(e.fate), -e.emails))
