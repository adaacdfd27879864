"""Record what became of claimed e-mails, fenced by the claim token."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson

from db.claimed import Claim
from mail.outcome import Decision, Delivery, Settled
from mail_outbox.states import Status


class Result(NamedTuple):
    """A finished attempt: the claim it was made under, how it ended, what becomes of the row."""

    claim: Claim
    delivery: Delivery
    decision: Decision
    duration_s: float


# One statement writes the row and its attempt, or neither. The results come as one JSON text, {id:
# result}: 15 arrays took the worker twice as long to encode (2026-11). Nothing is joined: the rows
# are those of the ids, and each looks its result up. A join had an order, and with statistics of a
# smaller table that order read the whole primary key. COALESCE keeps the index of leased rows out
# of it, whose scan would read all that the fleet holds.
_RECORDING = """
WITH given AS MATERIALIZED (
    SELECT $1::text::jsonb AS results
), recorded AS (
    UPDATE mail_outbox AS e
    SET (status, attempts, max_attempts, next_retry_at, sent_at, dead_reason, smtp_code,
        smtp_response, enhanced_code,
            relay, last_error, recipient_outcomes) = (
            SELECT r.status,
                e.attempts - CASE WHEN r.counts THEN 0 ELSE 1 END,
                COALESCE(r.max_attempts, e.max_attempts),
                now() + r.retry_in_s * interval '1 second',
                CASE WHEN r.status = 'sent' THEN now() ELSE e.sent_at END,
                r.dead_reason, r.smtp_code, r.reply, r.enhanced_code, r.relay, r.error,
                COALESCE(r.recipient_outcomes, e.recipient_outcomes)
            FROM jsonb_to_record((SELECT results FROM given) -> e.id::text) AS r (
                status text, retry_in_s float8, counts boolean, max_attempts integer,
                dead_reason text, relay text,
                smtp_code integer, enhanced_code text, reply text, error text,
                recipient_outcomes jsonb
            )
        ),
        lost_attempts = 0,
        claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL,
        %s updated_at = now()
    WHERE e.id = ANY($3::bigint[]) AND COALESCE(e.status, '') = 'sending'
      -- the fence
      AND e.claim_token::text = (SELECT results FROM given) -> e.id::text ->> 'claim_token'
    RETURNING e.id, e.claimed_at, e.attempts, e.relay, e.smtp_code, e.enhanced_code,
        e.smtp_response, e.last_error
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay,
        smtp_code,
        enhanced_code, reply, error, duration_ms)
    SELECT e.id, e.claimed_at, e.attempts + CASE WHEN r.counts THEN 0 ELSE 1 END, $2::text,
        r.outcome, r.phase, e.relay,
        e.smtp_code, e.enhanced_code, e.smtp_response, e.last_error, r.duration_s * 1000
    FROM recorded AS e
    CROSS JOIN LATERAL jsonb_to_record((SELECT results FROM given) -> e.id::text) AS r (
        counts boolean, outcome text, phase text, duration_s float8
    )
)%s
SELECT id FROM recorded
"""
RECORD_SQL = _RECORDING % ('', '')

# For e-mails that were sent: what they said is gone in the same moment. '' and not NULL, which an
# application's own column may refuse. Attachments in MongoDB are orphans from then on, and go as
# such. A message of no bytes marks it: nobody gets an empty e-mail when it is made due once more.
_EMPTIED = """body_text = CASE WHEN body_text IS NOT NULL THEN '' END,
        body_html = CASE WHEN body_html IS NOT NULL THEN '' END,
        template_data = NULL, calendar = NULL, raw_message = '', content_id = NULL,"""
_DETACHED = """, detached AS (
    DELETE FROM email_attachments WHERE email_id = ANY(ARRAY(SELECT id FROM recorded))
)"""
RECORD_AND_DROP_SQL = _RECORDING % (_EMPTIED, _DETACHED)
DROP_CONTENT_SQL = f"""
WITH recorded AS (
    UPDATE mail_outbox SET {_EMPTIED} updated_at = now()
    WHERE id = ANY($1::bigint[]) AND COALESCE(status) = '{Status.SENT}'
      AND COALESCE(raw_message <> '', true)
    RETURNING id
){_DETACHED}
SELECT id FROM recorded
"""


async def record(
    pool: asyncpg.Pool, results: Sequence[Result], *, worker: str, drops: bool = False
) -> set[tuple[int, UUID]]:
    """Record finished attempts, each only if its claim is still the current one.

    Args:
        drops: Delete what the e-mails said: all of them were sent.
    Returns:
        The keys of the claims that were recorded. A claim that is missing was lost, or recorded by
        an earlier try: see db.late.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; all or none of the results
            were recorded, and recording them again is safe.
    """
    recorded: set[tuple[int, UUID]] = set()
    left = results
    while left:
        # Mostly all of them; twice the same e-mail, lost and claimed again meanwhile, needs two
        # statements.
        batch = {result.claim.email.id: result for result in reversed(left)}
        left = [result for result in left if batch[result.claim.email.id] is not result]
        rows = orjson.dumps(
            {str(email_id): storable_row(result) for email_id, result in batch.items()}
        ).decode()
        sql = RECORD_AND_DROP_SQL if drops else RECORD_SQL
        done = await pool.fetch(sql, rows, worker, sorted(batch))
        recorded |= {batch[row['id']].claim.key for row in done}
    return recorded


async def drop_content(pool: asyncpg.Pool, email_ids: Sequence[int]) -> None:
    """Delete what these e-mails said, of those that are sent.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was deleted.
    """
    await pool.execute(DROP_CONTENT_SQL, email_ids)


def storable_row(result: Result) -> dict[str, object]:
    """Return the columns of RECORD_SQL's two `r` that are not null, and the token."""
    (email, token, *_), delivery, decision, duration_s = result
    row: dict[str, object] = {
        'id': email.id,
        'claim_token': str(token),
        'status': decision.status,
        'counts': decision.counts,
        'outcome': delivery.outcome,
        'phase': delivery.phase,
        'relay': delivery.relay,
        'duration_s': duration_s,
    }
    if (reply := delivery.reply) is not None:
        row['smtp_code'], row['enhanced_code'], row['reply'] = (
            reply.code,
            reply.enhanced_code,
            storable(reply.text),
        )
    if delivery.error is not None:
        row['error'] = storable(delivery.error)
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
    reply_chars = max(
        200, 20_000 // max(len(recipients), 1)
    )  # a batch of results is kept small as well
    return {
        to: (outcome, storable(reply)[:reply_chars]) for to, (outcome, reply) in recipients.items()
    }


# It renews the lease as well: a renewal that comes just now passes over the row, because it is
# locked.
KEEP_RECIPIENTS_SQL = """
UPDATE mail_outbox SET recipient_outcomes = $3::text::jsonb,
    lease_expires_at = now() + $4 * interval '1 second'
WHERE id = $1 AND claim_token = $2 AND COALESCE(status, '') = 'sending'
"""


async def keep_recipients(
    pool: asyncpg.Pool, claim: Claim, recipients: Settled, lease_s: float
) -> None:
    """Write down what is known of an e-mail's recipients while it is still being sent.

    Nothing is written when the claim is no longer current.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    known = orjson.dumps(_outcomes(recipients)).decode()
    await pool.execute(KEEP_RECIPIENTS_SQL, claim.email.id, claim.token, known, lease_s)


def storable(text: str) -> str:
    """Return text as PostgreSQL can keep it, and of sensible length.

    NUL, and halves of characters that a relay sent, are replaced.
    """
    if text.isascii() and '\0' not in text:
        return text[:2000]
    return (
        text.replace('\0', '\N{REPLACEMENT CHARACTER}').encode('utf-8', 'replace').decode()[:2000]
    )
