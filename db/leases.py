"""Keep the claims of the living, and take those of the dead."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from db.claim_request import NEXT_ATTEMPT
from db.claimed import ClaimKey
from db.errors import DATABASE_DOWN
from db.narrowing import SetAside, give_up_rows, narrow
from db.states import IS_SENDING
from mail_outbox.states import DeadReason, Status

MAX_LOST_ATTEMPTS = 3  # in a row: then the e-mail is what kills the workers
RESCUE_BATCH = 500

# Rows are fetched by their ids, here and below, whatever the statistics say, see db/claims.py.
# OFFSET 0 keeps an EXISTS from becoming a join. SKIP LOCKED: a row that is locked is being recorded
# right now. What a claim lost is read from the snapshot instead.
RENEW_SQL = """
WITH held AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::uuid[]) AS h (id, claim_token)
), still AS (
    SELECT e.id FROM mail_outbox AS e
    WHERE e.id = ANY($1::bigint[]) AND e.claim_token = ANY($2::uuid[])
      AND COALESCE(e.status, '') = 'sending'
      AND EXISTS (SELECT FROM held AS h
                  WHERE h.id = e.id AND h.claim_token = e.claim_token OFFSET 0)
    FOR UPDATE SKIP LOCKED
), renewed AS (
    UPDATE mail_outbox AS e SET lease_expires_at = now() + $3 * interval '1 second'
    WHERE e.id = ANY(ARRAY(SELECT id FROM still))
)
SELECT h.id, h.claim_token FROM held AS h
WHERE NOT EXISTS (SELECT FROM mail_outbox AS e
                  WHERE e.id = h.id AND e.claim_token = h.claim_token
                    AND COALESCE(e.status, '') = 'sending' OFFSET 0)
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


# The outcome of a lost attempt is unknown, so the policy for uncertain ones decides: again, or wait
# for an operator. A retry is given back to the e-mail: it was not the relay that failed. Poison
# bounds how often. An attempt that is on record all the same (its row had refused the outcome) is
# not made again when it was accepted.
_IS_EXPIRED = f'{IS_SENDING} AND lease_expires_at < now()'


def _rescued(condition: str) -> str:
    """Return the parts of a statement that rescues the expired claims with this condition.

    Their result is in `rescued`. Parameters: $1 types to hold, $2 how many lost attempts are
    poison, $3 at most so many.
    """
    return f"""
WITH expired AS (
    SELECT id, COALESCE(claimed_by, 'nobody') AS claimed_by,
        COALESCE(claimed_at, now()) AS claimed_at,
        lost_attempts + 1 >= $2 AS poison, email_type::text = ANY($1::text[]) AS hold,
        -- not EXISTS, which the planner may answer by reading all attempts
        COALESCE((SELECT a.outcome = 'accepted' FROM email_attempts AS a
                  WHERE a.email_id = o.id AND a.started_at = o.claimed_at), false) AS sent
    FROM mail_outbox AS o WHERE {_IS_EXPIRED} AND {condition}
    ORDER BY lease_expires_at LIMIT $3 FOR UPDATE OF o SKIP LOCKED
), rescued AS (
    UPDATE mail_outbox AS e
    SET status = CASE WHEN x.sent THEN 'sent' WHEN x.poison THEN 'failed' ELSE 'uncertain' END,
        sent_at = CASE WHEN x.sent THEN x.claimed_at ELSE e.sent_at END,
        dead_reason = CASE WHEN x.poison AND NOT x.sent THEN '{DeadReason.POISON}' END,
        next_retry_at = CASE WHEN x.sent OR x.poison OR x.hold IS TRUE THEN NULL ELSE now() END,
        max_attempts = CASE WHEN x.sent OR x.poison OR x.hold IS TRUE THEN e.max_attempts
                            ELSE GREATEST(e.max_attempts, {NEXT_ATTEMPT}) END,
        lost_attempts = LEAST(e.lost_attempts, 32766) + 1,
        last_error = 'worker ' || x.claimed_by || ' was lost while sending',
        claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL, updated_at = now()
    -- the array: see RENEW_SQL
    FROM expired AS x WHERE e.id = x.id AND e.id = ANY(ARRAY(SELECT id FROM expired))
    RETURNING e.id, e.status, LEAST(GREATEST(COALESCE(e.attempts, 0), 0), 32767) AS attempts,
        e.next_retry_at IS NOT NULL AS due, x.claimed_by, x.claimed_at, e.last_error
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, error)
    SELECT id, claimed_at, attempts, claimed_by, 'lost', 'unknown', last_error FROM rescued
    ON CONFLICT DO NOTHING
)"""


