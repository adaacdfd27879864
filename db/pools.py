"""Connections to PostgreSQL, made once per process and handed on."""

import json
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from db.connection import Connection, Connector, keep_or_drop
from db.times import decode_zoned, encode_zoned, naive_decoder, naive_encoder

# The worker's statements touch a few rows, by an index, whatever the statistics say. A plan that
# was right while the table was small, or little was due, is kept, and would read a whole backlog
# for every claim (docs/schema.md).
BY_INDEX = {
    'enable_seqscan': 'off',
    'enable_sort': 'off',
    'enable_hashjoin': 'off',
    'enable_mergejoin': 'off',
}

# Conditions that are not asked for are parameters, too: only a plan for the values leaves them out.
BY_VALUES = {'plan_cache_mode': 'force_custom_plan'}


def _from_json(text: str) -> Any:
    """Return a jsonb value.

    It is the text where Python cannot hold the value: too deep, or a number too long.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


async def _prepare_connection(conn: asyncpg.Connection, zone: ZoneInfo) -> None:
    # jsonb travels as text and comes out as Python values.
    await conn.set_type_codec('jsonb', encoder=json.dumps, decoder=_from_json, schema='pg_catalog')
    # One time that Python does not know (infinity, the year 20260) must not make the whole answer
    # unreadable.
    await conn.set_type_codec(
        'timestamptz',
        encoder=encode_zoned,
        decoder=decode_zoned,
        schema='pg_catalog',
        format='tuple',
    )
    # Tables that were there before may hold times without a zone: here, too, they are moments.
    await conn.set_type_codec(
        'timestamp',
        encoder=naive_encoder(zone),
        decoder=naive_decoder(zone),
        schema='pg_catalog',
        format='tuple',
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
    """Open a pool whose sessions give aware times.

    They never wait for a lock or a statement without end.

    It may be behind a pooler, see db.connection. A connection that an error showed to be of no more
    use is dropped.

    Args:
        naive_timezone: What times without a zone mean, for the server and for us:
            DB_NAIVE_TIMEZONE.
        command_timeout_s: The server ends a statement a little earlier, so that one which takes too
            long differs from a server that does not answer.
        by_index: Plan for few rows by an index wherever there is one: for workers, not for reports.
    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: PostgreSQL does not answer or does not let us
        in.
    """
    session = _session_settings(application_name, naive_timezone, command_timeout_s)
    connector = Connector(session | (BY_INDEX if by_index else BY_VALUES))
    connector.pool = await asyncpg.create_pool(
        dsn,
        # A floor would be restored, with a traceback in the log, while PostgreSQL restarts.
        min_size=0,
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


def _session_settings(
    application_name: str, naive_timezone: str, command_timeout_s: float
) -> dict[str, str]:
    statement_timeout_s = command_timeout_s - min(1.0, command_timeout_s / 10)
    return {
        'application_name': application_name[:63],  # PostgreSQL cuts longer names, with a warning
        'timezone': naive_timezone,  # by it the server compares times without a zone with now()
        'statement_timeout': str(max(1, int(statement_timeout_s * 1000))),
        'idle_in_transaction_session_timeout': '60000',
    }
