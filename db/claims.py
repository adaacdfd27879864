"""Claim e-mails, then record what became of them, fenced by the claim token."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg

from db.narrowing import UNREADABLE, SetAside, give_up_rows, narrow
from db.pools import DATABASE_DOWN
from mail.outcome import Outcome, Settled
from mail.priority import NORMAL, known_priority
from mail_outbox.envelope import Email

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
    is_whole: bool = (
        True  # else some of the content is left out, because it is large: db.bodies.fetch_email
    )
    priority: int = NORMAL

    @property
    def key(self) -> tuple[int, UUID]:
        """What identifies this claim among all claims ever made."""
        return self.email.id, self.token


# What comes with a claim: ordinary mail, whole. Larger content is fetched in its turn, see
# db/bodies.py, so that no batch takes more than 40 MB, and a worker that large content kills has
# made an attempt, which counts as lost. Both functions tell a size without reading the content; the
# stored size of JSON is that of its compressed form.
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
_CONTENT = ', '.join(
    f'CASE WHEN {is_small} THEN e.{column} END' for column, is_small in _SMALL.items()
)
_IS_WHOLE = ' AND '.join(f'({is_small}) IS NOT FALSE' for is_small in _SMALL.values())

# Of a row whose number is none, negative, or larger than its column or email_attempts could count
# on. BY_LIFE at most.
NEXT_ATTEMPT = 'LEAST(GREATEST(COALESCE(e.attempts, 0), 0), 32766) + 1'

# From what the row is: a server that was restored, or that lags behind the one that failed, makes
# the same once more.
MADE_MESSAGE_ID = """'<' || left(encode(sha256(convert_to(
            e.id || ' ' || COALESCE(EXTRACT(EPOCH FROM e.created_at)::text, '') || ' ' || $5, 'UTF8')), 'hex'), 32)
            || '@' || $5 || '>'"""

# The columns a claim returns, and the change it makes, are the same for one id and for a batch. The
# rows are fetched by an array of their ids, which leaves the planner no other way but the primary
# key: a join with `due`, or with unnest of the array, would have an order, and with statistics of a
# smaller table that order reads the whole table.
_CLAIMED = f"""
    SET status = 'sending',
        attempts = {NEXT_ATTEMPT},
        -- An operator's `SET status = 'pending'` on an exhausted row grants one attempt more.
        max_attempts = GREATEST(e.max_attempts, {NEXT_ATTEMPT}),
        claim_token = $2, claimed_by = $3, claimed_at = now(), last_attempt_at = now(),
        lease_expires_at = now() + $4 * interval '1 second',
        message_id = COALESCE(e.message_id, {MADE_MESSAGE_ID}),
        message_date = CASE WHEN e.message_date BETWEEN '1900-01-01' AND '9999-12-30' THEN e.message_date
                            ELSE now() END, -- a header's date has four digits
        dead_reason = NULL, updated_at = now()
    WHERE e.id = ANY(ARRAY(SELECT id FROM due))
    -- in the order of Email's fields and _claim_from
    RETURNING e.id, {_CONTENT}, e.message_date,
        e.attempts, e.max_attempts, e.claimed_at,
        -- more than record writes
        CASE WHEN pg_column_size(e.recipient_outcomes) <= 262144 THEN e.recipient_outcomes::text END,
        e.lost_attempts,
        EXISTS (SELECT FROM email_suppressions) AS any_suppressed, -- asked once a statement
        -- not expires_at - now(), which fails for infinity
        EXTRACT(EPOCH FROM e.expires_at::timestamptz)::float8 - EXTRACT(EPOCH FROM now())::float8 AS life_left_s,
        {_IS_WHOLE} AS is_whole,
        e.priority, EXTRACT(EPOCH FROM e.next_retry_at)::float8 AS due_at
"""  # noqa: S608 - constants of this module

# An uncertain row with a time is one whose policy says retry; failed rows with a time have attempts
# left.
_WAITING = "status IN ('pending', 'failed', 'uncertain')"
CLAIMABLE = """
    COALESCE(expires_at, 'infinity') > now() AND (status = 'pending' OR attempts < max_attempts)
"""
# An OR with `next_retry_at IS NULL` here would keep the due index from ending its scan at now().
_DUE = f'next_retry_at <= now() AND {_WAITING} AND {CLAIMABLE}'

# A column inside a function hides from the planner what other indexes, ours or an application's,
# have of the row.
CLAIM_SQL = f"""
WITH due AS (
    SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND lost_attempts = 0
      AND COALESCE(status, '') IN ('pending', 'failed', 'uncertain') AND {CLAIMABLE}
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
    set_aside: SetAside | None = None,
) -> list[Claim]:
    """Claim the e-mails among these ids that are due and held by nobody, and start their leases.

    The attempt is committed when this returns: whatever happens afterwards, it was made.

    Args:
        paused_types: E-mails of these types are left alone.
        lease_s: Lease length in seconds; longer than the slowest gap between two renewals.
        message_id_domain: Right-hand side of the Message-ID of an e-mail that has none yet.
        set_aside: What this worker knows of rows that nobody can change.
    Returns:
        One claim, with attempt >= 1, for each e-mail that was claimed; none for those that are not
        due, are final, are held elsewhere, or are suspects, see claim_suspects.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was claimed, or the
        lease will run out.
    """
    asking = _Asking(
        pool, paused_types, set_aside or SetAside(), (uuid4(), worker, lease_s, message_id_domain)
    )
    return await asking.claim(CLAIM_SQL, email_ids)


