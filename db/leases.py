"""Keep the claims of the living, and take those of the dead."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from db.claims import NEXT_ATTEMPT
from db.narrowing import SetAside, give_up_rows, narrow
from db.pools import DATABASE_DOWN

ClaimKey = tuple[int, UUID]

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


# The outcome of a lost attempt is unknown, so the policy for uncertain ones decides: again, or wait
# for an operator. A retry is given back to the e-mail: it was not the relay that failed. Poison
# bounds how often. An attempt that is on record all the same (its row had refused the outcome) is
# not made again when it was accepted.
_OVER = "status = 'sending' AND lease_expires_at < now()"
RESCUE_SQL = f"""
WITH expired AS (
    SELECT id, COALESCE(claimed_by, 'nobody') AS claimed_by, COALESCE(claimed_at, now()) AS claimed_at,
        lost_attempts + 1 >= $2 AS poison, email_type::text = ANY($1::text[]) AS hold,
        -- not EXISTS, which the planner may answer by reading all attempts
        COALESCE((SELECT a.outcome = 'accepted' FROM email_attempts AS a
                  WHERE a.email_id = o.id AND a.started_at = o.claimed_at), false) AS sent
    FROM mail_outbox AS o WHERE {_OVER}
    ORDER BY lease_expires_at LIMIT $3 FOR UPDATE OF o SKIP LOCKED
), rescued AS (
    UPDATE mail_outbox AS e
    SET status = CASE WHEN x.sent THEN 'sent' WHEN x.poison THEN 'failed' ELSE 'uncertain' END,
        sent_at = CASE WHEN x.sent THEN x.claimed_at ELSE e.sent_at END,
        dead_reason = CASE WHEN x.poison AND NOT x.sent THEN 'poison' END,
        next_retry_at = CASE WHEN x.sent OR x.poison OR x.hold IS TRUE THEN NULL ELSE now() END,
        max_attempts = CASE WHEN x.sent OR x.poison OR x.hold IS TRUE THEN e.max_attempts
                            ELSE GREATEST(e.max_attempts, {NEXT_ATTEMPT}) END,
        lost_attempts = LEAST(e.lost_attempts, 32766) + 1,
        last_error = 'worker ' || x.claimed_by || ' was lost while sending',
        claim_token = NULL, claimed_by = NULL, lease_expires_at = NULL, updated_at = now()
    FROM expired AS x WHERE e.id = x.id AND e.id = ANY(ARRAY(SELECT id FROM expired)) -- see RENEW_SQL
    RETURNING e.id, e.status, LEAST(GREATEST(COALESCE(e.attempts, 0), 0), 32767) AS attempts,
        e.next_retry_at IS NOT NULL AS due, x.claimed_by, x.claimed_at, e.last_error
), attempted AS (
    INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, error)
    SELECT id, claimed_at, attempts, claimed_by, 'lost', 'unknown', last_error FROM rescued
    ON CONFLICT DO NOTHING
)
SELECT id, claimed_by, status, due FROM rescued
"""  # noqa: S608 - constants of this module


# A statement that reached a server which was frozen is run when that goes on, however long ago its
# worker gave it up. So it says when its worker had an answer last, by the server's clock, and
# rescues nothing when that was long ago.
RESCUE_UNLESS_AWAY_SQL = RESCUE_SQL.replace(  # noqa: S608 - constants of this module
    _OVER,
    f"{_OVER} AND now() < $4::timestamptz + $5 * interval '1 second' AND now() >= $6::timestamptz",
).replace(
    'SELECT id, claimed_by, status, due FROM',
    'SELECT now() AS read_at, r.* FROM (VALUES (1)) AS one (n) LEFT JOIN',
) + (' AS r ON true')
# Only these: when one row makes the statement fail.
EXPIRED_IDS_SQL = f'SELECT id FROM mail_outbox WHERE {_OVER} ORDER BY lease_expires_at LIMIT $1'  # noqa: S608
RESCUE_THESE_SQL = RESCUE_SQL.replace(_OVER, f'{_OVER} AND id = ANY($4::bigint[])')


@dataclass(slots=True)
class Contact:
    """When a worker had PostgreSQL's answers, by the server's clock.

    Attributes:
        away_s: A server that gave none for so long was away.
        grace_s: So long after that nothing is rescued. A worker that has just begun cannot know,
            and waits as well.
    """

    away_s: float
    grace_s: float
    seen_at: datetime | None = None
    quiet_until: datetime | None = None

    @property
    def arguments(self) -> tuple[datetime | None, float, datetime | None]:
        """Return $4 to $6 of RESCUE_UNLESS_AWAY_SQL; a NULL rescues nothing."""
        return self.seen_at, self.away_s, self.quiet_until

    def note(self, read_at: datetime) -> None:
        """Note an answer."""
        if self.seen_at is None or not timedelta() <= read_at - self.seen_at < timedelta(
            seconds=self.away_s
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
        contact: Rescue nothing when the server was away until just now; None: rescue in any case.
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
    sql = RESCUE_SQL
    if contact is not None:
        sql, arguments = RESCUE_UNLESS_AWAY_SQL, (*arguments, *contact.arguments)
    if aside:
        sql, arguments = (
            sql.replace(_OVER, f'{_OVER} AND id <> ALL(${len(arguments) + 1}::bigint[])'),
            (*arguments, aside),
        )
    rows = list(await pool.fetch(sql, *arguments))
    if contact is None:
        return rows
    contact.note(rows[0]['read_at'])
    return [row for row in rows if row['id'] is not None]


async def _rescue_narrowly(
    pool: asyncpg.Pool, arguments: tuple[object, ...], set_aside: SetAside
) -> list[asyncpg.Record]:
    aside = set_aside.ids()
    expired = [row['id'] for row in await pool.fetch(EXPIRED_IDS_SQL, RESCUE_BATCH + len(aside))]
    ids = [email_id for email_id in expired if email_id not in aside]
    found = await narrow(lambda part: pool.fetch(RESCUE_THESE_SQL, *arguments, part), ids)
    await give_up_rows(pool, found, set_aside, 'uncertain')
    return found.done
