"""PostgreSQL: whether it keeps what it commits, and whether the claim query stays fast."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import asyncpg

from db import checkup
from db.adoption.status_triggers import read_unseeing
from db.errors import DATABASE_DOWN, words_of
from db.migrate import connect_directly
from engine.urls import place_of
from reporting.checks.finding import Finding, error, note, warning
from reporting.servers import Servers
from reporting.wording import length, megabytes

OLDEST_VERSION = 150000
LONG_TRANSACTION_S = 600.0
BUSY_SHARE = 0.9
DEAD_ROWS, DEAD_SHARE = 10_000, 0.5
WRAPAROUND_AGE = 1_500_000_000
FOREIGN_INDEXES = 4

Row = Mapping[str, Any]


async def check(servers: Servers, direct_dsn: str | None) -> list[Finding]:
    """Look at the server, the rights, the indexes and the tables.

    Args:
        direct_dsn: DATABASE_DIRECT_URL, the way past a pooler.
    """
    return [
        *judge_server(await servers.ask_postgres(checkup.read_server)),
        *await check_rights(servers),
        *judge_indexes(await servers.ask_postgres(checkup.read_indexes)),
        *judge_tables(await servers.ask_postgres(checkup.read_statistics)),
        *judge_triggers(await servers.ask_postgres(read_unseeing)),
        *await check_way(servers, direct_dsn),
    ]


async def check_rights(servers: Servers) -> list[Finding]:
    """Look whether the workers' role may do what they do; without a worker, whether ours may."""
    role = await servers.ask_postgres(checkup.read_worker_role)
    missing = await servers.ask_postgres(partial(checkup.read_missing_rights, role=role))
    return list(judge_rights(missing, role))


async def check_way(servers: Servers, direct_dsn: str | None) -> list[Finding]:
    """Look whether there is a pooler before the server, and a way past it."""
    if direct_dsn is None:
        return list(judge_way(is_pooled=await servers.ask_postgres(leads_through_pooler)))
    try:
        timeout_s = servers.addresses.postgres_connect_timeout_s
        conn = await connect_directly(direct_dsn, timeout_s)
    except (*DATABASE_DOWN, asyncpg.PostgresError, ValueError) as failure:
        place = place_of(direct_dsn, 5432) or 'the address in DATABASE_DIRECT_URL'
        what = f'DATABASE_DIRECT_URL, {place}: {words_of(failure)}'
        return [error(what, 'correct it: NOTIFY and migrations go that way')]
    conn.terminate()
    return []


async def leads_through_pooler(pool: asyncpg.Pool) -> bool:
    """Whether statements go through a pooler such as pgbouncer."""
    async with pool.acquire() as conn:
        return bool(conn.is_pooled)  # type: ignore[attr-defined]  # see db.connection


def judge_way(*, is_pooled: bool) -> Iterator[Finding]:
    """Judge a pooler that there is no way past."""
    if is_pooled:
        yield warning(
            'DATABASE_URL leads through a pooler: NOTIFY is not heard, '
            'mail that Redis does not announce waits 5 s',
            'set DATABASE_DIRECT_URL to the server itself',
        )


