"""What alerts were about: one row for each subject that was not well lately."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from db.results import storable


@dataclass(frozen=True, slots=True)
class AlertState:
    """How a subject stands.

    Attributes:
        score: How bad it looked lately, from 0.
        since: Since when it is down, or up; aware.
        told_at: When somebody was told last that it is down; None: nobody was.
        detail: What it said last when it was down.
    """

    subject: str
    score: int
    is_down: bool
    since: datetime
    told_at: datetime | None = None
    detail: str = ''


READ_ALERTS_SQL = """
SELECT subject, score, is_down, since, told_at, detail FROM mail_alerts
WHERE subject = ANY($1::text[])
"""


async def read_alerts(pool: asyncpg.Pool, subjects: Collection[str]) -> dict[str, AlertState]:
    """Return the states of those that have one.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others.
    """
    rows = await pool.fetch(READ_ALERTS_SQL, list(subjects))
    return {row['subject']: AlertState(*row) for row in rows}


WRITE_ALERTS_SQL = """
INSERT INTO mail_alerts (subject, score, is_down, since, told_at, detail)
SELECT * FROM unnest($1::text[], $2::smallint[], $3::boolean[], $4::timestamptz[],
    $5::timestamptz[], $6::text[])
ON CONFLICT (subject) DO UPDATE SET score = excluded.score, is_down = excluded.is_down,
    since = excluded.since, told_at = excluded.told_at, detail = excluded.detail, updated_at = now()
"""
FORGET_ALERTS_SQL = 'DELETE FROM mail_alerts WHERE subject = ANY($1::text[])'


async def write_alerts(pool: asyncpg.Pool, states: Collection[AlertState]) -> None:
    """Store states; forget those of who is well."""
    kept = [state for state in states if state.score or state.is_down]
    gone = [state.subject for state in states if state not in kept]
    if gone:
        await pool.execute(FORGET_ALERTS_SQL, gone)
    if kept:
        await pool.execute(
            WRITE_ALERTS_SQL,
            [state.subject for state in kept],
            [state.score for state in kept],
            [state.is_down for state in kept],
            [state.since for state in kept],
            [state.told_at for state in kept],
            [storable(state.detail) for state in kept],
        )
