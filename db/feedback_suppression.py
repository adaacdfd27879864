"""Who bounces or complains gets no more mail, for as long as the rules say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from db.feedback import StoredReport
from db.results import storable
from db.suppressions import MAX_REASON_CHARS, suppression_key
from mail.bounce.report import FeedbackKind
from mail_outbox.envelope import InvalidEmailError


@dataclass(frozen=True, slots=True)
class FeedbackRules:
    """For how long who bounces or complains gets no mail; 0: he does."""

    bounce_days: int = 180
    complaint_days: int = 3650

    def days(self, kind: FeedbackKind) -> int:
        """Return how many days a report of this kind is for."""
        if kind is FeedbackKind.BOUNCE:
            return self.bounce_days
        return self.complaint_days if kind is FeedbackKind.COMPLAINT else 0


ONLY_STATES = FeedbackRules(0, 0)


def key_of_address(address: str | None) -> str | None:
    """Return the list's key for an address; None for what is none."""
    try:
        return None if address is None else suppression_key(address)
    except InvalidEmailError:
        return None


# What an operator decided stays, and a complaint is more than a bounce.
SUPPRESS_SQL = """
INSERT INTO email_suppressions AS s (address, reason, source, created_by, expires_at)
VALUES ($1, $2, $3, $4, now() + $5 * interval '1 day')
ON CONFLICT (address) DO UPDATE
SET reason = EXCLUDED.reason, source = EXCLUDED.source, created_by = EXCLUDED.created_by,
    expires_at = EXCLUDED.expires_at, created_at = now()
WHERE s.expires_at <= now() OR (s.source = 'bounce')
   OR (s.source = 'complaint' AND EXCLUDED.source = 'complaint')
"""


async def suppress(
    conn: Any, report: StoredReport, recipient: str | None, rules: FeedbackRules
) -> str | None:
    """Put a report's recipient on the list. Returns the key; None where the report is no reason."""
    days, key = rules.days(report.kind), key_of_address(recipient)
    if not days or key is None:
        return None
    reason = reason_of(report)[:MAX_REASON_CHARS]
    await conn.execute(SUPPRESS_SQL, key, reason, report.kind.value, report.source, days)
    return key


SUPPRESS_DEAD_SQL = SUPPRESS_SQL.replace(
    "VALUES ($1, $2, $3, $4, now() + $5 * interval '1 day')",
    "SELECT address, reason, $3, $4, now() + $5 * interval '1 day'\n"
    'FROM unnest($1::text[], $2::text[]) AS d (address, reason)',
)


async def suppress_dead(pool: asyncpg.Pool, refused: Mapping[str, str], days: int) -> None:
    """Put addresses on the list that a relay refused as unknown.

    Args:
        refused: Each as it stands in an envelope, with the relay's reply.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was added.
    """
    reasons = {
        key: storable(reply)[:MAX_REASON_CHARS]
        for address, reply in refused.items()
        if (key := key_of_address(address)) is not None
    }
    await pool.execute(
        SUPPRESS_DEAD_SQL, sorted(reasons), [reasons[key] for key in sorted(reasons)],
        FeedbackKind.BOUNCE.value, 'relay', days,
    )  # fmt: skip


def reason_of(report: StoredReport) -> str:
    """Return the code and the words of a report."""
    words = report.diagnostic or report.kind.value
    if report.enhanced_code is None or report.enhanced_code in words:
        return words
    return f'{report.enhanced_code} {words}'