_IS_NOT_SET_ASIDE = 'id <> ALL($4::bigint[])'
RESCUE_SQL = f"""
{_rescued(_IS_NOT_SET_ASIDE)}
SELECT id, claimed_by, status, due FROM rescued
"""

# A statement that reached a server which was frozen is run when that goes on, however long ago its
# worker gave it up. So it says when its worker had an answer last, by the server's clock, and
# rescues nothing when that was long ago.
_IS_IN_CONTACT = "now() < $5::timestamptz + $6 * interval '1 second' AND now() >= $7::timestamptz"
RESCUE_IN_CONTACT_SQL = f"""
{_rescued(f'{_IS_NOT_SET_ASIDE} AND {_IS_IN_CONTACT}')}
SELECT now() AS read_at, r.* FROM (VALUES (1)) AS one (n) LEFT JOIN rescued AS r ON true
"""
NOW_SQL = 'SELECT now()'
# Only these: when one row makes the statement fail.
EXPIRED_IDS_SQL = f"""
SELECT id FROM mail_outbox WHERE {_IS_EXPIRED} AND id <> ALL($2::bigint[])
ORDER BY lease_expires_at LIMIT $1
"""
RESCUE_THESE_SQL = f"""
{_rescued('id = ANY($4::bigint[])')}
SELECT id, claimed_by, status, due FROM rescued
"""


@dataclass(slots=True)
class Contact:
    """When a worker had PostgreSQL's answers, by the server's clock.

    Attributes:
        unreachable_s: A server that gave none for so long was unreachable.
        grace_s: So long after that nothing is rescued.
        answered_at_once: So the server did when this worker began. One that had to wait for it
            may have come at the end of an outage, and waits as well. If all that begin waited,
            nothing would ever be rescued where workers die younger than that (2026-11: killed
            every 0.5 to 2 s, e-mails lay for 98 s).
    """

    unreachable_s: float
    grace_s: float
    answered_at_once: bool = False
    seen_at: datetime | None = None
    quiet_until: datetime | None = None

    @property
    def arguments(self) -> tuple[datetime | None, float, datetime | None]:
        """Return $5 to $7 of RESCUE_IN_CONTACT_SQL; a NULL rescues nothing."""
        return self.seen_at, self.unreachable_s, self.quiet_until

    def note(self, read_at: datetime) -> None:
        """Note an answer."""
        if self.seen_at is None and self.answered_at_once:
            self.quiet_until = read_at
        elif self.seen_at is None or not timedelta() <= read_at - self.seen_at < timedelta(
            seconds=self.unreachable_s
        ):
            self.quiet_until = read_at + timedelta(seconds=self.grace_s)
        self.seen_at = read_at


async def rescue(
    pool: asyncpg.Pool,
    hold_types: Iterable[str],
    set_aside: SetAside | None = None,
    contact: Contact | None = None,
) -> list[Rescued]:
    """Take over the e-mails whose lease ran out anywhere in the fleet.

    Args:
        hold_types: The email_types whose uncertain attempts wait for an operator.
        set_aside: What this worker knows of rows that nobody can change.
        contact: Rescue nothing when the server was unreachable until just now; None: rescue in any
            case.
    Returns:
        What was rescued, at most RESCUE_BATCH at a time.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was rescued.
    """
    arguments = (list(hold_types), MAX_LOST_ATTEMPTS, RESCUE_BATCH)
    aside = set_aside or SetAside()
    try:
        rows = await _rescue(pool, arguments, aside.ids(), contact)
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError:
        rows = await _rescue_narrowly(pool, arguments, aside)
    return [Rescued(row['id'], row['claimed_by'], row['status'], row['due']) for row in rows]


async def _rescue(
    pool: asyncpg.Pool, arguments: tuple[object, ...], aside: list[int], contact: Contact | None
) -> list[asyncpg.Record]:
    if contact is None:
        return await pool.fetch(RESCUE_SQL, *arguments, aside)
    if contact.seen_at is None and contact.answered_at_once:
        # It need not wait for its second beat: where workers live for 3 s, few have one.
        contact.note(await pool.fetchval(NOW_SQL))
    rows = await pool.fetch(RESCUE_IN_CONTACT_SQL, *arguments, aside, *contact.arguments)
    contact.note(rows[0]['read_at'])
    return [row for row in rows if row['id'] is not None]


async def _rescue_narrowly(
    pool: asyncpg.Pool, arguments: tuple[object, ...], set_aside: SetAside
) -> list[asyncpg.Record]:
    rows = await pool.fetch(EXPIRED_IDS_SQL, RESCUE_BATCH, set_aside.ids())
    ids = [row['id'] for row in rows]
    found = await narrow(lambda part: pool.fetch(RESCUE_THESE_SQL, *arguments, part), ids)
    await give_up_rows(pool, found, set_aside, Status.UNCERTAIN)
    return found.done
