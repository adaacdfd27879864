"""Claim e-mails, then record what became of them, fenced by the claim token."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from mail.envelope import Email
from mail.outcome import Outcome, Settled

Names = Sequence[str]


class LeaseLost(Exception):  # noqa: N818 - the design's word
    """Somebody else holds this e-mail now, or an operator changed its state."""


class Claim(NamedTuple):
    """The right to send one e-mail, until the lease runs out."""

    email: Email
    token: UUID
    attempt: int
    max_attempts: int
    claimed_at: datetime
    settled: Settled  # recipients whose outcome an earlier attempt decided
    suspect: bool = False  # the last worker that held it was lost
    any_suppressed: bool = False  # somebody gets no mail: see whether it is one of the recipients
    life_left_s: float | None = None  # when it was claimed; None: it does not expire

    @property
    def key(self) -> tuple[int, UUID]:
        """What identifies this claim among all claims ever made."""
        return self.email.id, self.token


# The columns a claim returns, and the change it makes, are the same for one id and for a batch. The planner takes an
# array for ten rows and fetches each by the primary key; for `FROM due` it may read the whole table.
_CLAIMED = """
    SET status = 'sending',
        attempts = e.attempts + 1,
        -- An operator's `SET status = 'pending'` on an exhausted row grants one attempt more.
        max_attempts = GREATEST(e.max_attempts, e.attempts + 1),
        claim_token = $2, claimed_by = $3, claimed_at = now(), last_attempt_at = now(),
        lease_expires_at = now() + $4 * interval '1 second',
        message_id = COALESCE(e.message_id, '<' || gen_random_uuid() || '@' || $5 || '>'),
        message_date = COALESCE(e.message_date, now()),
        dead_reason = NULL, updated_at = now()
    FROM unnest(ARRAY(SELECT id FROM due)) AS claimed (id) WHERE e.id = claimed.id
    -- in the order of Email's fields and _claim_from
    RETURNING e.id, e.recipient, e.subject, e.body_text, e.body_html, e.email_type::text, e.template_id::text,
        e.template_data::text, e.headers::text, e.content_id, e.message_id, e.message_date,
        e.attempts, e.max_attempts, e.claimed_at, e.recipient_outcomes, e.lost_attempts,
        EXISTS (SELECT FROM email_suppressions) AS any_suppressed, -- asked once a statement
        -- not expires_at - now(), which fails for infinity
        EXTRACT(EPOCH FROM e.expires_at)::float8 - EXTRACT(EPOCH FROM now())::float8 AS life_left_s
"""

# An uncertain row with a time is one whose policy says retry; failed rows with a time have attempts left.
_CLAIMABLE = """
    status IN ('pending', 'failed', 'uncertain') AND (expires_at IS NULL OR expires_at > now())
    AND (status = 'pending' OR attempts < max_attempts)
"""
# An OR with `next_retry_at IS NULL` here would keep the due index from ending its scan at now().
_DUE = f'next_retry_at <= now() AND {_CLAIMABLE}'

CLAIM_SQL = f"""
WITH due AS (
    SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND lost_attempts = 0 AND {_CLAIMABLE}
      AND (next_retry_at <= now() OR (status = 'pending' AND next_retry_at IS NULL))
    FOR UPDATE SKIP LOCKED
)
UPDATE mail_outbox AS e {_CLAIMED}
"""  # noqa: S608 - constants of this module


async def claim(
    pool: asyncpg.Pool,
    email_ids: Sequence[int],
    *,
    worker: str,
    lease_s: float,
    message_id_domain: str,
    paused_types: Names = (),
) -> list[Claim]:
    """Claim the e-mails among these ids that are due and held by nobody, and start their leases.

    The attempt is committed when this returns: whatever happens afterwards, it was made.

    Args:
        paused_types: E-mails of these types are left alone.
        lease_s: Lease length in seconds; longer than the slowest gap between two renewals.
        message_id_domain: Right-hand side of the Message-ID of an e-mail that has none yet.
    Returns:
        One claim, with attempt >= 1, for each e-mail that was claimed; none for those that are not due, are final, are
        held elsewhere, or are suspects, see claim_suspects.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was claimed, or the lease will run out.
    """
    token = uuid4()
    rows = await _fetch(pool, CLAIM_SQL, paused_types, email_ids, token, worker, lease_s, message_id_domain)
    return [_claim_from(row, token) for row in rows]


# The lateral join walks the due index once per priority, so low priority mail never delays high, and mail scheduled for
# later is never looked at. It stops as soon as it has enough, and locks no more rows than it returns.
CLAIM_DUE_SQL = f"""
WITH due AS (
    SELECT d.id
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE priority = p.priority AND lost_attempts = 0 AND {_DUE}
        ORDER BY next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT $1
)
UPDATE mail_outbox AS e {_CLAIMED}
"""  # noqa: S608 - constants of this module


async def claim_due(
    pool: asyncpg.Pool, limit: int, *, worker: str, lease_s: float, message_id_domain: str, paused_types: Names = ()
) -> list[Claim]:
    """Claim up to limit e-mails that are due, by priority and then the longest due first.

    Rows with no next_retry_at are not seen before give_due_time has given them one.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    token = uuid4()
    rows = await _fetch(pool, CLAIM_DUE_SQL, paused_types, limit, token, worker, lease_s, message_id_domain)
    return [_claim_from(row, token) for row in rows]


