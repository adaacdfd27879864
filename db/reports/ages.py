"""How old open mail is, by recipient domain: what Postfix's qshape shows of its queues."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from db.states import HAS_ATTEMPTS, IS_SCHEDULED, IS_SENDING, IS_UNSCHEDULED, OPEN
from db.times import elapsed_s

# The upper ends of the columns in minutes; what is older stands in one more.
BUCKETS_MIN = (5, 10, 20, 40, 80, 160, 320, 640, 1280)
_COLUMNS = ', '.join(f'count(*) FILTER (WHERE bucket = {i})' for i in range(len(BUCKETS_MIN) + 1))


@dataclass(frozen=True, slots=True)
class Ages:
    """One row: how many e-mails in all, and in each column."""

    domain: str
    total: int
    by_age: list[int]


# Each branch is one of the partial indexes. What was scheduled and was never due yet is not late:
# it has no age.
QSHAPE_SQL = f"""
WITH waiting AS MATERIALIZED (
    SELECT id, recipient, width_bucket({elapsed_s('created_at')} / 60, $1::float8[]) AS bucket
    FROM mail_outbox
    WHERE (({IS_SCHEDULED} AND {HAS_ATTEMPTS} AND (attempts > 0 OR next_retry_at <= now()))
           OR ({IS_UNSCHEDULED}) OR {IS_SENDING})
      AND status = ANY($2::text[])
), addressed AS (
    SELECT DISTINCT id, bucket, COALESCE(lower(found[1]), '(no address)') AS domain
    FROM waiting
    LEFT JOIN LATERAL regexp_matches(recipient, '@([[:alnum:]_.-]+)', 'g') AS found ON true
), counted AS (
    SELECT domain, count(*) AS total, ARRAY[{_COLUMNS}] AS by_age FROM addressed GROUP BY domain
)
SELECT NULL AS domain, count(*) AS total, ARRAY[{_COLUMNS}] AS by_age,
    (SELECT count(*) FROM counted) AS domains
FROM waiting
UNION ALL
(SELECT domain, total, by_age, NULL FROM counted ORDER BY total DESC, domain LIMIT $3)
"""


async def read_ages(
    pool: asyncpg.Pool, *, statuses: Sequence[str] = OPEN, limit: int
) -> tuple[Ages, list[Ages], int]:
    """Count the e-mails that wait, by their age since they were queued.

    An e-mail to several domains stands in the row of each, and once in the total.

    Returns:
        The total, the domains with the most e-mails, and how many domains there are.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    rows = await pool.fetch(QSHAPE_SQL, list(BUCKETS_MIN), list(statuses), limit)
    (sums,) = [row for row in rows if row['domain'] is None]
    named = [
        Ages(row['domain'], row['total'], row['by_age'])
        for row in rows
        if row['domain'] is not None
    ]
    named.sort(key=lambda ages: (-ages.total, ages.domain))
    return Ages('TOTAL', sums['total'], sums['by_age']), named, sums['domains']
