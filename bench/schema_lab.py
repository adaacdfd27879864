"""What the measurements of the schema share.

A server, databases with many rows, claims that are timed.
"""

import asyncio
import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from bench.outbox import with_database
from db.claimed import Claim
from db.claims import claim, claim_due
from db.migrate import migrate
from db.pools import create_postgres_pool
from db.results import Result, record
from dev.postgres import Postgres, PostgresPasswords
from dev.postgres_home import remove_data
from dev.watchdog import Watchdog
from mail.outcome import Decision, Delivery, Outcome, Phase, Reply
from mail_outbox.states import Status

LOCAL_PASSWORD = 'loopback'  # noqa: S105 - a server of one command, on loopback
CLAIM_BATCH = 200
WORKER = 'bench@localhost:1'

# Text of the size of an ordinary notification. $2 is how long ago, in seconds, the first was made;
# then evenly to now.
INSERT_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, next_retry_at)
SELECT 'user' || n || '@example.com', 'Your order ' || n, repeat('Thank you. ', 40), 'receipt',
    now()
FROM generate_series(1, $1::bigint) AS n
"""
INSERT_OLD_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, status, attempts,
    created_at, updated_at,
    last_attempt_at, sent_at, message_id, message_date, relay, smtp_code, smtp_response,
        enhanced_code)
SELECT 'user' || n || '@example.com', 'Your order ' || n, repeat('Thank you. ', 20), 'receipt',
    'sent', 1,
    at, at, at, at, '<' || gen_random_uuid() || '@example.com>', at, 'primary', 250,
        '2.0.0 Ok: queued', '2.0.0'
FROM generate_series(1, $1::bigint) AS n,
    LATERAL (SELECT now() - ($1 - n) * $2 / $1 * interval '1 second' AS at) AS t
"""
INSERT_OLD_ATTEMPTS_SQL = """
INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, smtp_code,
    reply, duration_ms)
SELECT id, sent_at, 1, 'bench@localhost:1', 'accepted', 'data', 'primary', 250, smtp_response, 12
FROM outbound_emails WHERE status = 'sent'
"""


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """Start a PostgreSQL of the stack, with fsync and its own autovacuum, for one measurement."""
    with Watchdog() as watchdog, tempfile.TemporaryDirectory(prefix='bench-schema-') as directory:
        watchdog.remove_at_death(Path(directory))
        passwords = PostgresPasswords(LOCAL_PASSWORD, LOCAL_PASSWORD)
        postgres = Postgres(Path(directory) / 'postgres', watchdog, passwords)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()
            remove_data(Path(directory) / 'postgres')


class TimedPool:
    """A pool that notes how long each statement took, as its caller sees it, in milliseconds."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Wrap a pool."""
        self.pool = pool
        self.took_ms: list[float] = []

    async def fetch(self, *arguments: Any) -> Any:
        """Do what the pool does."""
        started = time.perf_counter()
        rows = await self.pool.fetch(*arguments)
        self.took_ms.append((time.perf_counter() - started) * 1000)
        return rows


@contextlib.asynccontextmanager
async def database(postgres: Postgres, name: str, *changes: str) -> AsyncIterator[asyncpg.Pool]:
    """Make a migrated database, change its schema, connect as a worker does; drop it at the end."""
    admin = await asyncpg.connect(postgres.superuser_url)
    await admin.execute(f'CREATE DATABASE {name}')
    dsn = with_database(postgres.superuser_url, name)
    conn = await asyncpg.connect(dsn)
    await migrate(conn)
    for change in changes:
        await conn.execute(change)
    await conn.close()
    pool = await create_postgres_pool(
        dsn,
        size=4,
        connect_timeout_s=5,
        command_timeout_s=3600,
        application_name='bench',
        by_index=True,
    )
    try:
        yield pool
    finally:
        await pool.close()
        await admin.execute(f'DROP DATABASE {name} WITH (FORCE)')
        await admin.execute('CHECKPOINT')
        await admin.close()


async def claim_batch(pool: Any, limit: int = CLAIM_BATCH) -> list[Claim]:
    """Claim what is due, as a worker does."""
    return await claim_due(pool, limit, worker=WORKER, lease_s=30, message_id_domain='example.com')


async def claim_one(pool: Any, email_id: int) -> list[Claim]:
    """Claim one e-mail by its id, as a worker does."""
    return await claim(pool, [email_id], worker=WORKER, lease_s=30, message_id_domain='example.com')


async def record_sent(pool: Any, claims: Sequence[Claim]) -> None:
    """Record that these were accepted."""
    delivery = Delivery(
        Outcome.ACCEPTED, Phase.DATA, relay='primary', reply=Reply(250, '2.0.0 Ok: queued as 4F2A')
    )
    recorded = await record(
        pool,
        [Result(claim, delivery, Decision(Status.SENT), 0.012) for claim in claims],
        worker=WORKER,
    )
    if len(recorded) != len(claims):
        raise RuntimeError(f'{len(recorded)} of {len(claims)} recorded')


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated; of a single value itself, of none NaN."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return statistics.quantiles(values, n=100, method='inclusive')[percent - 1]


def run(measure: Any) -> None:
    """Run a measurement of (postgres) on a server of its own."""
    with server() as postgres:
        asyncio.run(measure(postgres))
