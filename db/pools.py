"""Connections to PostgreSQL and MongoDB, made once per process and handed on."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase

from db.connection import Connection, Connector, keep_or_drop
from db.troubles import DATABASE_DOWN

__all__ = ['BY_INDEX', 'DATABASE_DOWN', 'create_postgres_pool', 'open_mongo']

# The worker's statements touch a few rows, by an index, whatever the statistics say. A plan that was right while the
# table was small, or little was due, is kept, and would read a whole backlog for every claim (docs/schema.md).
BY_INDEX = {'enable_seqscan': 'off', 'enable_sort': 'off', 'enable_hashjoin': 'off', 'enable_mergejoin': 'off'}


EPOCH = datetime(2000, 1, 1)  # noqa: DTZ001 - PostgreSQL's, of times without a zone
MICROSECOND = timedelta(microseconds=1)
# 'infinity' and '-infinity', as asyncpg gives them for times with a zone.
ENDS = {2**63 - 1: datetime.max.replace(tzinfo=UTC), -(2**63): datetime.min.replace(tzinfo=UTC)}


def naive_decoder(zone: ZoneInfo) -> Callable[[tuple[int]], datetime]:
    """Return what makes an aware time, in UTC, of microseconds since 2000 on the clocks of a zone.

    In the hour that clocks show twice it takes the second, in the one they skip it goes on with the offset before: as
    PostgreSQL does when it compares such a column with now(). What no datetime can hold is the first or the last one.
    """

    def decode(value: tuple[int]) -> datetime:
        if value[0] in ENDS:
            return ENDS[value[0]]
        try:
            local = (EPOCH + value[0] * MICROSECOND).replace(tzinfo=zone)
            offset = min(local.utcoffset() or timedelta(), local.replace(fold=1).utcoffset() or timedelta())
            return (local.replace(tzinfo=None) - offset).replace(tzinfo=UTC)
        except OverflowError:
            return ENDS[2**63 - 1] if value[0] > 0 else ENDS[-(2**63)]

    return decode


def naive_encoder(zone: ZoneInfo) -> Callable[[datetime], tuple[int]]:
    """Return what makes microseconds since 2000 on the clocks of a zone of a time; a naive one is of that zone."""
    places = {end: place for place, end in ENDS.items()}

    def encode(moment: datetime) -> tuple[int]:
        if moment.tzinfo is not None:
            if moment in places:
                return (places[moment],)
            moment = moment.astimezone(zone).replace(tzinfo=None)
        return ((moment - EPOCH) // MICROSECOND,)

    return encode


async def _prepare_connection(conn: asyncpg.Connection, zone: ZoneInfo) -> None:
    # jsonb travels as text and comes out as Python values.
    await conn.set_type_codec('jsonb', encoder=json.dumps, decoder=json.loads, schema='pg_catalog')
    # Tables that were there before may hold times without a zone: here, too, they are moments.
    await conn.set_type_codec(
        'timestamp', encoder=naive_encoder(zone), decoder=naive_decoder(zone), schema='pg_catalog', format='tuple'
    )


async def create_postgres_pool(
    dsn: str,
    *,
    size: int,
    connect_timeout_s: float,
    command_timeout_s: float,
    application_name: str,
    by_index: bool = False,
    naive_timezone: str = 'UTC',
) -> asyncpg.Pool:
    """Open a pool whose sessions give aware times and never wait for a lock or a statement without end.

    It may be behind a pooler, see db.connection. A connection that an error showed to be of no more use is dropped.

    Args:
        naive_timezone: What times without a zone mean, for the server and for us: DB_NAIVE_TIMEZONE.
        command_timeout_s: The server ends a statement a little earlier, so that one which takes too long is told from
            a server that does not answer.
        by_index: Plan for few rows by an index wherever there is one: for workers, not for reports.
    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: PostgreSQL does not answer or does not let us in.
    """
    connector = Connector(
        {
            'application_name': application_name[:63],  # PostgreSQL cuts longer names, with a warning
            'timezone': naive_timezone,  # by it the server compares times without a zone with now()
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
        init=partial(_prepare_connection, zone=ZoneInfo(naive_timezone)),
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