def judge_server(server: Row) -> Iterator[Finding]:
    """Judge settings and load."""
    if server['version'] < OLDEST_VERSION:
        yield error(
            f'PostgreSQL {server["version"] // 10000} is too old', 'run PostgreSQL 15 or newer'
        )
    if server['is_standby']:
        yield error(
            'this is a standby: nothing can be claimed', 'point DATABASE_URL at the primary'
        )
    if not (server['fsync'] and server['full_page_writes']):
        yield error(
            'fsync or full_page_writes is off: '
            'after a crash, sent mail may look unsent, or be gone',
            'set both on in postgresql.conf',
        )
    if server['synchronous_commit'] == 'off':
        yield warning(
            'synchronous_commit is off: a crash may forget the last claims and results, '
            'and mail is sent twice',
            'set it to on, at least for the role of the workers',
        )
    if not server['autovacuum']:
        yield error('autovacuum is off: the outbox grows without end', 'set autovacuum = on')
    if server['connections'] > BUSY_SHARE * server['max_connections']:
        yield warning(
            f'{server["connections"]} of {server["max_connections"]} connections are in use',
            'raise max_connections, or lower DB_POOL_SIZE of workers and applications',
        )
    if (server['oldest_transaction_s'] or 0) > LONG_TRANSACTION_S:
        yield warning(
            f'a transaction has been open for {length(server["oldest_transaction_s"])}: '
            'nothing can be vacuumed',
            'end it: see pg_stat_activity, ORDER BY xact_start',
        )
    if server['idle_slot']:
        yield warning(
            f'nobody reads the replication slot {server["idle_slot"]}: the disk fills up',
            'start its reader, or SELECT pg_drop_replication_slot(...)',
        )
    if server['oldest_xid_age'] > WRAPAROUND_AGE:
        yield error(
            'transaction ids run out', 'VACUUM FREEZE the databases with the oldest datfrozenxid'
        )


def judge_rights(missing: Sequence[Row], role: str | None = None) -> Iterator[Finding]:
    """Name what workers are refused as this role, or would be with our settings."""
    if not missing:
        return
    reported = ', '.join(f'{row["privilege"]} on {row["table"]}' for row in missing)
    if role is None:
        what, remedy = 'this role', 'grant it if workers use it; operators may do with less'
    else:
        what, remedy = f'the role {role} of the workers', 'grant it: deploy/postgresql-roles.sql'
    yield warning(f'{what} lacks {reported}', remedy)


def judge_indexes(indexes: Sequence[Row]) -> Iterator[Finding]:
    """Name what is missing, broken, or more than the claim query bears."""
    names = {index['name'] for index in indexes}
    if 'mail_service_health_checked' in names:  # the application has a service_health of its own
        names.add('service_health_checked')
    if missing := sorted(set(checkup.INDEXES) - names):
        remedy = 'create them as db/migrations does, with CREATE INDEX CONCURRENTLY'
        yield error(f'indexes are missing: {", ".join(missing)}', remedy)
    if broken := sorted(index['name'] for index in indexes if not index['is_valid']):
        yield error(
            f'indexes are invalid: {", ".join(broken)}', 'REINDEX INDEX CONCURRENTLY each of them'
        )
    foreign = sorted(
        index['name']
        for index in indexes
        if index['table'] == 'outbound_emails'
        and index['name'] not in (*checkup.INDEXES, 'outbound_emails_pkey')
    )
    if len(foreign) > FOREIGN_INDEXES:
        yield note(
            f'outbound_emails has {len(foreign)} indexes more than it needs here: '
            f'{", ".join(foreign)}',
            'each slows every claim and result down; drop those that no query of yours uses',
        )


def judge_tables(tables: Sequence[Row]) -> Iterator[Finding]:
    """Name tables that vacuum does not keep up with."""
    for table in tables:
        if table['never_vacuumed']:
            remedy = f'ALTER TABLE {table["table"]} RESET (autovacuum_enabled)'
            yield error(f'autovacuum is off for {table["table"]}', remedy)
        if table['dead'] > max(DEAD_ROWS, DEAD_SHARE * table['live']):
            yield warning(
                f'{table["table"]} has {table["dead"]} dead rows '
                f'beside {table["live"]} living ones ({megabytes(table["bytes"])})',
                f'VACUUM {table["table"]}; see what keeps autovacuum from it: '
                'long transactions, too few workers',
            )


def judge_triggers(unseeing: Sequence[str]) -> Iterator[Finding]:
    """Name the application's triggers that came after the last migration."""
    if unseeing:
        yield warning(
            f'triggers of the application do not see all that is done to status here: '
            f'{", ".join(unseeing)}',
            'run `python -m db.migrate`; should a CHECK be in the way, its --dry-run names it',
        )
