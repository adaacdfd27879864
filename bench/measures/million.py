"""A million e-mails through one worker.

Its pace and memory from first to last, and the tables after it.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import psutil

from bench.contenders import CONTENDERS
from bench.measures.measure import Bar, Data, Measure, Plan, table
from bench.outbox import Outbox, with_database
from bench.rounds import Bench, Order

ROWS = 1_000_000
PARTS = 10
WARM_UP = 500
RSS_FROM = 0.01  # pools and buffers have grown to their size by then
DEADLINE_S = 3000.0
SAMPLE_EVERY_S = 0.5
TABLES = ('outbound_emails', 'email_attempts')
SLOWDOWN_LIMIT = 0.9
GROWTH_LIMIT_MIB = 10.0

MARKS_SQL = """
SELECT n, sent_at FROM (
    SELECT row_number() OVER (ORDER BY sent_at) AS n, sent_at FROM outbound_emails WHERE id > $1
) AS e WHERE n % $2 = 0 ORDER BY n
"""
ACTIVITY_SQL = """
SELECT n_live_tup, n_dead_tup, n_tup_upd, n_tup_hot_upd, autovacuum_count, pg_table_size(relid)
    AS table_bytes
FROM pg_stat_user_tables WHERE relname = $1
"""
INDEXES_SQL = """
SELECT indexrelid::regclass::text AS name, pg_relation_size(indexrelid) AS bytes
FROM pg_index WHERE indrelid = $1::text::regclass ORDER BY 1
"""
TUPLES_SQL = 'SELECT dead_tuple_percent, free_percent FROM pgstattuple($1)'
WAL_SQL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8"


class Million(Measure):
    """One long run."""

    key = 'million'
    title = 'A million rows drained by one worker'
    about_s = 270
    rounds = 1

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Drain, then look at what is left."""
        rows = plan.count(ROWS, 400)
        contender = CONTENDERS['bulk_for_all']  # it goes on after the time box of a sweep
        with bench.relay() as relay:
            order = Order(contender, relay, rows, 'million')
            async with bench.site(order) as site, bench.workers(order, site) as workers:
                outbox = site.outbox
                warm_ids = await outbox.insert(WARM_UP)
                await outbox.commit()
                await contender.release(site)
                await outbox.wait_until_sent(workers, lambda: True, DEADLINE_S)
                filling_at = time.monotonic()
                await outbox.insert_many(rows)
                print(f'million: inserted in {time.monotonic() - filling_at:.0f} s', flush=True)
                wal_before_bytes = await outbox.conn.fetchval(WAL_SQL)
                before = relay.count()
                rows = await outbox.open_count()
                async with _sampled_rss(workers[0].pid) as rss:
                    released_at = await outbox.now()
                    await outbox.commit()
                    await contender.release(site)
                    await outbox.wait_until_sent(
                        workers, lambda: relay.count() - before >= rows, DEADLINE_S
                    )
                wal_bytes = await outbox.conn.fetchval(WAL_SQL) - wal_before_bytes
                marks = await outbox.conn.fetch(
                    MARKS_SQL, max(warm_ids), rows // PARTS, timeout=600
                )
                if (taken := await relay.settled_count(before + rows) - before) != rows:
                    print(f'million: the sink took {taken} messages for {rows} rows')
                tables = await _tables(bench, outbox)
        moments = [released_at, *(mark['sent_at'] for mark in marks)]
        return {
            'rows': rows,
            'rates': [
                rows / PARTS / (b - a).total_seconds() for a, b in itertools.pairwise(moments)
            ],
            'rss_mib': _rss_at_marks(rss, [released_at, *moments[1:]]),
            'bytes_per_email': sum(map(_bytes, tables.values())) / (rows + WARM_UP),
            'wal_bytes_per_email': wal_bytes / rows,
            'tables': tables,
        }

    def bars(self, data: Data) -> list[Bar]:
        """Compare the end with the beginning."""
        rates, rss = data['rates'], data['rss_mib']
        ratio, growth = rates[-1] / rates[0], max(rss[1:]) - rss[0]
        text = f'{data["rows"]:,} rows drained: rate in the last tenth over the first'
        limit = f'under {GROWTH_LIMIT_MIB:g} MiB'
        return [
            Bar(text, f'{SLOWDOWN_LIMIT}', f'{ratio:.2f}', ratio >= SLOWDOWN_LIMIT),
            Bar('the same: RSS growth', limit, f'{growth:.1f} MiB', growth < GROWTH_LIMIT_MIB),
        ]

    def details(self, data: Data) -> list[str]:
        """Return the tenths and the tables."""
        rss = data['rss_mib']
        tenths = [
            (f'{number + 1}', f'{rate:.0f}', f'{rss[number + 1]:.1f}')
            for number, rate in enumerate(data['rates'])
        ]
        rows = [
            (
                name,
                f'{one["n_tup_upd"]:,}',
                f'{one["n_tup_hot_upd"] / max(1, one["n_tup_upd"]):.0%}',
                f'{one["dead_percent"]:.1f} %',
                f'{one["free_percent"]:.1f} %',
                f'{one["autovacuum_count"]}',
                f'{one["table_bytes"] / 1e6:.0f}',
                f'{one["vacuum_s"]:.1f}',
            )
            for name, one in data['tables'].items()
        ]
        told = f'RSS {rss[0]:.1f} MiB after the first hundredth.'
        told += f' WAL {data["wal_bytes_per_email"] / 1e3:.1f} kB an e-mail.'
        headings = (
            'table',
            'updates',
            'of them HOT',
            'dead',
            'free',
            'autovacuums',
            'MB',
            'VACUUM then, s',
        )
        indexes = [
            (index, f'{sizes["bytes"] / 1e6:.1f}', f'{sizes["rebuilt_bytes"] / 1e6:.1f}')
            for one in data['tables'].values()
            for index, sizes in one['indexes'].items()
        ]
        return [
            *table(('tenth', 'e-mails/s', 'RSS MiB at its end'), tenths),
            '',
            told,
            '',
            *table(headings, rows),
            '',
            *table(('index', 'MB', 'MB rebuilt'), indexes),
        ]


