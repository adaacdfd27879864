"""Attachments that are kept in PostgreSQL, in the table `email_attachments`, beside their row.

How they are stored is in mail_outbox/queueing.py; the retention deletes them with their row, and
what no row has any more is deleted here.
"""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from db.states import HAS_NEXT_ATTEMPT, IS_SENDING
from db.times import Row, rows_of
from mail_outbox.envelope import Attachment

SIZES_SQL = """
SELECT email_id, sum(octet_length(data))::bigint AS size_bytes
FROM email_attachments WHERE email_id = ANY($1::bigint[]) GROUP BY email_id
"""


async def stored_sizes(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[int]:
    """Return how many bytes the attachments of several e-mails take, without reading them.

    It is 0 where there are none.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    sizes = {row['email_id']: row['size_bytes'] for row in await pool.fetch(SIZES_SQL, email_ids)}
    return [sizes.get(email_id, 0) for email_id in email_ids]


STORED_SQL = """
SELECT email_id, filename, content_type, data, cid
FROM email_attachments WHERE email_id = ANY($1::bigint[]) ORDER BY email_id, position
"""


async def fetch_stored(pool: asyncpg.Pool, email_ids: Sequence[int]) -> list[list[Attachment]]:
    """Fetch the attachments of several e-mails, in their order.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    found: dict[int, list[Attachment]] = {email_id: [] for email_id in email_ids}
    for email_id, *parts in await pool.fetch(STORED_SQL, email_ids):
        found[email_id].append(Attachment(*parts))
    return [found[email_id] for email_id in email_ids]


LIST_SQL = """
SELECT filename, content_type, cid, octet_length(data) AS size_bytes
FROM email_attachments WHERE email_id = $1 ORDER BY position
"""


async def list_stored(pool: asyncpg.Pool, email_id: int) -> list[Row]:
    """Return filename, content_type, cid and size_bytes of an e-mail's attachments."""
    return rows_of(await pool.fetch(LIST_SQL, email_id))


ORPHANS_SQL = """
WITH stretch AS (
    SELECT email_id, stored_at FROM email_attachments
    WHERE email_id > $1 ORDER BY email_id, position LIMIT $2
), removed AS (
    DELETE FROM email_attachments WHERE email_id = ANY(ARRAY(
        SELECT DISTINCT s.email_id FROM stretch AS s
        WHERE s.stored_at < now() - $3::interval
          AND NOT EXISTS (SELECT FROM mail_outbox AS e WHERE e.id = s.email_id)
    )) RETURNING 1
)
SELECT (SELECT count(*) FROM removed) AS removed, (SELECT max(email_id) FROM stretch) AS last_id
"""
ORPHANS_BATCH = 5000


async def delete_unowned(pool: asyncpg.Pool, older_than: timedelta) -> int:
    """Delete attachments whose row was deleted by somebody else than the retention.

    Returns:
        How many were deleted.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    removed, last_id = 0, 0
    while last_id is not None:
        [row] = await pool.fetch(ORPHANS_SQL, last_id, ORPHANS_BATCH, older_than)
        removed, last_id = removed + row['removed'], row['last_id']
    return removed


LOST_SQL = f"""
SELECT count(*) AS emails, min(id) AS first FROM mail_outbox AS e
WHERE ({IS_SENDING} OR {HAS_NEXT_ATTEMPT}) AND has_attachments
  AND NOT EXISTS (SELECT FROM email_attachments AS a WHERE a.email_id = e.id)
"""


async def read_lost_attachments(pool: asyncpg.Pool) -> Row:
    """Count the waiting e-mails whose attachments are gone: emails, first (an id)."""
    (row,) = await pool.fetch(LOST_SQL)
    return dict(row)
