"""How the hot tables age while e-mails go through them, with several settings.

Numbers for docs/schema.md.

    python -m bench.schema [--emails 1000000] [--only NAME ...] [--steady]

Claims and records in batches of 200 by the statements of db/claims.py, without any SMTP, on the
stack's PostgreSQL. All e-mails are due at the start, or with --steady they come 2,000 at a time,
each lot when the last has been sent.
"""

import argparse
import time
from typing import Any

import asyncpg

from bench.schema_lab import (
    INSERT_SQL,
    TimedPool,
    claim_batch,
    database,
    percentile,
    record_sent,
    run,
)
from dev.postgres import Postgres

STEADY_LOT = 2000
HOT = ('outbound_emails', 'email_attempts')

VACUUM = (
    'ALTER TABLE outbound_emails SET (autovacuum_vacuum_scale_factor = 0.01, '
    'autovacuum_vacuum_threshold = 10000, '
    'autovacuum_analyze_scale_factor = 0.02)'
)
DEFAULTS = (
    'ALTER TABLE outbound_emails RESET (fillfactor, autovacuum_vacuum_scale_factor, '
    'autovacuum_vacuum_threshold, '
    'autovacuum_analyze_scale_factor)'
)


def _fillfactor(percent: int) -> str:
    return f'ALTER TABLE outbound_emails SET (fillfactor = {percent})'


# By name: what is changed about the migrated schema before any row is there.
SETTINGS: dict[str, tuple[str, ...]] = {
    'as migrated': (),
    'PostgreSQL defaults': (DEFAULTS,),
    'vacuum often': (DEFAULTS, VACUUM),
    'vacuum often, fillfactor 70': (DEFAULTS, VACUUM, _fillfactor(70)),
    'vacuum often, fillfactor 50': (DEFAULTS, VACUUM, _fillfactor(50)),
    'vacuum often, fillfactor 85': (DEFAULTS, VACUUM, _fillfactor(85)),
    'vacuum often, primary key 70': (
        DEFAULTS,
        VACUUM,
        'ALTER INDEX outbound_emails_pkey SET (fillfactor = 70)',
    ),
    'no autovacuum': (DEFAULTS, 'ALTER TABLE outbound_emails SET (autovacuum_enabled = off)'),
}

STATE_SQL = """
SELECT n_dead_tup, n_tup_upd, n_tup_hot_upd, autovacuum_count, pg_table_size(relid) / 1e6
    AS table_mb,
    pg_total_relation_size(relid) / 1e6 AS total_mb
FROM pg_stat_user_tables WHERE relname = $1
"""
INDEXES_SQL = """
SELECT replace(indexrelname, 'outbound_emails_', '') AS name, pg_relation_size(indexrelid) / 1e6
    AS mb
FROM pg_stat_user_indexes WHERE relname = 'outbound_emails' AND pg_relation_size(indexrelid) > 1e6
ORDER BY 2 DESC
"""
WAL_SQL = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


async def measure(postgres: Postgres, name: str, emails: int, *, steady: bool) -> dict[str, Any]:
    """Send e-mails with one setting. Returns the columns of its row."""
    nap_s = 5 if steady else 60  # in the steady run a minute's mail passes in seconds
    async with database(postgres, 'schema', *SETTINGS[name]) as pool:
        await pool.execute(f"ALTER SYSTEM SET autovacuum_naptime = '{nap_s}s'")
        await pool.execute('SELECT pg_reload_conf()')
        claiming = TimedPool(pool)
        if not steady:
            await pool.execute(INSERT_SQL, emails)
        wal_start = await pool.fetchval(WAL_SQL)
        started, rates, sent = time.perf_counter(), [], 0
        part = max(emails // 10, STEADY_LOT)
        part_started = started
        while sent < emails:
            if steady and sent % STEADY_LOT == 0:
                await pool.execute(INSERT_SQL, STEADY_LOT)
            claims = await claim_batch(claiming)
            await record_sent(pool, claims)
            sent += len(claims)
            if sent % part == 0:
                rates.append(part / (time.perf_counter() - part_started))
                part_started = time.perf_counter()
        return await _row(
            pool, claiming.took_ms, rates, (await pool.fetchval(WAL_SQL) - wal_start) / emails
        )


async def _row(
    pool: asyncpg.Pool, took_ms: list[float], rates: list[float], wal_bytes: float
) -> dict[str, Any]:
    await pool.execute('SELECT pg_stat_force_next_flush()')
    (state,) = await pool.fetch(STATE_SQL, 'outbound_emails')
    (attempts,) = await pool.fetch(STATE_SQL, 'email_attempts')
    tenth = len(took_ms) // 10
    parts = (took_ms[:tenth], took_ms[-tenth:])
    first, last = (' / '.join(f'{percentile(part, p):.1f}' for p in (50, 99)) for part in parts)
    return {
        'rate, first and last tenth': f'{rates[0]:,.0f}, {rates[-1]:,.0f}/s',
        'claim p50 / p99 ms, first tenth': first,
        'last tenth': last,
        'vacuums': state['autovacuum_count'],
        'dead rows': f'{state["n_dead_tup"]:,}',
        'HOT': f'{state["n_tup_hot_upd"] / state["n_tup_upd"]:.1%}',
        'table MB': f'{state["table_mb"]:.0f}',
        'indexes MB': ', '.join(
            f'{row["name"]} {row["mb"]:.0f}' for row in await pool.fetch(INDEXES_SQL)
        ),
        'attempts MB': f'{attempts["total_mb"]:.0f}',
        'WAL bytes an e-mail': f'{wal_bytes:,.0f}',
    }


def main() -> None:
    """Measure each setting and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--emails', type=int, default=1_000_000)
    parser.add_argument(
        '--only', nargs='+', choices=SETTINGS, default=list(SETTINGS), metavar='NAME'
    )
    parser.add_argument('--steady', action='store_true')
    options = parser.parse_args()

    async def measure_all(postgres: Postgres) -> None:
        for number, name in enumerate(options.only):
            row = await measure(postgres, name, options.emails, steady=options.steady)
            if not number:
                print('| setting | ' + ' | '.join(row) + ' |\n|---|' + '---|' * len(row))
            print(f'| {name} | ' + ' | '.join(map(str, row.values())) + ' |', flush=True)

    run(measure_all)


if __name__ == '__main__':
    main()
