"""Claim e-mails: by their ids, those that are due or urgent, and those whose workers were lost.

A claim raises asyncpg.PostgresError or OSError when the connection or the statement fails: nothing
was claimed, or the lease will run out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Required, TypedDict, Unpack
from uuid import UUID, uuid4

import asyncpg

from db.claimed import CLAIMED_COLUMNS, Claim, claim_from
from db.errors import DATABASE_DOWN
from db.narrowing import UNREADABLE, SetAside, give_up_rows, narrow
from db.states import CLAIMED, HAS_ATTEMPTS, IS_CLAIMED, IS_SCHEDULED, IS_SENDING, sql_list
from mail.priority import HIGH
from mail_outbox.states import Status

Names = Sequence[str]


class Claimant(TypedDict, total=False):
    """Who claims, and how."""

    worker: Required[str]
    lease_s: Required[float]  # longer than the slowest gap between two renewals
    message_id_domain: Required[str]  # of the Message-ID of an e-mail that has none yet
    paused_types: Names  # e-mails of these types are left alone
    set_aside: SetAside | None  # what this worker knows of rows that nobody can change


# Of a row whose number is none, negative, or larger than its column or email_attempts could count
# on. BY_LIFE at most.
# An adopted table may count in two bytes: one row at their end failed the claim of all.
NEXT_ATTEMPT = 'LEAST(GREATEST(COALESCE(e.attempts, 0), 0), 32766) + 1'

# From what the row is: a server that was restored, or that lags behind the one that failed, makes
# the same once more.
# A copy that such a server sends can be known by it.
MADE_MESSAGE_ID = """'<' || left(encode(sha256(convert_to(
            e.id || ' ' || COALESCE(EXTRACT(EPOCH FROM e.created_at)::text, '') || ' ' || $5,
            'UTF8')), 'hex'), 32) || '@' || $5 || '>'"""

# The change a claim makes and the columns it returns are the same for one id and for a batch. The
# rows are fetched by an array of their ids, which leaves the planner no other way but the primary
# key: a join with `due`, or with unnest of the array, would have an order, and with statistics of a
# smaller table that order reads the whole table.
# Planned on an empty table, such a join drained 150,000 e-mails at 17 to 22/s, this at 2,783 to
# 2,926/s (2026-11, docs/schema.md). All times are of PostgreSQL: the clocks of machines differ, by
# two minutes in `make chaos`. message_id and message_date are kept over attempts, because a
# duplicate has to carry the same ones.
_CHANGE = f"""
    SET status = '{Status.SENDING}',
        attempts = {NEXT_ATTEMPT},
        -- An operator's `SET status = 'pending'` on an exhausted row grants one attempt more.
        max_attempts = GREATEST(e.max_attempts, {NEXT_ATTEMPT}),
        claim_token = $2, claimed_by = $3, claimed_at = now(), last_attempt_at = now(),
        lease_expires_at = now() + $4 * interval '1 second',
        message_id = COALESCE(e.message_id, {MADE_MESSAGE_ID}),
        -- A header's date has four digits.
        message_date = CASE WHEN e.message_date BETWEEN '1900-01-01' AND '9999-12-30'
                            THEN e.message_date ELSE now() END,
        dead_reason = NULL, updated_at = now()
    WHERE e.id = ANY(ARRAY(SELECT id FROM due))
"""
_CLAIM = f'UPDATE mail_outbox AS e {_CHANGE} RETURNING {CLAIMED_COLUMNS}'

# An uncertain row with a time is one whose policy says retry; failed rows with a time have attempts
# left.
CLAIMABLE = f"COALESCE(expires_at, 'infinity') > now() AND {HAS_ATTEMPTS}"


def passed_over(types: str, ids: str) -> str:
    """Return the condition that leaves out paused types and rows that were set aside.

    Args:
        types: The parameter that has the types, such as $6.
        ids: The one that has the ids.
    """
    # As text: an adopted table may have an enum of the application there.
    return (
        f'(email_type IS NULL OR email_type::text <> ALL({types}::text[]))'
        f' AND id <> ALL({ids}::bigint[])'
    )


# A column inside a function hides from the planner what other indexes, ours or an application's,
# have of the row.
# A row of an application that knows only its own columns has no time, and is due.
_THESE = f"""
    SELECT id FROM mail_outbox
    WHERE id = ANY($1::bigint[]) AND COALESCE(status, '') IN ({sql_list(CLAIMED)}) AND {CLAIMABLE}
      AND COALESCE(next_retry_at, CASE WHEN status = 'pending' THEN now() END) <= now()
      AND {passed_over('$6', '$7')}
