"""What came back, stored: reports of failures and complaints, each once, and what came of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import orjson

from db.results import storable
from mail.bounce.report import FeedbackKind, Report

MOST_OF_ONE_EMAIL = 200  # reports; whoever knows one signed address could send any number

# The first report of a key is the one that counts. Who may only store reports (the ingress) may
# read no more than these two columns.
STORE_SQL = f"""
INSERT INTO email_feedback (report_key, kind, source, is_trusted, recipient, enhanced_code,
    diagnostic, email_id, message_id, relay_id, sent_at, reported_at)
SELECT r.report_key, r.kind, r.source, r.is_trusted, r.recipient, r.enhanced_code, r.diagnostic,
    r.email_id, r.message_id, r.relay_id, r.sent_at, r.reported_at
FROM json_to_recordset($1::text::json) AS r (report_key text, kind text, source text,
    is_trusted boolean, recipient text, enhanced_code text, diagnostic text, email_id bigint,
    message_id text, relay_id text, sent_at timestamptz, reported_at timestamptz)
WHERE r.email_id IS NULL
   OR (SELECT count(*) FROM email_feedback AS f WHERE f.email_id = r.email_id) < {MOST_OF_ONE_EMAIL}
ON CONFLICT (report_key) DO NOTHING
RETURNING report_key
"""


async def store_reports(pool: asyncpg.Pool, reports: Sequence[Report]) -> int:
    """Store reports that are not known yet.

    Returns:
        How many are new.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was stored.
    """
    rows = [
        {
            'report_key': report.key,
            'kind': report.kind,
            'source': report.source,
            'is_trusted': report.is_trusted,
            'recipient': _text(report.recipient),
            'enhanced_code': report.enhanced_code,
            'diagnostic': _text(report.diagnostic),
            'email_id': report.email_id,
            'message_id': _text(report.message_id),
            'relay_id': _text(report.relay_id),
            'sent_at': report.sent_at,
            'reported_at': report.reported_at,
        }
        for report in reports
    ]
    return len(await pool.fetch(STORE_SQL, orjson.dumps(rows).decode())) if rows else 0


def _text(value: str | None) -> str | None:
    return None if value is None else storable(value)


class StoredReport(NamedTuple):
    """A report that is looked at."""

    id: int
    kind: FeedbackKind
    source: str
    is_trusted: bool
    recipient: str | None
    enhanced_code: str | None
    diagnostic: str | None
    email_id: int | None
    message_id: str | None
    relay_id: str | None
    sent_at: datetime | None
    reported_at: datetime
    age_s: float


OPEN_SQL = """
SELECT id FROM email_feedback WHERE applied_at IS NULL AND look_at <= now()
ORDER BY look_at, id LIMIT $1
"""


async def open_reports(pool: asyncpg.Pool, limit: int) -> list[int]:
    """Return the ids of reports that are to be looked at."""
    return [row['id'] for row in await pool.fetch(OPEN_SQL, limit)]


TAKE_SQL = """
SELECT id, kind, source, is_trusted, recipient, enhanced_code, diagnostic, email_id, message_id,
    relay_id, sent_at, COALESCE(LEAST(reported_at, received_at), received_at) AS reported_at,
    EXTRACT(EPOCH FROM now() - received_at)::float8 AS age_s
FROM email_feedback WHERE id = $1 AND applied_at IS NULL FOR UPDATE SKIP LOCKED
"""


async def take_report(conn: Any, report_id: int) -> StoredReport | None:
    """Lock a report until the transaction ends; None when somebody else has it."""
    row = await conn.fetchrow(TAKE_SQL, report_id)
    if row is None:
        return None
    return StoredReport(**dict(row) | {'kind': FeedbackKind(row['kind'])})


CONCLUDE_SQL = """
UPDATE email_feedback SET applied_at = now(), effect = $2, email_id = $3, recipient = $4
WHERE id = $1
"""


async def conclude(
    conn: Any, report_id: int, effect: str, email_id: int | None, recipient: str | None
) -> None:
    """Write down what came of a report."""
    await conn.execute(CONCLUDE_SQL, report_id, effect, email_id, recipient)


LOOK_LATER_SQL = """
UPDATE email_feedback SET look_at = now() + $2 * interval '1 second' WHERE id = $1
"""


async def look_later(conn: Any, report_id: int, in_s: float) -> None:
    """Have a report looked at again."""
    await conn.execute(LOOK_LATER_SQL, report_id, in_s)


OF_EMAIL_SQL = """
SELECT kind, source, recipient, enhanced_code, diagnostic, reported_at, received_at, applied_at,
    effect
FROM email_feedback WHERE email_id = $1 ORDER BY received_at, id LIMIT 200
"""


async def read_feedback(pool: asyncpg.Pool, email_id: int) -> list[dict[str, Any]]:
    """Return what came back of one e-mail, the first report first."""
    return [dict(row) for row in await pool.fetch(OF_EMAIL_SQL, email_id)]


LIST_FEEDBACK_SQL = """
SELECT id, kind, source, left(recipient, 500) AS recipient, enhanced_code,
    left(diagnostic, 500) AS diagnostic, received_at, effect, email_id
FROM email_feedback
WHERE id < $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR lower(recipient) = $3)
ORDER BY id DESC LIMIT $4
"""


async def list_feedback(
    pool: asyncpg.Pool, before_id: int, kind: str | None, recipient: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return reports, the newest first.

    Args:
        before_id: Where the page before ended.
        recipient: An address in lower case.
    """
    rows = await pool.fetch(LIST_FEEDBACK_SQL, before_id, kind, recipient, limit)
    return [dict(row) for row in rows]


COUNT_SQL = """
SELECT kind, count(*) AS reports, count(*) FILTER (WHERE email_id IS NULL) AS unmatched
FROM email_feedback WHERE received_at > now() - interval '1 day' GROUP BY kind
"""


async def count_feedback(pool: asyncpg.Pool) -> list[dict[str, Any]]:
    """Count the last day's reports: kind, reports, unmatched (of no e-mail that is known)."""
    counted = {row['kind']: dict(row) for row in await pool.fetch(COUNT_SQL)}
    return [
        counted.get(kind, {'kind': kind.value, 'reports': 0, 'unmatched': 0})
        for kind in FeedbackKind
    ]


REMOVE_UNMATCHED_SQL = """
DELETE FROM email_feedback
WHERE received_at < now() - $1 * interval '1 day' AND email_id IS NULL AND applied_at IS NOT NULL
"""


async def remove_unmatched(pool: asyncpg.Pool, older_than_days: int) -> None:
    """Delete old reports of no e-mail; the others go with theirs."""
    await pool.execute(REMOVE_UNMATCHED_SQL, older_than_days)
