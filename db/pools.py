"""Connections to PostgreSQL and MongoDB, made once per process and handed on."""

import json
from typing import Any

import asyncpg
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase

# PostgreSQL cannot be reached, or cannot work now (restarting, no disk or connection left, a standby): wait for it.
DATABASE_DOWN = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ended in the middle of a statement
    asyncpg.TransactionRollbackError,  # deadlock or serialization failure: the same statement may pass next time
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)


# The worker's statements touch a few rows, by an index, whatever the statistics say. A plan that was right while the
# table was small, or little was due, is kept, and would read a whole backlog for every claim (docs/schema.md).
BY_INDEX = {'enable_seqscan': 'off', 'enable_sort': 'off', 'enable_hashjoin': 'off', 'enable_mergejoin': 'off'}


async def _prepare_connection(conn: asyncpg.Connection) -> None:
    # jsonb travels as text and comes out as Python values.
    await conn.set_type_codec('jsonb', encoder=json.dumps, decoder=json.loads, schema='pg_catalog')


async def _keep_as_it_is(_: asyncpg.Connection) -> None:
    """Save the round trip with which asyncpg resets a session: nothing here changes one."""


async def create_postgres_pool(
    dsn: str,
    *,
    size: int,
    connect_timeout_s: float,
    command_timeout_s: float,
    application_name: str,
    by_index: bool = False,
) -> asyncpg.Pool:
    """Open a pool whose sessions count time in UTC and never wait for a lock or a statement without end.

    Args:
        by_index: Plan for few rows by an index wherever there is one: for workers, not for reports.
    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: PostgreSQL does not answer or does not let us in.
    """
    return await asyncpg.create_pool(
        dsn,
        min_size=0,  # a floor would be restored, with a traceback in the log, while PostgreSQL restarts
        max_size=size,
        timeout=connect_timeout_s,
        command_timeout=command_timeout_s,
        max_inactive_connection_lifetime=300,
        init=_prepare_connection,
        reset=_keep_as_it_is,
        server_settings={
            'application_name': application_name[:63],  # PostgreSQL cuts longer names, with a warning
            'timezone': 'UTC',  # adopted tables may hold times without a zone
            'statement_timeout': str(int(command_timeout_s * 1000)),
            'idle_in_transaction_session_timeout': '60000',
        }
        | (BY_INDEX if by_index else {}),
    )


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