CLAIM_SUSPECTS_SQL = f"""
WITH due AS (
    SELECT id FROM mail_outbox
    WHERE lost_attempts = $6 AND lost_attempts > 0 AND {_DUE}
    ORDER BY next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE mail_outbox AS e {_CLAIMED}
"""  # noqa: S608 - constants of this module


async def claim_suspects(
    pool: asyncpg.Pool,
    lost_attempts: int,
    limit: int,
    *,
    worker: str,
    lease_s: float,
    message_id_domain: str,
    paused_types: Names = (),
) -> list[Claim]:
    """Claim e-mails that were held when their last workers died or lost their leases.

    One of them may be what killed the worker, so they are kept apart from all other mail until an attempt is recorded.

    Args:
        lost_attempts: How many attempts in a row were lost.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    token = uuid4()
    arguments = (limit, token, worker, lease_s, message_id_domain, lost_attempts)
    rows = await _fetch(pool, CLAIM_SUSPECTS_SQL, paused_types, *arguments)
    return [_claim_from(row, token) for row in rows]


async def _fetch(pool: asyncpg.Pool, sql: str, paused_types: Names, *arguments: object) -> Sequence[asyncpg.Record]:
    """Run a claim; mostly no type is paused, and then nothing asks for it."""
    if paused_types:
        arguments = (*arguments, list(paused_types))
        is_open = f'AND (email_type IS NULL OR email_type::text <> ALL(${len(arguments)}::text[]))'
        sql = sql.replace(_CLAIMABLE, _CLAIMABLE + is_open)
    return await pool.fetch(sql, *arguments)


GIVE_DUE_TIME_SQL = """
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY(ARRAY(
    SELECT id FROM mail_outbox WHERE status = 'pending' AND next_retry_at IS NULL LIMIT $1 FOR UPDATE SKIP LOCKED
))
"""
DUE_TIME_BATCH = 10_000  # a tenth of a second: a million in one statement would run into its time limit, every time


async def give_due_time(pool: asyncpg.Pool) -> bool:
    """Make pending rows that were inserted without a time due now, so that the due index holds them.

    Returns:
        Whether there were any.
    """
    done = await pool.execute(GIVE_DUE_TIME_SQL, DUE_TIME_BATCH)
    while done == f'UPDATE {DUE_TIME_BATCH}':
        done = await pool.execute(GIVE_DUE_TIME_SQL, DUE_TIME_BATCH)
        if done == 'UPDATE 0':
            return True
    return done != 'UPDATE 0'


def _claim_from(row: asyncpg.Record, token: UUID) -> Claim:
    """Read a row of _CLAIMED: the fields of Email, then what is the claim's."""
    attempt, max_attempts, claimed_at, outcomes, lost, any_suppressed, life_left_s = row[len(Email._fields) :]
    settled = _settled(outcomes) if outcomes else {}
    email = Email(*row[: len(Email._fields)])
    return Claim(email, token, attempt, max_attempts, claimed_at, settled, lost > 0, any_suppressed, life_left_s)


def _settled(stored: Any) -> Settled:
    """Read recipient_outcomes; what record did not write counts for nothing, and spoils no other claim of the batch."""
    try:
        return {address: (Outcome(outcome), str(reply)) for address, (outcome, reply) in stored.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
