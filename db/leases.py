"""Keep the claims of the living, and take those of the dead."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

ClaimKey = tuple[int, UUID]

MAX_LOST_ATTEMPTS = 3  # in a row: then the e-mail is what kills the workers
RESCUE_BATCH = 500

# Rows are fetched by their ids, here and below, whatever the statistics say, see db/claims.py. OFFSET 0 keeps an
# EXISTS from becoming a join. SKIP LOCKED: a row that is locked is being recorded right now. What a claim lost is read
# from the snapshot instead.
RENEW_SQL = """
WITH held AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS h (id, claim_token)
), still AS (
    SELECT e.id FROM mail_outbox AS e
    WHERE e.id = ANY($1::bigint[]) AND e.claim_token = ANY($2::uuid[]) AND COALESCE(e.status, '') = 'sending'
      AND EXISTS (SELECT FROM held AS h WHERE h.id = e.id AND h.claim_token = e.claim_token OFFSET 0)
    FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE mail_outbox AS e SET lease_expires_at = now() + $3 * interval '1 second'
    WHERE e.id = ANY(ARRAY(SELECT id FROM still))
)
SELECT h.id, h.claim_token FROM held AS h
WHERE NOT EXISTS (SELECT FROM mail_outbox AS e
                  WHERE e.id = h.id AND e.claim_token = h.claim_token AND COALESCE(e.status, '') = 'sending' OFFSET 0)
"""


async def renew(pool: asyncpg.Pool, claims: Iterable[ClaimKey], lease_s: float) -> set[ClaimKey]:
    """Extend the leases of all claims of this worker in one statement.

    Returns:
        The claims that are lost: rescued by somebody, or taken back by an operator.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was renewed.
    """
    keys = list(claims)
    rows = await pool.fetch(RENEW_SQL, [key[0] for key in keys], [key[1] for key in keys], lease_s)
    return {(row['id'], row['claim_token']) for row in rows}


@dataclass(frozen=True, slots=True)
class Rescued:
    """An e-mail whose worker stopped renewing its lease."""

    email_id: int
    worker: str  # the one that was lost
    status: str
    due: bool  # whether it is to be sent again now


# The outcome of a lost attempt is unknown, so the policy for uncertain ones decides: again, or wait for an operator.
# A retry is given back to the e-mail: it was not the relay that failed. Poison bounds how often.
RESCUE_SQL = """
WITH expired AS (
    SELECT id, claimed_by, claimed_at, lost_attempts + 1 >= $2 AS poison, email_type::text = ANY($1::text[]) AS hold
    FROM mail_outbox WHERE status = 'sending' AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT $3 FOR UPDATE SKIP LOCKED
), rescued AS (
    UPDATE mail_outbox AS e
    SET status = CASE WHEN x.poison THEN 'failed' ELSE 'uncertain' END,
        dead_reason = CASE WHEN x.poison THEN 'poison' END,
        next_retry_at = CASE WHEN x.poison OR x.hold IS TRUE THEN NULL ELSE now() END,
        max_attempts = CASE WHEN x.poison OR x.hold IS TRUE THEN e.max_attempts
                            ELSE GREATEST(e.max_attempts, e.attempts + 1) END,
        lost_attempts = e.lost_attempts + 1,
        last_error = 'worker ' || e.claimed_by || ' was lost while sending',
        claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL, updated_at = now()
    FROM expired AS x WHERE e.id = x.id AND e.id = ANY(ARRAY(SELECT id FROM expired)) -- see RENEW_SQL
    RETURNING e.id, e.status, e.attempts, e.next_retry_at IS NOT NULL AS due, x.claimed_by, x.claimed_at, e.last_error
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, error)
    SELECT id, claimed_at, attempts, claimed_by, 'lost', 'unknown', last_error FROM rescued
)
SELECT id, claimed_by, status, due FROM rescued
"""


async def rescue(pool: asyncpg.Pool, hold_types: Iterable[str]) -> list[Rescued]:
    """Take over the e-mails whose lease ran out anywhere in the fleet.

    Args:
        hold_types: The email_types whose uncertain attempts wait for an operator.
    Returns:
        What was rescued, at most RESCUE_BATCH at a time.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was rescued.
    """
    rows = await pool.fetch(RESCUE_SQL, list(hold_types), MAX_LOST_ATTEMPTS, RESCUE_BATCH)
    return [Rescued(row['id'], row['claimed_by'], row['status'], row['due']) for row in rows]
