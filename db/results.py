"""Record what became of claimed e-mails, fenced by the claim token."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from db.claims import Claim
from mail.outcome import Decision, Delivery


@dataclass(frozen=True, slots=True)
class Result:
    """A finished attempt: the claim it was made under, how it ended, what becomes of the row."""

    claim: Claim
    delivery: Delivery
    decision: Decision
    duration_s: float


# One statement writes the row and its attempt, or neither. The fence is the WHERE of `recorded`.
RECORD_SQL = """
WITH recorded AS (
    UPDATE outbound_emails AS e
    SET status = r.status,
        attempts = e.attempts - CASE WHEN r.counts THEN 0 ELSE 1 END,
        next_retry_at = now() + r.retry_in_s * interval '1 second',
        sent_at = CASE WHEN r.status = 'sent' THEN now() ELSE e.sent_at END,
        dead_reason = r.dead_reason,
        smtp_code = r.smtp_code,
        smtp_response = r.reply,
        enhanced_code = r.enhanced_code,
        relay = r.relay,
        last_error = r.error,
        recipient_outcomes = COALESCE(r.recipient_outcomes, e.recipient_outcomes),
        lost_attempts = 0,
        claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL,
        updated_at = now()
    FROM unnest(
        $1::bigint[], $2::uuid[], $3::text[], $4::float8[], $5::boolean[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::jsonb[], $15::float8[]
    ) AS r (id, claim_token, status, retry_in_s, counts, dead_reason, outcome, phase,
            relay, smtp_code, enhanced_code, reply, error, recipient_outcomes, duration_s)
    -- COALESCE: else the planner starts from the index of leased rows and reads all results once for each of them.
    WHERE e.id = r.id AND COALESCE(e.status) = 'sending' AND e.claim_token = r.claim_token
    -- All that the attempt's row needs: joining the values once more would take the square of their number.
    RETURNING e.id, r.claim_token, e.claimed_at, e.attempts + CASE WHEN r.counts THEN 0 ELSE 1 END AS attempt,
        r.outcome, r.phase, r.relay, r.smtp_code, r.enhanced_code, r.reply, r.error, r.duration_s
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, smtp_code,
        enhanced_code, reply, error, duration_ms)
    SELECT id, claimed_at, attempt, $16::text, outcome, phase, relay, smtp_code,
        enhanced_code, reply, error, duration_s * 1000
    FROM recorded
)
SELECT id, claim_token FROM recorded
"""


async def record(pool: asyncpg.Pool, results: Sequence[Result], *, worker: str) -> set[tuple[int, UUID]]:
    """Record finished attempts, each only if its claim is still the current one.

    Returns:
        The keys of the claims that were recorded. A claim that is missing was lost: its result must be dropped, see
        LeaseLost.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; all or none of the results were recorded, and
            recording them again is safe.
    """
    rows = [_record_row(result) for result in results]
    columns = list(zip(*rows, strict=True))
    recorded = await pool.fetch(RECORD_SQL, *columns, worker)
    return {(row['id'], row['claim_token']) for row in recorded}


IS_RECORDED_SQL = """
SELECT EXISTS (SELECT FROM email_attempts WHERE email_id = $1 AND started_at = $2 AND outcome = $3)
"""


async def is_recorded(pool: asyncpg.Pool, result: Result) -> bool:
    """Return whether this very attempt is on record already, with this outcome."""
    claim = result.claim
    found: bool = await pool.fetchval(IS_RECORDED_SQL, claim.email.id, claim.claimed_at, result.delivery.outcome.value)
    return found


def _record_row(result: Result) -> tuple[object, ...]:
    delivery, decision = result.delivery, result.decision
    reply = delivery.reply
    recipients = delivery.recipients
    return (
        result.claim.email.id,
        result.claim.token,
        decision.status.value,
        decision.retry_in_s,
        decision.counts,
        decision.dead_reason,
        delivery.outcome.value,
        delivery.phase.value,
        delivery.relay,
        reply.code if reply else None,
        reply.enhanced_code if reply else None,
        _storable(reply.text) if reply else None,
        _storable(delivery.error) if delivery.error else None,
        {a: (o.value, _storable(r)) for a, (o, r) in recipients.items()} if recipients else None,
        result.duration_s,
    )


def _storable(text: str) -> str:
    """Return text as PostgreSQL can keep it: no NUL, no half characters a relay sent, of sensible length."""
    return text.replace('\0', '\N{REPLACEMENT CHARACTER}').encode('utf-8', 'replace').decode()[:2000]
