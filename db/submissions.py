"""Messages that came by SMTP into the outbox, in one round trip."""

from collections.abc import Sequence

import asyncpg

from mail_outbox.insertion import QUEUE
from mail_outbox.statement import Row
from mail_outbox.wake import CHANNEL

# One statement has its transaction without BEGIN and COMMIT: a quarter of the round trips.
STORE_SQL = f"""
WITH stored AS ({QUEUE.numbered})
SELECT stored.id, stored.content_digest FROM stored, pg_notify('{CHANNEL}', '')
"""


async def store_messages(pool: asyncpg.Pool, rows: Sequence[Row]) -> list[tuple[int, bytes | None]]:
    """Insert rows of checked_row, all or none, and wake the workers.

    Returns:
        The id and the digest of each, after the commit: those of the first e-mail where the
        idempotency key is known.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; a value does not fit.
    """
    values = [QUEUE.in_order(row) for row in rows]
    async with pool.acquire() as conn:
        if len(values) == 1:
            records = await conn.fetch(STORE_SQL, *values[0])
        else:
            records = await conn.fetchmany(STORE_SQL, values)
    return [(record['id'], record['content_digest']) for record in records]
