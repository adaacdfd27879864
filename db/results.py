"""Record what became of claimed e-mails, fenced by the claim token."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson

from db.claims import Claim
from mail.outcome import Decision, Delivery, Settled


class Result(NamedTuple):
    """A finished attempt: the claim it was made under, how it ended, what becomes of the row."""

    claim: Claim
    delivery: Delivery
    decision: Decision
    duration_s: float


# One statement writes the row and its attempt, or neither. The fence is the WHERE of `recorded`. The results come as
# one JSON text: 15 arrays took the worker twice as long to encode (2026-11).
RECORD_SQL = """
WITH recorded AS (
    UPDATE mail_outbox AS e
    SET status = r.status,
        attempts = e.attempts - CASE WHEN r.counts THEN 0 ELSE 1 END,
        max_attempts = COALESCE(r.max_attempts, e.max_attempts),
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
    FROM json_to_recordset($1::text::json) AS r (
        id bigint, claim_token uuid, status text, retry_in_s float8, counts boolean, max_attempts integer,
        dead_reason text, outcome text, phase text, relay text, smtp_code integer, enhanced_code text, reply text,
        error text, recipient_outcomes jsonb, duration_s float8
    )
    -- COALESCE: else the planner starts from the index of leased rows and reads all results once for each of them.
    WHERE e.id = r.id AND COALESCE(e.status) = 'sending' AND e.claim_token = r.claim_token
    -- All that the attempt's row needs: joining the values once more would take the square of their number.
    RETURNING e.id, r.claim_token, e.claimed_at, e.attempts + CASE WHEN r.counts THEN 0 ELSE 1 END AS attempt,
        r.outcome, r.phase, r.relay, r.smtp_code, r.enhanced_code, r.reply, r.error, r.duration_s
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, smtp_code,
        enhanced_code, reply, error, duration_ms)
    SELECT id, claimed_at, attempt, $2::text, outcome, phase, relay, smtp_code,
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
    # In one order everywhere: two statements that share rows must not wait for each other.
    rows = [_record_row(result) for result in sorted(results, key=_email_id)]
    recorded = await pool.fetch(RECORD_SQL, orjson.dumps(rows).decode(), worker)
    return {(row['id'], row['claim_token']) for row in recorded}


def _email_id(result: Result) -> int:
    return result.claim.email.id


IS_RECORDED_SQL = """
SELECT EXISTS (SELECT FROM email_attempts WHERE email_id = $1 AND started_at = $2 AND outcome = $3)
"""


async def is_recorded(pool: asyncpg.Pool, result: Result) -> bool:
    """Return whether this very attempt is on record already, with this outcome."""
    claim = result.claim
    found: bool = await pool.fetchval(IS_RECORDED_SQL, claim.email.id, claim.claimed_at, result.delivery.outcome.value)
    return found


def _record_row(result: Result) -> dict[str, object]:
    """Return the columns of RECORD_SQL's `r` that are not null."""
    (email, token, *_), delivery, decision, duration_s = result
    row: dict[str, object] = {
        'id': email.id,
        'claim_token': token,
        'status': decision.status,
        'counts': decision.counts,
        'outcome': delivery.outcome,
        'phase': delivery.phase,
        'relay': delivery.relay,
        'duration_s': duration_s,
    }
    if (reply := delivery.reply) is not None:
        row['smtp_code'], row['enhanced_code'], row['reply'] = reply.code, reply.enhanced_code, _storable(reply.text)
    if delivery.error is not None:
        row['error'] = _storable(delivery.error)
    if decision.retry_in_s is not None:
        row['retry_in_s'] = decision.retry_in_s
    if decision.max_attempts is not None:
        row['max_attempts'] = decision.max_attempts
    if decision.dead_reason is not None:
        row['dead_reason'] = decision.dead_reason
    if delivery.recipients:
        row['recipient_outcomes'] = _outcomes(delivery.recipients)
    return row


def _outcomes(recipients: Settled) -> dict[str, tuple[str, str]]:
    return {to: (outcome, _storable(reply)) for to, (outcome, reply) in recipients.items()}


# It renews the lease as well: a renewal that comes just now passes over the row, because it is locked.
KEEP_RECIPIENTS_SQL = """
UPDATE mail_outbox SET recipient_outcomes = $3::text::jsonb, lease_expires_at = now() + $4 * interval '1 second'
WHERE id = $1 AND claim_token = $2 AND status = 'sending'
"""


async def keep_recipients(pool: asyncpg.Pool, claim: Claim, recipients: Settled, lease_s: float) -> None:
    """Write down what is known of an e-mail's recipients while it is still being sent, if the claim is still current.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    known = orjson.dumps(_outcomes(recipients)).decode()
    await pool.execute(KEEP_RECIPIENTS_SQL, claim.email.id, claim.token, known, lease_s)


def _storable(text: str) -> str:
    """Return text as PostgreSQL can keep it: no NUL, no half characters a relay sent, of sensible length."""
    if text.isascii() and '\0' not in text:
        return text[:2000]
    return text.replace('\0', '\N{REPLACEMENT CHARACTER}').encode('utf-8', 'replace').decode()[:2000]
