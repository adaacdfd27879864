"""What ten million e-mails that were sent long ago cost those that are due.

Numbers for docs/schema.md.

    python -m bench.schema_old [--old 10000000] [--rounds 20] [--parts claims retention partitions]

Two databases of one server, one of them with the old rows, take turns. Claims, records and the
retention's deletes are the statements of db/.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Callable

import asyncpg

from bench.schema_lab import (
    CLAIM_BATCH,
    INSERT_OLD_ATTEMPTS_SQL,
    INSERT_OLD_SQL,
    INSERT_SQL,
    TimedPool,
    claim_batch,
    claim_one,
    database,
    percentile,
    record_sent,
    run,
)
from db.retention import remove_old
from dev.postgres import Postgres

OLD_DAYS = 180
RETENTION_DAYS = 90
ROUND_BATCHES = 10
ROUND_SINGLES = 100
IDS_SQL = "SELECT id FROM outbound_emails WHERE status = 'pending' ORDER BY id DESC LIMIT $1"
SIZES_SQL = """
SELECT relname, pg_table_size(relid) / 1e9 AS table_gb, pg_indexes_size(relid) / 1e9 AS indexes_gb
FROM pg_stat_user_tables WHERE relname IN ('outbound_emails', 'email_attempts') ORDER BY 1
"""


async def fill(pool: asyncpg.Pool, old: int) -> None:
    """Insert e-mails that were sent over the last OLD_DAYS, and their attempts."""
    started = time.perf_counter()
    await pool.execute(INSERT_OLD_SQL, old, OLD_DAYS * 86400.0)
    await pool.execute(INSERT_OLD_ATTEMPTS_SQL)
    for table in ('outbound_emails', 'email_attempts'):
        await pool.execute(f'VACUUM ANALYZE {table}')
    print(f'{old:,} old rows in {time.perf_counter() - started:.0f} s')
    for row in await pool.fetch(SIZES_SQL):
        print(f'    {row["relname"]}: {row["table_gb"]:.2f} GB, indexes {row["indexes_gb"]:.2f} GB')


async def one_round(pool: asyncpg.Pool, batches: TimedPool, singles: TimedPool) -> None:
    """Send a few thousand e-mails in batches and a hundred by their ids."""
    await pool.execute(INSERT_SQL, ROUND_BATCHES * CLAIM_BATCH)
    while claims := await claim_batch(batches):
        await record_sent(pool, claims)
    await pool.execute(INSERT_SQL, ROUND_SINGLES)
    for row in await pool.fetch(IDS_SQL, ROUND_SINGLES):
        await record_sent(pool, await claim_one(singles, row['id']))


async def compare_claims(empty: asyncpg.Pool, full: asyncpg.Pool, rounds: int) -> None:
    """Print the claims' latency on both databases, which take turns."""
    timed = {
        name: (TimedPool(pool), TimedPool(pool))
        for name, pool in (('empty', empty), ('old rows', full))
    }
    for number in range(rounds + 1):
        for batches, singles in timed.values():
            if number == 1:  # the first round warms up
                batches.took_ms.clear()
                singles.took_ms.clear()
            await one_round(batches.pool, batches, singles)
    print(
        '| claim latency, ms | empty p50 / p99 | with old rows p50 / p99 | ratio p50 / '
        'p99 |\n|---|---|---|---|'
    )
    for place, what in ((0, f'{CLAIM_BATCH} due ones'), (1, 'one by its id')):
        (few50, few99), (many50, many99) = (
            [percentile(timed[name][place].took_ms, percent) for percent in (50, 99)]
            for name in timed
        )
        ratio = f'{many50 / few50:.2f} / {many99 / few99:.2f}'
        print(
            f'| {what} | {few50:.2f} / {few99:.2f} | {many50:.2f} / {many99:.2f} | {ratio} |',
            flush=True,
        )


async def measure_retention(pool: asyncpg.Pool) -> None:
    """Delete what is older than RETENTION_DAYS while e-mails are claimed one by one.

    Print what either took.
    """
    quiet, beside = TimedPool(pool), TimedPool(pool)
    await singles_until(quiet, lambda: len(quiet.took_ms) >= 500)
    sending = asyncio.create_task(singles_until(beside, lambda: False))
    took_ms: list[float] = []
    removed = 0
    last_id: int | None = 0
    started = time.perf_counter()
    while last_id is not None:
        batch_started = time.perf_counter()
        batch = await remove_old(pool, RETENTION_DAYS, last_id)
        took_ms.append((time.perf_counter() - batch_started) * 1000)
        removed, last_id = removed + batch.emails, batch.last_id
        await asyncio.sleep(took_ms[-1] / 1000)  # as the job does
    took_s = time.perf_counter() - started
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    tenth = max(2, len(took_ms) // 10)
    first, last = percentile(took_ms[:tenth], 50), percentile(took_ms[-tenth:], 50)
    print(f'retention: {removed:,} removed in {took_s:.0f} s, {removed / took_s:,.0f}/s;')
    print(
        f'    a batch of 1,000: p50 {first:.0f} ms in the first tenth, {last:.0f} in the '
        f'last, max {max(took_ms):.0f}'
    )
    for name, timed in (('without it', quiet), ('beside it', beside)):
        p50, p99 = (percentile(timed.took_ms, percent) for percent in (50, 99))
        print(f'    claim by id {name}: p50 {p50:.2f} ms, p99 {p99:.2f}', flush=True)


async def singles_until(timed: TimedPool, is_over: Callable[[], bool]) -> None:
    """Queue e-mails and claim them by their ids, some two hundred a second."""
    while not is_over():
        await timed.pool.execute(INSERT_SQL, 20)
        for row in await timed.pool.fetch(IDS_SQL, 20):
            await record_sent(timed.pool, await claim_one(timed, row['id']))
        await asyncio.sleep(0.1)


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--old', type=int, default=10_000_000)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument(
        '--parts', nargs='+', choices=['claims', 'retention'], default=['claims', 'retention']
    )
    options = parser.parse_args()

    async def measure(postgres: Postgres) -> None:
        async with database(postgres, 'no_rows') as empty, database(postgres, 'old_rows') as full:
            await fill(full, options.old)
            if 'claims' in options.parts:
                await compare_claims(empty, full, options.rounds)
            if 'retention' in options.parts:
                await measure_retention(full)

    run(measure)


if __name__ == '__main__':
    main()
