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
    is_whole: bool = True  # else some of the content is left out, because it is large: db.bodies.fetch_email

    @property
    def key(self) -> tuple[int, UUID]:
        """What identifies this claim among all claims ever made."""
        return self.email.id, self.token


# What comes with a claim: ordinary mail, whole. Larger content is fetched in its turn, see db/bodies.py, so that no
# batch takes more than 40 MB, and a worker that large content kills has made an attempt, which counts as lost. Both
# functions tell a size without reading the content; the stored size of JSON is that of its compressed form.
_SMALL = {
    'recipient': 'octet_length(e.recipient) <= 16384',
    'subject': 'octet_length(e.subject) <= 4096',
    'body_text': 'octet_length(e.body_text) <= 32768',
    'body_html': 'octet_length(e.body_html) <= 65536',
    'email_type::text': 'octet_length(e.email_type::text) <= 1024',
    'template_id::text': 'octet_length(e.template_id::text) <= 1024',
    'template_data::text': 'pg_column_size(e.template_data) <= 2000',
    'headers::text': 'pg_column_size(e.headers) <= 2000',
    'content_id': 'octet_length(e.content_id) <= 1024',
    'message_id': 'octet_length(e.message_id) <= 1024',
}
_CONTENT = ', '.join(f'CASE WHEN {is_small} THEN e.{column} END' for column, is_small in _SMALL.items())
_IS_WHOLE = ' AND '.join(f'({is_small}) IS NOT FALSE' for is_small in _SMALL.values())

# The columns a claim returns, and the change it makes, are the same for one id and for a batch. The rows are fetched by
# an array of their ids, which leaves the planner no other way but the primary key: a join with `due`, or with unnest of
# the array, would have an order, and with statistics of a smaller table that order reads the whole table.
_CLAIMED = f"""
    SET status = 'sending',
        attempts = e.attempts + 1,
        -- An operator's `SET status = 'pending'` on an exhausted row grants one attempt more.
        max_attempts = GREATEST(e.max_attempts, e.attempts + 1),
        claim_token = $2, claimed_by = $3, claimed_at = now(), last_attempt_at = now(),
        lease_expires_at = now() + $4 * interval '1 second',
        message_id = COALESCE(e.message_id, '<' || gen_random_uuid() || '@' || $5 || '>'),
        message_date = COALESCE(e.message_date, now()),
        dead_reason = NULL, updated_at = now()
    WHERE e.id = ANY(ARRAY(SELECT id FROM due))
    -- in the order of Email's fields and _claim_from
    RETURNING e.id, {_CONTENT}, e.message_date,
        e.attempts, e.max_attempts, e.claimed_at,
        -- more than record writes
        CASE WHEN pg_column_size(e.recipient_outcomes) <= 262144 THEN e.recipient_outcomes END,
        e.lost_attempts,
        EXISTS (SELECT FROM email_suppressions) AS any_suppressed, -- asked once a statement
        -- not expires_at - now(), which fails for infinity
        EXTRACT(EPOCH FROM e.expires_at)::float8 - EXTRACT(EPOCH FROM now())::float8 AS life_left_s,
        {_IS_WHOLE} AS is_whole,
        e.priority, EXTRACT(EPOCH FROM e.next_retry_at)::float8 AS due_at
"""  # noqa: S608 - constants of this module

# An uncertain row with a time is one whose policy says retry; failed rows with a time have attempts left.
_WAITING = "status IN ('pending', 'failed', 'uncertain')"
_CLAIMABLE = """
    COALESCE(expires_at, 'infinity') > now() AND (status = 'pending' OR attempts < max_attempts)
"""
# An OR with `next_retry_at IS NULL` here would keep the due index from ending its scan at now().
_DUE = f'next_retry_at <= now() AND {_WAITING} AND {_CLAIMABLE}'

# A column inside a function hides from the planner what other indexes, ours or an application's, have of the row.
CLAIM_SQL = f"""
WITH due AS (
    SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND lost_attempts = 0
      AND COALESCE(status, '') IN ('pending', 'failed', 'uncertain') AND {_CLAIMABLE}
      AND COALESCE(next_retry_at, CASE WHEN status = 'pending' THEN now() END) <= now()
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
# later is never looked at. It stops as soon as it has enough, and locks no more rows than it returns. Rows are compared
# as pairs and sorted by pairs, so that no index but the due one can serve: with `priority = ` an index that an
# application has on next_retry_at alone would, and reads all that was ever sent.
CLAIM_DUE_SQL = f"""
WITH due AS (
    SELECT d.id
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE (priority, next_retry_at) BETWEEN (p.priority, '-infinity') AND (p.priority, now())
          AND next_retry_at IS NOT NULL AND lost_attempts = 0 AND {_WAITING} AND {_CLAIMABLE}
        ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
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
    return sorted(await pool.fetch(sql, *arguments), key=lambda row: (row['priority'] or 0, row['due_at'] or 0.0))


GIVE_DUE_TIME_SQL = """
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY(ARRAY(
    SELECT id FROM mail_outbox WHERE status = 'pending' AND next_retry_at IS NULL
    ORDER BY id -- only its index has this order, not one that an application has on next_retry_at
    LIMIT $1 FOR UPDATE SKIP LOCKED
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
    attempt, max_attempts, claimed_at, outcomes, lost, *more = row[len(Email._fields) : -2]
    settled = _settled(outcomes) if outcomes else {}
    email_id, recipient, *content = row[: len(Email._fields)]
    email = Email(email_id, recipient or '', *content)
    return Claim(email, token, attempt, max_attempts, claimed_at, settled, lost > 0, *more)


def _settled(stored: Any) -> Settled:
    """Read recipient_outcomes; what record did not write counts for nothing, and spoils no other claim of the batch."""
    try:
        return {address: (Outcome(outcome), str(reply)) for address, (outcome, reply) in stored.items()}
    except (AttributeError, TypeError, ValueError):
        return {}