# The lateral join walks the due index once per priority, so low priority mail never delays high,
# and mail scheduled for later is never looked at. It stops as soon as it has enough, and locks no
# more rows than it returns. Rows are compared as pairs and sorted by pairs, so that no index but
# the due one can serve: with `priority = ` an index that an application has on next_retry_at alone
# would, and reads all that was ever sent.
DUE_SQL = f"""
    SELECT d.id
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE (priority, next_retry_at) BETWEEN (p.priority, '-infinity') AND (p.priority, now())
          AND next_retry_at IS NOT NULL AND lost_attempts = 0 AND {_WAITING} AND {CLAIMABLE}
        ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT $1
"""  # noqa: S608 - constants of this module
CLAIM_DUE_SQL = f"""
WITH due AS ({DUE_SQL})
UPDATE mail_outbox AS e {_CLAIMED}
"""


async def claim_due(
    pool: asyncpg.Pool,
    limit: int,
    *,
    worker: str,
    lease_s: float,
    message_id_domain: str,
    paused_types: Names = (),
    set_aside: SetAside | None = None,
) -> list[Claim]:
    """Claim up to limit e-mails that are due, by priority and then the longest due first.

    Rows with no next_retry_at are not seen before give_due_time has given them one.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    asking = _Asking(
        pool, paused_types, set_aside or SetAside(), (uuid4(), worker, lease_s, message_id_domain)
    )
    return await asking.claim(CLAIM_DUE_SQL, limit, find=DUE_SQL)


# An operator may have set a row to pending that was lost more often than is counted: it is sent
# like those before it.
SUSPECTS_SQL = f"""
    SELECT id FROM mail_outbox
    WHERE LEAST(lost_attempts, 2) = $2 AND lost_attempts > 0 AND {_DUE}
    ORDER BY next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants of this module
CLAIM_SUSPECTS_SQL = f"""
WITH due AS ({SUSPECTS_SQL.replace('$2', '$6')})
UPDATE mail_outbox AS e {_CLAIMED}
"""


async def claim_suspects(
    pool: asyncpg.Pool,
    lost_attempts: int,
    limit: int,
    *,
    worker: str,
    lease_s: float,
    message_id_domain: str,
    paused_types: Names = (),
    set_aside: SetAside | None = None,
) -> list[Claim]:
    """Claim e-mails that were held when their last workers died or lost their leases.

    One of them may be what killed the worker, so they are kept apart from all other mail until an
    attempt is recorded.

    Args:
        lost_attempts: How many attempts in a row were lost.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    asking = _Asking(
        pool, paused_types, set_aside or SetAside(), (uuid4(), worker, lease_s, message_id_domain)
    )
    return await asking.claim(CLAIM_SUSPECTS_SQL, limit, lost_attempts, find=SUSPECTS_SQL)


CLAIM_THESE_SQL = CLAIM_SQL.replace(' AND lost_attempts = 0', '')
CLAIMED_IDS_SQL = "SELECT id FROM mail_outbox WHERE status = 'sending' AND claim_token = $1"
READ_CLAIMED_SQL = f"""
SELECT {_CLAIMED.partition('RETURNING')[2]} FROM mail_outbox AS e
WHERE e.id = ANY($1::bigint[]) AND e.status = 'sending' AND e.claim_token = $2
"""  # noqa: S608 - constants of this module


class _Asking(NamedTuple):
    """One claim, which one row may spoil: then that row is found, and gets a state and a reason."""

    pool: asyncpg.Pool
    paused_types: Names
    set_aside: SetAside
    claimant: tuple[UUID, str, float, str]  # $2 to $5

    async def claim(
        self, sql: str, first: object, *more: object, find: str | None = None
    ) -> list[Claim]:
        """Run a claim; find: the statement that tells which rows it is about, when these are not its first value."""
        token = self.claimant[0]
        try:
            rows = await self._fetch(sql, first, *self.claimant, *more)
            self.set_aside.passed(rows)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError:
            ids: Any = (
                first
                if find is None
                else [row['id'] for row in await self._fetch(find, first, *more)]
            )
            rows = await self._claim_narrowly(ids)
        except UNREADABLE:  # they are claimed, and one of them cannot be decoded
            rows = await self._read_claimed()
        in_turn = sorted(rows, key=lambda row: (row['priority'] or 0, row['due_at'] or 0.0))
        return [_claim_from(row, token) for row in in_turn]

    async def _claim_narrowly(self, ids: Sequence[int]) -> Sequence[asyncpg.Record]:
        async def claim(part: Sequence[int]) -> Sequence[asyncpg.Record]:
            try:
                return await self._fetch(CLAIM_THESE_SQL, part, *self.claimant)
            except UNREADABLE:
                return []

        found = await narrow(claim, ids)
        await give_up_rows(self.pool, found, self.set_aside)
        return await self._read_claimed()

    async def _read_claimed(self) -> Sequence[asyncpg.Record]:
        token = self.claimant[0]
        ids = [row['id'] for row in await self.pool.fetch(CLAIMED_IDS_SQL, token)]
        found = await narrow(lambda part: self.pool.fetch(READ_CLAIMED_SQL, part, token), ids)
        await give_up_rows(self.pool, found, self.set_aside, token=token)
        return found.done

    async def _fetch(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run a statement; mostly no type is paused and no row is set aside, and then nothing asks for it."""
        conditions = ''
        if self.paused_types:
            arguments = (*arguments, list(self.paused_types))
            conditions += (
                f' AND (email_type IS NULL OR email_type::text <> ALL(${len(arguments)}::text[]))'
            )
        if ids := self.set_aside.ids():
            arguments = (*arguments, ids)
            conditions += f' AND id <> ALL(${len(arguments)}::bigint[])'
        return await self.pool.fetch(sql.replace(CLAIMABLE, CLAIMABLE + conditions), *arguments)


