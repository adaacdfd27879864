"""What outbound_emails would cost, partitioned by month: numbers for docs/schema.md.

    python -m bench.schema_partitions [--old 200000] [--months 6 24] [--rounds 10]

The same statements on the table as it is and on one with the same columns and partial indexes,
partitioned by created_at, the rows spread evenly over the months. Then the oldest month goes: by
retention, or DETACH and DROP.
"""

import argparse
import time

import asyncpg

from bench.schema_lab import INSERT_OLD_SQL, TimedPool, database, percentile, run
from bench.schema_old import one_round
from db.retention import remove_old
from dev.postgres import Postgres

MONTH_DAYS = 30
# The idempotency index cannot come along: a unique index of a partitioned table must contain
# created_at.
PARTITION_SQL = """
ALTER TABLE outbound_emails RENAME TO plain;
CREATE TABLE outbound_emails (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (id, created_at))
    PARTITION BY RANGE (created_at);
DO $$
DECLARE
    definition text;
BEGIN
    FOR definition IN SELECT pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid = 'plain'::regclass AND NOT indisunique
    LOOP
        EXECUTE replace(replace(definition, 'plain', 'outbound_emails'), 'INDEX outbound_emails',
            'INDEX parted');
    END LOOP;
    FOR month IN 0 .. {months} LOOP
        EXECUTE format('CREATE TABLE month_%s PARTITION OF outbound_emails '
            'FOR VALUES FROM (%L) TO (%L)', month,
            date_trunc('day', now()) - month * interval '{days} days',
            date_trunc('day', now()) - (month - 1) * interval '{days} days');
    END LOOP;
END
$$
"""


async def measure(postgres: Postgres, name: str, months: int, old: int, rounds: int) -> None:
    """Print a row: claims on a table in so many months; 0 for the table as it is."""
    changes = (PARTITION_SQL.format(months=months, days=MONTH_DAYS),) if months else ()
    async with database(postgres, 'months', *changes) as pool:
        span_months = months or 6
        await pool.execute(INSERT_OLD_SQL, old, (span_months - 1) * MONTH_DAYS * 86400.0)
        await pool.execute('VACUUM ANALYZE')
        batches, singles = TimedPool(pool), TimedPool(pool)
        for number in range(rounds + 1):
            if number == 1:  # the first round warms up
                batches.took_ms.clear()
                singles.took_ms.clear()
            await one_round(pool, batches, singles)
        cells = [
            f'{percentile(timed.took_ms, 50):.2f} / {percentile(timed.took_ms, 99):.2f}'
            for timed in (batches, singles)
        ]
        took_s, removed = await (
            _drop_month(pool, months - 1) if months else _delete_month(pool, span_months)
        )
        print(
            f'| {name} | {" | ".join(cells)} | {removed:,} rows in {took_s * 1000:,.0f} ms |',
            flush=True,
        )


async def _delete_month(pool: asyncpg.Pool, span_months: int) -> tuple[float, int]:
    started, removed = time.perf_counter(), 0
    last_id: int | None = 0
    while last_id is not None:
        batch = await remove_old(pool, (span_months - 2) * MONTH_DAYS, last_id)
        removed, last_id = removed + batch.emails, batch.last_id
    await pool.execute('VACUUM outbound_emails')
    return time.perf_counter() - started, removed


async def _drop_month(pool: asyncpg.Pool, month: int) -> tuple[float, int]:
    removed = await pool.fetchval(f'SELECT count(*) FROM month_{month}')  # noqa: S608 - a number of ours
    started = time.perf_counter()
    await pool.execute(f'ALTER TABLE outbound_emails DETACH PARTITION month_{month} CONCURRENTLY')
    await pool.execute(f'DROP TABLE month_{month}')
    return time.perf_counter() - started, removed


def main() -> None:
    """Measure the table as it is, then each number of months."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--old', type=int, default=200_000)
    parser.add_argument('--months', type=int, nargs='+', default=[6, 24])
    parser.add_argument('--rounds', type=int, default=10)
    options = parser.parse_args()

    async def measure_all(postgres: Postgres) -> None:
        print(
            '| ms, p50 / p99 | claim of 200 due | claim by id | the oldest month goes '
            '|\n|---|---|---|---|'
        )
        await measure(postgres, 'as it is', 0, options.old, options.rounds)
        for months in options.months:
            await measure(postgres, f'{months} months', months, options.old, options.rounds)

    run(measure_all)


if __name__ == '__main__':
    main()
