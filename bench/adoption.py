"""How long an application waits while its table is adopted.

The longest INSERT beside each step, for docs/migration.md.

    python -m bench.adoption [--rows 1000000] [--status enum|varchar] [--zone UTC]

Makes the table of an application with Celery (native enum, times without a zone, serial ids), keeps
inserting into it from another connection, and runs every step of an adoption. Then claims and
records on an adopted table beside those on a new one, in turns.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg

from bench.outbox import with_database
from bench.schema_lab import (
    CLAIM_BATCH,
    INSERT_SQL,
    TimedPool,
    claim_batch,
    database,
    percentile,
    record_sent,
    run,
)
from db.adoption.finish import finish
from db.adoption.finish_plan import plan_finish
from db.adoption.plan import plan
from db.adoption.takeover import take_over
from db.adoption.undo import undo
from db.due import give_due_time
from db.migrate import alone, migrate, silent
from db.pools import create_postgres_pool

TABLE_DDL = """
CREATE TYPE emailstatus AS ENUM ('pending', 'sending', 'sent', 'failed', 'expired', 'cancelled');
CREATE TABLE outbound_emails (
    id serial PRIMARY KEY, recipient varchar(255) NOT NULL, subject varchar(500), body_text text,
        body_html text,
    email_type varchar(50), template_id integer, template_data json,
        status {status} NOT NULL DEFAULT 'pending',
    smtp_response varchar(500), smtp_code integer, attempts integer, max_attempts integer,
        next_retry_at timestamp,
    last_attempt_at timestamp, sent_at timestamp, expires_at timestamp, user_id integer,
        organization_id integer,
    created_at timestamp DEFAULT now(), updated_at timestamp
);
CREATE INDEX ix_outbound_emails_status ON outbound_emails (status);
CREATE INDEX ix_outbound_emails_next_retry_at ON outbound_emails (next_retry_at);
"""
# Of a hundred e-mails one is dead, one of a thousand is due.
FILL_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts, max_attempts,
    next_retry_at, sent_at,
    created_at)
SELECT 'user' || n || '@example.com', 'Your order ' || n, repeat('Thank you. ', 20),
    (CASE WHEN n % 1000 = 1 THEN 'pending' WHEN n % 100 = 2 THEN 'failed'
        ELSE 'sent' END)::{status},
    CASE WHEN n % 100 = 2 THEN 5 ELSE 1 END, 5, NULL, now(), now() - (n % 20) * interval '1 hour'
FROM generate_series(1, $1::bigint) AS n
"""
INSERT_ONE_SQL = (
    "INSERT INTO outbound_emails (recipient, subject, body_text) VALUES ('live@example.com', "
    "'s', 't')"
)
ROUNDS = 20


