"""Outcomes of attempts whose claim is gone.

The attempt is recorded, and the row as well where nobody has it yet.
"""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import orjson

from db.results import Result, storable, storable_row
from db.states import CLAIMED, sql_list
from mail_outbox.states import Status

# Stands at the end of the attempt's error: what the row says did not come from this attempt.
TAKEN_BACK = 'its row was taken back before this was recorded'

# `known` is what is on record already: by an earlier try whose answer was lost, or `lost` by the
# rescue, which did not know better. The row gets the outcome when no later claim was made: after a
# rescue any, it says what the rescue could not know; when an operator took the row back only an
# acceptance, as sending it once more would make a copy.
RECORD_LATE_SQL = f"""
WITH r AS (
    SELECT * FROM json_to_recordset($1::text::json) AS r (
        id bigint, claimed_at timestamptz, attempt integer, status text, retry_in_s float8,
        counts boolean,
        max_attempts integer, dead_reason text, outcome text, phase text, relay text,
        smtp_code integer,
        enhanced_code text, reply text, error text, recipient_outcomes jsonb, duration_s float8
    )
), known AS (
    SELECT a.email_id AS id, a.started_at AS claimed_at,
        COALESCE(a.error, '') LIKE '%' || $3 AS is_late
    FROM r JOIN email_attempts AS a ON a.email_id = r.id AND a.started_at = r.claimed_at
      AND a.outcome <> 'lost'
    -- By the primary key, whatever the join's order: see RENEW_SQL
    WHERE a.email_id = ANY(ARRAY(SELECT id FROM r))
), fresh AS (
    SELECT * FROM r WHERE NOT EXISTS (SELECT FROM known AS k WHERE k.id = r.id
        AND k.claimed_at = r.claimed_at)
), settled AS (
    UPDATE mail_outbox AS e
    SET status = r.status,
        attempts = e.attempts - CASE WHEN r.counts THEN 0 ELSE 1 END,
        max_attempts = COALESCE(r.max_attempts, e.max_attempts),
        next_retry_at = now() + r.retry_in_s * interval '1 second',
        sent_at = CASE WHEN r.status = 'sent' THEN now() ELSE e.sent_at END,
        dead_reason = r.dead_reason, smtp_code = r.smtp_code, smtp_response = r.reply,
        enhanced_code = r.enhanced_code, relay = r.relay, last_error = r.error,
        recipient_outcomes = COALESCE(r.recipient_outcomes, e.recipient_outcomes),
        lost_attempts = 0, claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL,
        updated_at = now()
    FROM fresh AS r
    WHERE e.id = r.id AND e.id = ANY(ARRAY(SELECT id FROM r AS given))
      AND e.claimed_at = r.claimed_at
      -- not what an operator decided, or another claim holds
      AND COALESCE(e.status) IN ({sql_list((*CLAIMED, Status.EXPIRED))})
      AND (r.status = 'sent' OR (e.lost_attempts > 0 AND e.status <> 'expired'))
    RETURNING e.id, r.claimed_at
), attempted AS (
    INSERT INTO email_attempts AS a (email_id, started_at, attempt, worker, outcome, phase, relay,
        smtp_code,
        enhanced_code, reply, error, duration_ms)
    SELECT r.id, r.claimed_at, attempt, $2::text, outcome, phase, relay, smtp_code, enhanced_code,
        reply,
        CASE WHEN s.id IS NULL THEN concat_ws('; ', error, $3::text) ELSE error END,
        duration_s * 1000
    FROM fresh AS r LEFT JOIN settled AS s ON s.id = r.id AND s.claimed_at = r.claimed_at
    ON CONFLICT (email_id, started_at) DO UPDATE
    SET outcome = EXCLUDED.outcome, phase = EXCLUDED.phase, relay = EXCLUDED.relay,
        smtp_code = EXCLUDED.smtp_code,
        enhanced_code = EXCLUDED.enhanced_code, reply = EXCLUDED.reply, error = EXCLUDED.error,
        duration_ms = EXCLUDED.duration_ms, recorded_at = clock_timestamp()
    WHERE a.outcome = 'lost'
)
SELECT id, claimed_at FROM settled UNION ALL SELECT id, claimed_at FROM known WHERE NOT is_late
"""


async def record_late(
    pool: asyncpg.Pool, results: Sequence[Result], *, worker: str
) -> set[tuple[int, UUID]]:
    """Record attempts that RECORD_SQL did not find the claims of. Doing it again changes nothing.

    Returns:
        The keys of the claims whose row has the outcome after all: it was recorded before, or
        nobody had taken the e-mail over yet. The others' rows are as somebody else left them.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; all or nothing was
        recorded.
    """
    by_time = {(result.claim.email.id, result.claim.claimed_at): result for result in results}
    rows = [
        storable_row(result) | {'claimed_at': claimed_at, 'attempt': result.claim.attempt}
        for (_, claimed_at), result in sorted(by_time.items(), key=lambda item: item[0])
    ]
    settled = await pool.fetch(RECORD_LATE_SQL, orjson.dumps(rows).decode(), worker, TAKEN_BACK)
    return {by_time[row['id'], row['claimed_at']].claim.key for row in settled}


ATTEMPT_SQL = """
INSERT INTO email_attempts AS a (email_id, started_at, attempt, worker, outcome, phase, relay,
    smtp_code, error,
    duration_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (email_id, started_at) DO UPDATE
SET outcome = EXCLUDED.outcome, phase = EXCLUDED.phase, relay = EXCLUDED.relay,
    smtp_code = EXCLUDED.smtp_code,
    error = EXCLUDED.error, duration_ms = EXCLUDED.duration_ms, recorded_at = clock_timestamp()
WHERE a.outcome = 'lost'
"""


async def record_beside_row(
    pool: asyncpg.Pool, result: Result, error: Exception, *, worker: str
) -> None:
    """Record an attempt whose row PostgreSQL refuses to change, with the refusal.

    The rescue finds it, and does not send the e-mail again.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    claim, delivery, _, duration_s = result
    what = storable(
        f'{delivery.error or delivery.reply or ""}; its row refuses the outcome: {error}'.lstrip(
            '; '
        )
    )
    code = delivery.reply.code if delivery.reply else None
    values = (
        delivery.outcome.value,
        delivery.phase.value,
        delivery.relay,
        code,
        what,
        round(duration_s * 1000),
    )
    await pool.execute(
        ATTEMPT_SQL, claim.email.id, claim.claimed_at, claim.attempt, worker, *values
    )
