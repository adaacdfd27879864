"""What it costs to drop old mail as a partition of its own, beside the retention of rows."""

import time

from bench.measures.measure import Data
from bench.outbox import Outbox

# One month of old mail as a partition of its own.
PARTITION_SQL = (
    """CREATE TABLE emails_by_month (LIKE outbound_emails INCLUDING DEFAULTS,
        PRIMARY KEY (id, created_at))
    PARTITION BY RANGE (created_at)""",
    (
        'CREATE TABLE emails_old PARTITION OF emails_by_month FOR VALUES FROM (MINVALUE) TO '
        "('{until}')"
    ),
    "INSERT INTO emails_by_month SELECT * FROM outbound_emails WHERE created_at < '{until}'",
)


async def drop_partition(outbox: Outbox) -> Data:
    """Put the oldest rows into a partition, and time its removal."""
    until = await outbox.conn.fetchval(
        "SELECT min(created_at) + interval '10 days' FROM outbound_emails"
    )
    for statement in PARTITION_SQL:
        await outbox.conn.execute(statement.format(until=until.isoformat()), timeout=600)
    rows = await outbox.conn.fetchval('SELECT count(*) FROM emails_old')
    started_at = time.perf_counter()
    await outbox.conn.execute('DROP TABLE emails_old')
    return {'rows': rows, 'drop_ms': (time.perf_counter() - started_at) * 1000}