"""
# SKIP LOCKED: workers do not wait for one another, so eight send 6.1 times as much as one (10 ms
# latency). A suspect is left out, because it may kill this worker with all that it holds.
CLAIM_SQL = f"""
WITH due AS ({_THESE} AND lost_attempts = 0 FOR UPDATE SKIP LOCKED) {_CLAIM}
"""


async def claim(
    pool: asyncpg.Pool,
    email_ids: Sequence[int],
    **claimant: Unpack[Claimant],
) -> list[Claim]:
    """Claim the e-mails among these ids that are due and held by nobody, and start their leases.

    The attempt is committed when this returns: whatever happens afterwards, it was made.

    Args:
        claimant: See Claimant.
    Returns:
        One claim, with attempt >= 1, for each e-mail that was claimed; none for those that are not
        due, are final, are held elsewhere, or are suspects, see claim_suspects.
    """
    return await _request(pool, claimant).claim(CLAIM_SQL, email_ids)


# The lateral join walks the due index once per priority, so low priority mail never delays high,
# and mail scheduled for later is never looked at. It stops as soon as it has enough, and locks no
# more rows than it returns. Rows are compared as pairs and sorted by pairs, so that no index but
# the due one can serve: with `priority = ` an index that an application has on next_retry_at alone
# would, and reads all that was ever sent.
# An OR with `next_retry_at IS NULL` read 200,000 scheduled e-mails, 33 ms, to claim none of them;
# now it reads 9 pages.
def _due(types: str, ids: str) -> str:
    return f"""
    SELECT d.id
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE (priority, next_retry_at) BETWEEN (p.priority, '-infinity') AND (p.priority, now())
          AND {IS_SCHEDULED} AND lost_attempts = 0 AND {CLAIMABLE} AND {passed_over(types, ids)}
        ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT $1
"""


# Beside ten million sent rows its p99 is 0.88 of that on an empty table (0.72 to 1.52).
DUE_SQL = _due('$2', '$3')
CLAIM_DUE_SQL = f'WITH due AS ({_due("$6", "$7")}) {_CLAIM}'


async def claim_due(
    pool: asyncpg.Pool,
    limit: int,
    **claimant: Unpack[Claimant],
) -> list[Claim]:
    """Claim up to limit e-mails that are due, by priority and then the longest due first.

    Rows with no next_retry_at are not seen before give_due_time has given them one.
    """
    return await _request(pool, claimant).claim(CLAIM_DUE_SQL, limit, find=DUE_SQL)


# The start of the due index, see _due.
def _urgent(types: str, ids: str, but: str) -> str:
    return f"""
    SELECT id FROM mail_outbox
    WHERE (priority, next_retry_at) BETWEEN ({HIGH}, '-infinity') AND ({HIGH}, now())
      AND {IS_SCHEDULED} AND lost_attempts = 0 AND {CLAIMABLE} AND {passed_over(types, ids)}
      AND id <> ALL({but}::bigint[])
    ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""


URGENT_SQL = _urgent('$2', '$3', '$4')
CLAIM_URGENT_SQL = f'WITH due AS ({_urgent("$6", "$7", "$8")}) {_CLAIM}'


async def claim_urgent(
    pool: asyncpg.Pool,
    limit: int,
    but: Sequence[int] = (),
    **claimant: Unpack[Claimant],
) -> list[Claim]:
    """Claim up to limit e-mails of high priority that are due, the longest due first.

    Args:
        but: These are left alone.
    """
    return await _request(pool, claimant).claim(CLAIM_URGENT_SQL, limit, list(but), find=URGENT_SQL)


