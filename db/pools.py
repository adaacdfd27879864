"""Connections to PostgreSQL and MongoDB, made once per process and handed on."""

import json
from typing import Any

import asyncpg
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase

from db.connection import Connection, Connector, keep_or_drop
from db.troubles import DATABASE_DOWN

__all__ = ['BY_INDEX', 'DATABASE_DOWN', 'create_postgres_pool', 'open_mongo']

# The worker's statements touch a few rows, by an index, whatever the statistics say. A plan that was right while the
# table was small, or little was due, is kept, and would read a whole backlog for every claim (docs/schema.md).
BY_INDEX = {'enable_seqscan': 'off', 'enable_sort': 'off', 'enable_hashjoin': 'off', 'enable_mergejoin': 'off'}


async def _prepare_connection(conn: asyncpg.Connection) -> None:
    # jsonb travels as text and comes out as Python values.
    await conn.set_type_codec('jsonb', encoder=json.dumps, decoder=json.loads, schema='pg_catalog')


async def create_postgres_pool(
    dsn: str,
    *,
    size: int,
    connect_timeout_s: float,
    command_timeout_s: float,
    application_name: str,
    by_index: bool = False,
) -> asyncpg.Pool:
    """Open a pool whose statements count time in UTC and never wait for a lock or a statement without end.

    It may be behind a pooler, see db.connection. A connection that an error showed to be of no more use is dropped.

    Args:
        command_timeout_s: The server ends a statement a little earlier, so that one which takes too long is told from
            a server that does not answer.
        by_index: Plan for few rows by an index wherever there is one: for workers, not for reports.
    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: PostgreSQL does not answer or does not let us in.
    """
    connector = Connector(
        {
            'application_name': application_name[:63],  # PostgreSQL cuts longer names, with a warning
            'timezone': 'UTC',  # adopted tables may hold times without a zone
            'statement_timeout': str(max(1, int((command_timeout_s - min(1.0, command_timeout_s / 10)) * 1000))),
            'idle_in_transaction_session_timeout': '60000',
        }
        | (BY_INDEX if by_index else {})
    )
    connector.pool = await asyncpg.create_pool(
        dsn,
        min_size=0,  # a floor would be restored, with a traceback in the log, while PostgreSQL restarts
        max_size=size,
        timeout=connect_timeout_s,
        command_timeout=command_timeout_s,
        max_inactive_connection_lifetime=300,
        connection_class=Connection,
        connect=connector.connect,
        init=_prepare_connection,
        reset=keep_or_drop,
    )
    return connector.pool


def open_mongo(url: str, database: str, timeout_s: float) -> AsyncIOMotorDatabase[dict[str, Any]]:
    """Return a database handle; nothing connects until it is used, and no call waits longer than timeout_s."""
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        url,
        serverSelectionTimeoutMS=int(timeout_s * 1000),
        timeoutMS=int(timeout_s * 1000),
        tz_aware=True,
        # A thread less that wakes twice a second: most workers hardly ever read an attachment.
        serverMonitoringMode='poll',
    )
    return client[database]
