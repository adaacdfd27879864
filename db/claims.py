"""Claim e-mails: by their ids, those that are due or urgent, and those whose workers were lost.

A claim raises asyncpg.PostgresError or OSError when the connection or the statement fails: nothing
was claimed, or the lease will run out.
"""

from collections.abc import Sequence
from typing import Unpack

import asyncpg

from db.claim_request import CLAIMABLE, THESE, Claimant, claim_of, passed_over, request_of
from db.claimed import Claim
from db.states import IS_CLAIMED, IS_SCHEDULED
from mail.priority import HIGH

# SKIP LOCKED: workers do not wait for one another, so eight send 6.1 times as much as one (10 ms
# latency). A suspect is left out, because it may kill this worker with all that it holds.
CLAIM_SQL = claim_of(f'{THESE} AND lost_attempts <= 0 FOR UPDATE SKIP LOCKED')


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
    return await request_of(pool, claimant).claim(CLAIM_SQL, email_ids)


# The lateral join walks the due index once per priority, so low priority mail never delays high,
# and mail scheduled for later is never looked at. It stops as soon as it has enough, and locks no
# more rows than it returns. Rows are compared as pairs and sorted by pairs, so that no index but
# the due one can serve: with `priority = ` an index that an application has on next_retry_at alone
# would, and reads all that was ever sent.
# An OR with `next_retry_at IS NULL` read 200,000 scheduled e-mails, 33 ms, to claim none of them;
# now it reads 9 pages.
def by_due_time(types: str, ids: str) -> str:
    """Return the query for $1 due rows, by priority and then the longest due first."""
    return f"""
    SELECT d.id
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE (priority, next_retry_at) BETWEEN (p.priority, '-infinity') AND (p.priority, now())
          AND {IS_SCHEDULED} AND lost_attempts <= 0 AND {CLAIMABLE} AND {passed_over(types, ids)}
        ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS d
    LIMIT $1
"""


# Beside ten million sent rows its p99 is 0.88 of that on an empty table (0.72 to 1.52).
DUE_SQL = by_due_time('$2', '$3')
CLAIM_DUE_SQL = claim_of(by_due_time('$6', '$7'))


async def claim_due(
    pool: asyncpg.Pool,
    limit: int,
    **claimant: Unpack[Claimant],
) -> list[Claim]:
    """Claim up to limit e-mails that are due, by priority and then the longest due first.

    Rows with no next_retry_at are not seen before give_due_time has given them one.
    """
    return await request_of(pool, claimant).claim(CLAIM_DUE_SQL, limit, find=DUE_SQL)


# The start of the due index, see by_due_time.
def _urgent(types: str, ids: str, but: str) -> str:
    return f"""
    SELECT id FROM mail_outbox
    WHERE (priority, next_retry_at) BETWEEN ({HIGH}, '-infinity') AND ({HIGH}, now())
      AND {IS_SCHEDULED} AND lost_attempts <= 0 AND {CLAIMABLE} AND {passed_over(types, ids)}
      AND id <> ALL({but}::bigint[])
    ORDER BY priority, next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""


URGENT_SQL = _urgent('$2', '$3', '$4')
CLAIM_URGENT_SQL = claim_of(_urgent('$6', '$7', '$8'))


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
    return await request_of(pool, claimant).claim(
        CLAIM_URGENT_SQL, limit, list(but), find=URGENT_SQL
    )


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
CLAIM_SUSPECTS_SQL = claim_of(_suspects('$6', '$7', '$8'))


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
    return await request_of(pool, claimant).claim(
        CLAIM_SUSPECTS_SQL, limit, lost_attempts, find=SUSPECTS_SQL
    )
