"""Whom an e-mail goes to, corrected by an operator."""

import asyncpg

from db.states import IS_EMPTIED, UNSENT, sql_list
from db.transitions import NEXT_MAX_ATTEMPTS
from mail_outbox.states import Status

# Not what is being sent, was sent and did not bounce, or is another program's.
CORRECTABLE = (*UNSENT, Status.BOUNCED)
# Who has got it already stays so, and gets no second copy; what was said of others is forgotten
# with the addresses it was said of.
CORRECT_RECIPIENT_SQL = f"""
UPDATE mail_outbox
SET recipient = $3, status = 'pending', next_retry_at = now(), dead_reason = NULL,
    feedback_at = NULL, feedback = NULL,
    lost_attempts = 0, max_attempts = {NEXT_MAX_ATTEMPTS},
    expires_at = CASE WHEN expires_at <= now() THEN now() + $4 * interval '1 hour'
                      ELSE expires_at END,
    recipient_outcomes = CASE WHEN jsonb_typeof(recipient_outcomes) = 'object' THEN (
        SELECT jsonb_object_agg(key, value) FROM jsonb_each(recipient_outcomes)
        WHERE value ->> 0 = 'accepted') END,
    updated_at = now()
WHERE id = $1::bigint AND recipient IS NOT DISTINCT FROM $2 AND status IN ({sql_list(CORRECTABLE)})
  AND NOT {IS_EMPTIED}
RETURNING id
"""


async def correct(
    pool: asyncpg.Pool, email_id: int, before: str | None, after: str, *, expiry_hours: float
) -> bool:
    """Give an e-mail another recipient, and make it due now, with at least one attempt left.

    Args:
        before: Its recipient as the operator saw it.
        expiry_hours: The new life of one that has expired.
    Returns:
        False when it has another recipient or state by now.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    done = await pool.fetchval(CORRECT_RECIPIENT_SQL, email_id, before, after, expiry_hours)
    return done is not None
