"""How rows are claimed: the change that a claim makes, and which row is to blame if it fails."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Required, TypedDict
from uuid import UUID, uuid4

import asyncpg
from asyncpg.pgproto import pgproto

from db.claimed import CLAIMED_COLUMNS, Claim, claim_from
from db.errors import DATABASE_DOWN
from db.narrowing import UNREADABLE, SetAside, give_up_rows, narrow
from db.states import CLAIMED, HAS_ATTEMPTS, IS_SENDING, sql_list
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


def claim_of(due: str) -> str:
    """Return the statement that claims the rows which a query finds and locks."""
    return f'WITH due AS ({due}) {_CLAIM}'


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
THESE = f"""
    SELECT id FROM mail_outbox
    WHERE id = ANY($1::bigint[]) AND COALESCE(status, '') IN ({sql_list(CLAIMED)}) AND {CLAIMABLE}
      AND COALESCE(next_retry_at, CASE WHEN status = 'pending' THEN now() END) <= now()
      AND {passed_over('$6', '$7')}
"""


# Those of these rows, suspects or not: when one of them makes the statement fail.
CLAIM_THESE_SQL = claim_of(f'{THESE} FOR UPDATE SKIP LOCKED')
CLAIMED_IDS_SQL = f'SELECT id FROM mail_outbox WHERE {IS_SENDING} AND claim_token = $1'
READ_CLAIMED_SQL = f"""
SELECT {CLAIMED_COLUMNS} FROM mail_outbox AS e
WHERE e.id = ANY($1::bigint[]) AND e.{IS_SENDING} AND e.claim_token = $2
"""


class ClaimRequest(NamedTuple):
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


def request_of(pool: asyncpg.Pool, claimant: Claimant) -> ClaimRequest:
    """Return a claim that nobody has made before."""
    # A fresh token: whoever lost an earlier claim cannot write over this one. In asyncpg's own
    # form: it is looked up nine times an e-mail, and Python's takes 0.15 us more to hash.
    token = pgproto.UUID(uuid4().bytes)
    who = (token, claimant['worker'], claimant['lease_s'], claimant['message_id_domain'])
    set_aside = claimant.get('set_aside') or SetAside()
    return ClaimRequest(pool, list(claimant.get('paused_types', ())), set_aside, who)
