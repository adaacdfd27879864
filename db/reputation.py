"""How much of what was sent came back as dead addresses and complaints, by relay and sender."""

from collections.abc import Sequence

import asyncpg

from db.times import Row
from mail.bounce.codes import DEAD_ADDRESS_CODES

MOST_EMAILS = 500_000  # the newest of the time
DAYS = 7

# What a relay refused at once because the address is dead counts as what comes back later does.
COUNT_RETURNED_SQL = f"""
WITH told AS (
    SELECT email_id, bool_or(kind = 'bounce') AS has_bounced,
        bool_or(kind = 'complaint') AS has_complained
    FROM email_feedback
    WHERE received_at > now() - interval '{DAYS} days' AND email_id IS NOT NULL GROUP BY email_id
), ended AS (
    SELECT id, relay,
        lower(COALESCE(substring(from_address FROM '@([^@<>[:space:]]+)>?[[:space:]]*$'), $1))
            AS sender_domain,
        status = 'failed' AS is_refused
    FROM mail_outbox
    WHERE created_at > now() - interval '{DAYS} days' AND relay IS NOT NULL
      AND (status IN ('sent', 'bounced', 'complained')
           OR (status = 'failed' AND next_retry_at IS NULL AND enhanced_code = ANY($2::text[])))
    LIMIT {MOST_EMAILS}
)
SELECT ended.relay, ended.sender_domain, count(*) AS emails,
    count(*) FILTER (WHERE is_refused OR told.has_bounced) AS bounced,
    count(*) FILTER (WHERE told.has_complained) AS complained
FROM ended LEFT JOIN told ON told.email_id = ended.id
GROUP BY GROUPING SETS ((ended.relay), (ended.sender_domain))
"""


async def count_returned(pool: asyncpg.Pool, default_domain: str) -> Sequence[Row]:
    """Count what was sent within DAYS and what came of it, by relay and by sender domain.

    Args:
        default_domain: Of e-mails that do not name a sender.
    Returns:
        relay or sender_domain (the other is None), emails, bounced (dead addresses), complained.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    found = await pool.fetch(COUNT_RETURNED_SQL, default_domain, sorted(DEAD_ADDRESS_CODES))
    return [dict(row) for row in found]
