"""Turns of tenants: one with a million due e-mails does not keep the others waiting.

A tenant is an organisation (organization_id); e-mails of none are one tenant as well. The index
outbound_emails_tenants has the due e-mails of each together, so that neither statement looks at
more than a row for each tenant and those that it claims.

Source: deficit round robin (Shreedhar and Varghese, 1996), with e-mails as the quantum.
"""

import time
from operator import itemgetter
from typing import NamedTuple, Unpack

import asyncpg

from db.claim_request import CLAIMABLE, Claimant, claim_of, passed_over, request_of
from db.claimed import Claim
from db.claims import by_due_time
from db.states import IS_SCHEDULED

# As in the index. Text, because an application's ids may be numbers, UUIDs or words.
NO_TENANT = '-'
TENANT = f"""(COALESCE(NULLIF(organization_id::text, ''), '{NO_TENANT}') COLLATE "C")"""
BEFORE_ALL = ''
# A backlog of one tenant is claimed some 50 times a second. Another's first e-mail waits no longer
# for its turn than this.
ONE_TENANT_S = 0.05

# At most so many are looked at for a turn; the next one goes on behind them.
MAX_JUMPS = 64

# Jumps in the index from each tenant's first e-mail of a priority to the next one's; what lies
# between two jumps is never looked at. The tenant comes first in the index and in each comparison,
# so that no other index can serve, see db/claims.py.
WAITING_SQL = f"""
WITH RECURSIVE waiting (tenant, priority, is_due, number) AS (
    SELECT first.* FROM (
        SELECT {TENANT}, priority, next_retry_at <= now(), 1 FROM mail_outbox
        WHERE {TENANT} > $1::text COLLATE "C" AND {IS_SCHEDULED}
        ORDER BY {TENANT}, priority, next_retry_at LIMIT 1
    ) AS first
    UNION ALL
    SELECT next.tenant, next.priority, next.is_due, waiting.number + 1
    FROM waiting CROSS JOIN LATERAL (
        SELECT {TENANT} AS tenant, priority, next_retry_at <= now() AS is_due FROM mail_outbox
        WHERE ({TENANT}, priority) > (waiting.tenant, waiting.priority) AND {IS_SCHEDULED}
        ORDER BY {TENANT}, priority, next_retry_at LIMIT 1
    ) AS next
    WHERE waiting.number < {MAX_JUMPS}
), first_due AS (
    SELECT d.priority
    FROM (VALUES (0::smallint), (1::smallint), (2::smallint)) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT priority FROM mail_outbox
        WHERE (priority, next_retry_at) BETWEEN (p.priority, '-infinity') AND (p.priority, now())
          AND {IS_SCHEDULED}
        ORDER BY priority, next_retry_at LIMIT 1
    ) AS d
    LIMIT 1
)
SELECT waiting.number, waiting.tenant, first_due.priority,
       waiting.is_due AND waiting.priority = first_due.priority AS has_turn
FROM first_due CROSS JOIN waiting
"""


# Its share of each tenant's due e-mails, the longest due first.
def _in_turns(types: str, ids: str, tenants: str, priority: str, share: str) -> str:
    return f"""
    SELECT mail.id FROM unnest({tenants}::text[]) AS turn (tenant)
    CROSS JOIN LATERAL (
        SELECT id FROM mail_outbox
        WHERE ({TENANT}, priority, next_retry_at)
              BETWEEN (turn.tenant COLLATE "C", {priority}::smallint, '-infinity')
              AND (turn.tenant COLLATE "C", {priority}::smallint, now())
          AND {IS_SCHEDULED} AND lost_attempts <= 0 AND {CLAIMABLE} AND {passed_over(types, ids)}
        ORDER BY {TENANT}, priority, next_retry_at LIMIT {share} FOR UPDATE SKIP LOCKED
    ) AS mail
"""


# Where the shares leave room, what would have been claimed without them.
def _filled_up(types: str, ids: str, tenants: str, priority: str, share: str) -> str:
    return f"""
    WITH fair AS MATERIALIZED ({_in_turns(types, ids, tenants, priority, share)})
    SELECT id FROM (
        SELECT id FROM fair
        UNION ALL
        SELECT id FROM ({by_due_time(types, ids)}) AS rest
        WHERE id <> ALL(ARRAY(SELECT id FROM fair))
    ) AS either LIMIT $1
"""


SHARES_SQL = _in_turns('$2', '$3', '$4', '$5', '$6') + ' LIMIT $1'
CLAIM_SHARES_SQL = claim_of(_in_turns('$6', '$7', '$8', '$9', '$10') + ' LIMIT $1')
IN_TURNS_SQL = _filled_up('$2', '$3', '$4', '$5', '$6')
CLAIM_IN_TURNS_SQL = claim_of(_filled_up('$6', '$7', '$8', '$9', '$10'))


class Turn(NamedTuple):
    """Whose turn it is.

    Attributes:
        priority: The first that has due e-mails.
        tenants: Those who have some of it; in the order of their names.
    """

    priority: int
    tenants: list[str]


class Tenants:
    """Whose turn it is next, for one worker.

    Whom a limit left out comes with the next turn: that one begins where the last ended.
    """

    def __init__(self) -> None:
        self._after = BEFORE_ALL  # where the last turn ended
        self._ask_again_at = 0.0  # when there was one tenant only

    async def turn_in_backlog(self, pool: asyncpg.Pool, limit: int) -> Turn | None:
        """Ask as next_turn does, but not before each claim where only one tenant has due mail."""
        if (now := time.monotonic()) < self._ask_again_at:
            return None
        turn = await self.next_turn(pool, limit)
        if turn is None:
            self._ask_again_at = now + ONE_TENANT_S
        return turn

    async def next_turn(self, pool: asyncpg.Pool, limit: int) -> Turn | None:
        """Ask who has due e-mails.

        Args:
            limit: How many tenants at most; never more than MAX_JUMPS.
        Returns:
            None when nobody has any, or only one tenant has.
        Raises:
            asyncpg.PostgresError, OSError: connection or statement failure.
        """
        found = await pool.fetch(WAITING_SQL, self._after)
        rows = sorted(found, key=itemgetter('number'))  # one more Sort would make a plan uncertain
        having = [row['tenant'] for row in rows if row['has_turn']]
        before = self._after
        # Where there are more of them, the next turn goes on behind these.
        last = rows[-1]['tenant'] if len(rows) == MAX_JUMPS else BEFORE_ALL
        self._after = having[limit - 1] if len(having) > limit else last
        if not having or (len(having) == 1 and last == before == BEFORE_ALL):
            return None
        return Turn(rows[0]['priority'], having[:limit])


async def claim_in_turns(
    pool: asyncpg.Pool, limit: int, turn: Turn, **claimant: Unpack[Claimant]
) -> list[Claim]:
    """Claim up to limit due e-mails: an equal share of each tenant's, then as claim_due does."""
    share = -(-limit // len(turn.tenants))
    return await request_of(pool, claimant).claim(
        CLAIM_IN_TURNS_SQL, limit, turn.tenants, turn.priority, share, find=IN_TURNS_SQL
    )


async def claim_one_of_each(
    pool: asyncpg.Pool, limit: int, turn: Turn, **claimant: Unpack[Claimant]
) -> list[Claim]:
    """Claim up to limit due e-mails: of each tenant the one that is due longest, and no more."""
    return await request_of(pool, claimant).claim(
        CLAIM_SHARES_SQL, limit, turn.tenants, turn.priority, 1, find=SHARES_SQL
    )
