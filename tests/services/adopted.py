"""A database with the tables of an application that had Celery, in the forms that such applications
have them.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db.adoption.takeover import take_over
from db.migrate import alone, migrate
from db.pools import create_postgres_pool

LEGACY_SQL = Path(__file__).with_name('legacy_schema.sql').read_text()
STATES = ('pending', 'sending', 'sent', 'failed', 'expired', 'cancelled')
FEW_STATES = ('pending', 'sending', 'sent', 'failed')
DAY = timedelta(days=1)


@pytest.fixture
async def conn(empty_database) -> AsyncIterator[asyncpg.Connection]:
    """Connect to an empty database as a server in another zone does.

    Times without a zone that an application wrote are in UTC, whatever the server's own zone is.
    """
    conn = await asyncpg.connect(empty_database.dsn, server_settings={'timezone': 'Asia/Tokyo'})
    yield conn
    await conn.close()


@pytest.fixture
async def worker_pool(empty_database) -> AsyncIterator[asyncpg.Pool]:
    """Connect to the same database as a worker does."""
    pool = await create_postgres_pool(
        empty_database.dsn,
        size=4,
        connect_timeout_s=20,
        command_timeout_s=20,
        application_name='tests',
    )
    yield pool
    pool.terminate()


async def create_legacy(
    conn: asyncpg.Connection, status: str, words: tuple[str, ...] = STATES
) -> None:
    """Make the tables. status: a type, 'enum', or 'check' for text with a CHECK."""
    listed = ', '.join(f"'{word}'" for word in words)
    default = next(word for word in words if word.lower() == 'pending')
    if status == 'enum':
        await conn.execute(f'CREATE TYPE email_status AS ENUM ({listed})')
    kind = {'enum': 'email_status', 'check': f'varchar(20) CHECK (status IN ({listed}))'}.get(
        status, status
    )
    if status == 'check':
        kind = 'varchar(20)'
    await conn.execute(
        LEGACY_SQL.replace('__STATUS__', kind).replace("DEFAULT 'pending'", f"DEFAULT '{default}'")
    )
    if status == 'check':
        await conn.execute(
            f'ALTER TABLE outbound_emails ADD CONSTRAINT own_check CHECK (status IN ({listed}))'
        )


async def adopt(
    conn: asyncpg.Connection, *, zone: str = 'UTC', hold_after: timedelta = DAY, **options: Any
) -> dict[str, int]:
    """Expand and take over. Returns how many e-mails came into which state."""
    planned = await migrate(conn, zone=zone, **options)
    assert planned is not None
    async with alone(conn, zone):
        return await take_over(conn, planned.form, hold_after=hold_after, progress=lambda *_: None)


async def state_of(conn: asyncpg.Connection, email_id: int) -> tuple[str, str]:
    """Our state of an e-mail, and the word its application sees."""
    row = await conn.fetchrow(
        'SELECT o.status AS ours, e.status::text AS theirs FROM mail_outbox AS o JOIN '
        'outbound_emails AS e USING (id) '
        'WHERE id = $1',
        email_id,
    )
    return row['ours'], row['theirs']