_UNSCHEDULED = "status = 'pending' AND next_retry_at IS NULL"
# Only its index has the order of id, not one that an application has on next_retry_at.
UNSCHEDULED_SQL = (
    f'SELECT id FROM mail_outbox WHERE {_UNSCHEDULED} ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED'  # noqa: S608
)
GIVE_DUE_TIME_SQL = f"""
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY(ARRAY({UNSCHEDULED_SQL}))
"""  # noqa: S608 - constants of this module
GIVE_THESE_DUE_TIME_SQL = f"""
UPDATE mail_outbox SET next_retry_at = now() WHERE id = ANY($1::bigint[]) AND {_UNSCHEDULED} RETURNING id
"""  # noqa: S608 - constants of this module
DUE_TIME_BATCH = 10_000  # a tenth of a second: a million in one statement would run into its time limit, every time


async def give_due_time(pool: asyncpg.Pool, set_aside: SetAside | None = None) -> bool:
    """Make pending rows that were inserted without a time due now, so that the due index holds them.

    Returns:
        Whether there were any.
    """
    aside = set_aside or SetAside()
    given = await _give_due_time(pool, aside)
    any_given = given > 0
    while given == DUE_TIME_BATCH:
        given = await _give_due_time(pool, aside)
    return any_given


async def _give_due_time(pool: asyncpg.Pool, set_aside: SetAside) -> int:
    aside = set_aside.ids()
    condition = f'{_UNSCHEDULED} AND id <> ALL($2::bigint[])' if aside else _UNSCHEDULED
    more = [aside] if aside else []
    try:
        sql = GIVE_DUE_TIME_SQL.replace(_UNSCHEDULED, condition)
        return int((await pool.execute(sql, DUE_TIME_BATCH, *more)).split()[-1])
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError:
        sql = UNSCHEDULED_SQL.replace(_UNSCHEDULED, condition)
        ids = [row['id'] for row in await pool.fetch(sql, DUE_TIME_BATCH, *more)]
        found = await narrow(lambda part: pool.fetch(GIVE_THESE_DUE_TIME_SQL, part), ids)
        await give_up_rows(pool, found, set_aside)
        return len(found.done)


def _claim_from(row: asyncpg.Record, token: UUID) -> Claim:
    """Read a row of _CLAIMED: the fields of Email, then what is the claim's."""
    (
        attempt,
        max_attempts,
        claimed_at,
        outcomes,
        lost,
        any_suppressed,
        life_left_s,
        is_whole,
        priority,
        _,
    ) = row[len(Email._fields) :]
    settled = _settled(outcomes) if outcomes else {}
    email_id, recipient, *content = row[: len(Email._fields)]
    email = Email(email_id, recipient or '', *content)
    known = known_priority(priority)
    claim = Claim(
        email,
        token,
        attempt,
        max_attempts,
        claimed_at,
        settled,
        lost > 0,
        any_suppressed,
        life_left_s,
    )
    return claim._replace(is_whole=is_whole, priority=known)


def _settled(stored: str) -> Settled:
    """Read recipient_outcomes; what record did not write counts for nothing, and spoils no other claim of the batch."""
    try:
        told = json.loads(stored)
        return {
            address: (Outcome(outcome), str(reply)) for address, (outcome, reply) in told.items()
        }
    except (AttributeError, TypeError, ValueError, RecursionError):
        return {}
