"""Which e-mails are urgent, asked before they are claimed: what waits for a place cannot hold a lease meanwhile."""

from collections.abc import Sequence

import asyncpg

from db.claims import CLAIMABLE
from mail.priority import HIGH, NORMAL, known_priority

PRIORITIES_SQL = 'SELECT id, priority FROM mail_outbox WHERE id = ANY($1::bigint[])'


async def priorities(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Return the priority of each of these e-mails; of one that is not there, the ordinary one.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    known = {
        row['id']: known_priority(row['priority'])
        for row in await pool.fetch(PRIORITIES_SQL, list(email_ids))
    }
    return [known.get(email_id, NORMAL) for email_id in email_ids]


# The start of the due index; the sort keeps any other index from being of use.
URGENT_SQL = f"""
SELECT id FROM mail_outbox
WHERE (priority, next_retry_at) BETWEEN ({HIGH}, '-infinity') AND ({HIGH}, now())
  AND status IN ('pending', 'failed', 'uncertain') AND next_retry_at IS NOT NULL AND lost_attempts = 0
  AND {CLAIMABLE} AND (email_type IS NULL OR email_type::text <> ALL($2::text[])) AND id <> ALL($3::bigint[])
ORDER BY priority, next_retry_at LIMIT $1
"""  # noqa: S608 - constants of mail.priority


async def urgent_due(
    pool: asyncpg.Pool, limit: int, paused_types: Sequence[str] = (), but: Sequence[int] = ()
) -> list[int]:
    """Return up to limit e-mails of high priority that are due, the longest due first.

    Args:
        paused_types: E-mails of these types are left alone.
        but: So are these.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    return [row['id'] for row in await pool.fetch(URGENT_SQL, limit, list(paused_types), list(but))]