@contextlib.asynccontextmanager
async def _sampled_rss(pid: int) -> AsyncIterator[list[tuple[float, float]]]:
    """Collect (seconds since 1970, MiB) while entered."""
    samples: list[tuple[float, float]] = []
    process = psutil.Process(pid)

    async def sample() -> None:
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                samples.append((time.time(), process.memory_info().rss / 2**20))
            await asyncio.sleep(SAMPLE_EVERY_S)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()


def _rss_at_marks(samples: list[tuple[float, float]], moments: list[datetime]) -> list[float]:
    """Return the RSS after the first hundredth of the first part, and at the end of each part."""
    first = moments[0].timestamp() + (moments[1] - moments[0]).total_seconds() * RSS_FROM * PARTS
    return [_at(samples, at) for at in (first, *(moment.timestamp() for moment in moments[1:]))]


def _at(samples: list[tuple[float, float]], at: float) -> float:
    return min(samples, key=lambda sample: abs(sample[0] - at))[1]


def _bytes(one: Data) -> int:
    used = (
        1 - (one['dead_percent'] + one['free_percent']) / 100
    )  # the rest is room for the next rows
    return int(
        one['table_bytes'] * used + sum(sizes['rebuilt_bytes'] for sizes in one['indexes'].values())
    )


async def _tables(bench: Bench, outbox: Outbox) -> Data:
    """Return the state of the hot tables and their indexes, as they are and rebuilt."""
    database = outbox.dsn.rpartition('/')[2]
    conn = await asyncpg.connect(
        with_database(bench.stack.postgres.superuser_url, database), command_timeout=1800
    )
    try:
        await conn.execute('CREATE EXTENSION IF NOT EXISTS pgstattuple')
        await conn.execute('SELECT pg_stat_force_next_flush()')
        return {name: await _table(conn, name) for name in TABLES}
    finally:
        await conn.close()


async def _table(conn: asyncpg.Connection, name: str) -> Data:
    (activity,) = await conn.fetch(ACTIVITY_SQL, name)
    (tuples,) = await conn.fetch(TUPLES_SQL, name)
    indexes = {row['name']: {'bytes': row['bytes']} for row in await conn.fetch(INDEXES_SQL, name)}
    started_at = time.perf_counter()
    await conn.execute(f'VACUUM {name}')
    vacuum_s = time.perf_counter() - started_at
    await conn.execute(f'REINDEX TABLE {name}')
    for row in await conn.fetch(INDEXES_SQL, name):
        indexes[row['name']]['rebuilt_bytes'] = row['bytes']
    return {
        **activity,
        'dead_percent': tuples['dead_tuple_percent'],
        'free_percent': tuples['free_percent'],
        'vacuum_s': vacuum_s,
        'indexes': indexes,
    }