class Application:
    """Somebody who goes on inserting, one e-mail after another.

    Each is in a transaction of its own.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self.longest_s = 0.0
        self.inserted = 0
        self.stopping = False

    async def insert(self) -> None:
        """Insert until stopped, and keep the longest wait."""
        while not self.stopping:
            started = time.perf_counter()
            await self.conn.execute(INSERT_ONE_SQL)
            self.longest_s = max(self.longest_s, time.perf_counter() - started)
            self.inserted += 1
            await asyncio.sleep(0.002)

    def take(self) -> tuple[float, int]:
        """Return and forget the longest wait, and how many were inserted."""
        longest_s, inserted = self.longest_s, self.inserted
        self.longest_s, self.inserted = 0.0, 0
        return longest_s, inserted


async def measure(name: str, application: Application, step: Callable[[], Awaitable[Any]]) -> Any:
    """Run one step, and print how long it took and how long somebody waited."""
    application.take()
    started = time.perf_counter()
    result = await step()
    took_s = time.perf_counter() - started
    longest_s, inserted = application.take()
    print(f'{name:<40} {took_s:8.2f} s   longest INSERT {longest_s * 1000:7.1f} ms of {inserted:,}')
    return result


async def adopt(dsn: str, rows: int, status: str, zone: str) -> None:
    """Run every step of an adoption beside the application."""
    conn = await asyncpg.connect(dsn, server_settings={'application_name': 'db.migrate'})
    live = await asyncpg.connect(dsn, server_settings={'timezone': zone})
    try:
        kind = 'emailstatus' if status == 'enum' else 'varchar(20)'
        await conn.execute(TABLE_DDL.format(status=kind))
        await conn.execute(FILL_SQL.format(status=kind), rows)
        await conn.execute('VACUUM ANALYZE outbound_emails')
        application = Application(live)
        inserting = asyncio.create_task(application.insert())
        await measure('(nothing, 5 s)', application, lambda: asyncio.sleep(5))
        await measure('db.migrate: expand', application, lambda: migrate(conn, zone=zone))
        async with alone(conn, zone):
            form = (await plan(conn, zone=zone, max_attempts=5)).form
            day = timedelta(days=1)

            async def took() -> Any:
                return await take_over(conn, form, hold_after=day, progress=silent)

            print(await measure('take over', application, took))
            await measure('way back', application, lambda: undo(conn, form, silent))
        await measure('db.migrate: expand again', application, lambda: migrate(conn, zone=zone))
        async with alone(conn, zone):
            await measure('take over again', application, took)
            planned = await plan_finish(conn, zone=zone, max_attempts=5)
            print(f'--finish expects to lock for {planned.lock_s:.1f} s')
            await measure('db.migrate --finish', application, lambda: finish(conn, planned, silent))
        application.stopping = True
        await inserting
    finally:
        await conn.close()
        await live.close()


async def compare(new_dsn: str, adopted_dsn: str) -> None:
    """Claim and record on a new table and on an adopted one, in turns."""
    conn = await asyncpg.connect(adopted_dsn)
    await conn.execute(TABLE_DDL.format(status='emailstatus'))
    await migrate(conn)
    async with alone(conn, 'UTC'):
        form = (await plan(conn, zone='UTC', max_attempts=5)).form
        await take_over(conn, form, hold_after=timedelta(days=1), progress=silent)
    await conn.close()
    pools = {
        name: await create_postgres_pool(
            dsn,
            size=2,
            connect_timeout_s=20,
            command_timeout_s=60,
            application_name='bench',
            by_index=True,
        )
        for name, dsn in (('new', new_dsn), ('adopted', adopted_dsn))
    }
    rates: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(ROUNDS):
        for name, pool in pools.items():
            await pool.execute(INSERT_SQL, 10 * CLAIM_BATCH)
            await give_due_time(pool)
            started, sent = time.perf_counter(), 0
            while claims := await claim_batch(TimedPool(pool)):
                await record_sent(pool, claims)
                sent += len(claims)
            rates[name].append(sent / (time.perf_counter() - started))
    for name, values in rates.items():
        values.sort()
        print(
            f'{name:<8} claim and record: {percentile(values, 50):,.0f}/s (from '
            f'{values[0]:,.0f} to {values[-1]:,.0f})'
        )
    for pool in pools.values():
        pool.terminate()


async def main(postgres: Any, options: argparse.Namespace) -> None:
    """Measure on a server of its own."""
    admin = await asyncpg.connect(postgres.superuser_url)
    for name in ('adopt', 'adopted'):
        await admin.execute(f'CREATE DATABASE {name}')
    await adopt(
        with_database(postgres.superuser_url, 'adopt'), options.rows, options.status, options.zone
    )
    async with database(postgres, 'fresh'):
        await compare(
            with_database(postgres.superuser_url, 'fresh'),
            with_database(postgres.superuser_url, 'adopted'),
        )
    await admin.close()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rows', type=int, default=1_000_000)
    parser.add_argument('--status', choices=('enum', 'varchar'), default='enum')
    parser.add_argument('--zone', default='UTC')
    asked = parser.parse_args()
    run(lambda postgres: main(postgres, asked))