# An operator may have set a row to pending that was lost more often than is counted: it is sent
# like those before it. An OR with `next_retry_at IS NULL` would keep the index from ending its scan
# at now().
def _suspects(types: str, ids: str, lost: str) -> str:
    return f"""
    SELECT id FROM mail_outbox
    WHERE LEAST(lost_attempts, 2) = {lost} AND lost_attempts > 0
      AND next_retry_at <= now() AND {IS_CLAIMED} AND {CLAIMABLE} AND {passed_over(types, ids)}
    ORDER BY next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""


SUSPECTS_SQL = _suspects('$2', '$3', '$4')
CLAIM_SUSPECTS_SQL = f'WITH due AS ({_suspects("$6", "$7", "$8")}) {_CLAIM}'


async def claim_suspects(
    pool: asyncpg.Pool,
    lost_attempts: int,
    limit: int,
    **claimant: Unpack[Claimant],
) -> list[Claim]:
    """Claim e-mails that were held when their last workers died or lost their leases.

    One of them may be what killed the worker, so they are kept apart from all other mail until an
    attempt is recorded.

    Args:
        lost_attempts: How many attempts in a row were lost.
    """
    return await _request(pool, claimant).claim(
        CLAIM_SUSPECTS_SQL, limit, lost_attempts, find=SUSPECTS_SQL
    )


# Those of these rows, suspects or not: when one of them makes the statement fail.
CLAIM_THESE_SQL = f'WITH due AS ({_THESE} FOR UPDATE SKIP LOCKED) {_CLAIM}'
CLAIMED_IDS_SQL = f'SELECT id FROM mail_outbox WHERE {IS_SENDING} AND claim_token = $1'
READ_CLAIMED_SQL = f"""
SELECT {CLAIMED_COLUMNS} FROM mail_outbox AS e
WHERE e.id = ANY($1::bigint[]) AND e.{IS_SENDING} AND e.claim_token = $2
"""


class _Request(NamedTuple):
    """One claim, which one row may spoil: then that row is found, and gets a state and a reason."""

    pool: asyncpg.Pool
    paused_types: Names
    set_aside: SetAside
    claimant: tuple[UUID, str, float, str]  # $2 to $5

    async def claim(
        self, sql: str, first: object, *more: object, find: str | None = None
    ) -> list[Claim]:
        """Run a claim.

        Args:
            find: The statement that finds the rows it is about, when they are not its first value.
        """
        token = self.claimant[0]
        rows: Sequence[asyncpg.Record]
        try:
            rows = await self.pool.fetch(sql, first, *self.claimant, *self._passed_over, *more)
            self.set_aside.passed(rows)
        except DATABASE_DOWN:  # no row is to blame
            raise
        except asyncpg.PostgresError:
            ids: Any = first
            if find is not None:
                found = await self.pool.fetch(find, first, *self._passed_over, *more)
                ids = [row['id'] for row in found]
            # A row that a trigger refuses, or one odd value, kept all mail from being claimed.
            rows = await self._claim_narrowly(ids)
        except UNREADABLE:  # they are claimed, and one of them cannot be decoded
            rows = await self._read_claimed()
        # RETURNING has no order, and urgent mail goes first.
        in_turn = sorted(rows, key=lambda row: (row['priority'] or 0, row['due_at'] or 0.0))
        return [claim_from(row, token) for row in in_turn]

    @property
    def _passed_over(self) -> tuple[Names, list[int]]:
        return self.paused_types, self.set_aside.ids()

    async def _claim_narrowly(self, ids: Sequence[int]) -> Sequence[asyncpg.Record]:
        async def claim(part: Sequence[int]) -> Sequence[asyncpg.Record]:
            try:
                return await self.pool.fetch(
                    CLAIM_THESE_SQL, part, *self.claimant, *self._passed_over
                )
            except UNREADABLE:  # they are claimed all the same
                return []

        found = await narrow(claim, ids)
        # At most MOST_BLAMED of them: a rule that refuses every row must not make all mail dead.
        await give_up_rows(self.pool, found, self.set_aside)
        return await self._read_claimed()

    async def _read_claimed(self) -> Sequence[asyncpg.Record]:
        token = self.claimant[0]
        ids = [row['id'] for row in await self.pool.fetch(CLAIMED_IDS_SQL, token)]
        # By halves: a database in SQL_ASCII keeps bytes that are no text.
        found = await narrow(lambda part: self.pool.fetch(READ_CLAIMED_SQL, part, token), ids)
        await give_up_rows(self.pool, found, self.set_aside, token=token)
        return found.done


def _request(pool: asyncpg.Pool, claimant: Claimant) -> _Request:
    # A fresh token: whoever lost an earlier claim cannot write over this one.
    who = (uuid4(), claimant['worker'], claimant['lease_s'], claimant['message_id_domain'])
    set_aside = claimant.get('set_aside') or SetAside()
    return _Request(pool, list(claimant.get('paused_types', ())), set_aside, who)
