"""An outbox full of old mail.

What claims, vacuum and retention cost, and when partitions would pay.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from bench.measures.measure import Bar, Data, Measure, Plan, percentile, spread, table
from bench.old_partition import drop_partition
from bench.outbox import Outbox, fresh_outbox
from bench.rounds import Bench
from db.claims import claim, claim_due
from db.pools import create_postgres_pool
from db.retention import remove_old

SIZES = (1_000_000, 10_000_000)
CHUNK = 500_000
CLAIMS = 600  # single, by id
DUE_CLAIMS = 150  # of DUE_BATCH each
DUE_BATCH = 20
WARM_UP = 10  # of each kind: a fresh connection plans its first statements anew
AGE_DAYS = 100  # of the oldest row; the newest is of today
RETENTION_DAYS = 90
RETENTION_WINDOW_S = 15.0
LIMIT = 1.2
WAYS = {'claim': 'one by its id', 'claim_due': f'the next {DUE_BATCH} due'}

FILL_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, status, attempts, smtp_code,
    smtp_response,
    relay, message_id, created_at, updated_at, last_attempt_at, sent_at)
SELECT 'customer-' || n || '@example.org', 'Your code', repeat('Your code is 123456. ', 8), 'code',
    'sent', 1, 250,
    '2.0.0 Ok: queued', 'primary', '<' || n || '@example.com>', at, at, at, at
FROM generate_series($1::bigint, $2::bigint) AS n,
    LATERAL (SELECT now() - $4 * interval '1 day' * (1 - n::float8 / $3) AS at) AS t
"""
DUE_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, next_retry_at)
SELECT 'customer-' || n || '@example.org', 'Your code', repeat('Your code is 123456. ', 8), 'code',
    now()
FROM generate_series(1, $1::int) AS n RETURNING id
"""
SENT_SQL = """
UPDATE outbound_emails SET status = 'sent', sent_at = now(), next_retry_at = NULL,
    claim_token = NULL,
    claimed_by = NULL, lease_expires_at = NULL
WHERE status = 'sending'
"""
# By the index.
FORGET_SQL = "DELETE FROM outbound_emails WHERE status = 'pending' AND next_retry_at IS NOT NULL"
SIZE_SQL = (
    "SELECT pg_table_size('outbound_emails') AS heap, pg_indexes_size('outbound_emails') AS indexes"
)

Claimer = Callable[[], Awaitable[Sequence[object]]]


class OldRows(Measure):
    """Two databases in turns: one empty, one with old rows."""

    key = 'old_rows'
    title = 'An outbox with old rows'
    about_s = 330

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Fill step by step, and compare with the empty one at each."""
        steps = []
        postgres = bench.stack.postgres
        async with (
            fresh_outbox(postgres, 'bench_no_old_rows') as empty,
            fresh_outbox(postgres, 'bench_old_rows') as old,
        ):
            filled = 0
            for size in SIZES:
                rows = plan.count(size, 2000)
                fill_s = await _fill(old, filled, rows, plan.count(SIZES[-1], 2000))
                filled = rows
                vacuum_first_s = await _vacuum(old)
                took_ms: dict[str, dict[str, list[list[float]]]] = {
                    way: {'empty': [], 'old': []} for way in WAYS
                }
                for number in range(plan.rounds):
                    pair = (('empty', empty), ('old', old))
                    await _compare(pair if number % 2 else pair[::-1], took_ms, plan)
                step = {
                    'rows': rows,
                    'fill_s': fill_s,
                    'vacuum_first_s': vacuum_first_s,
                    'took_ms': took_ms,
                }
                step['vacuum_again_s'] = await _vacuum(old)
                step['bytes'] = dict((await old.conn.fetch(SIZE_SQL))[0])
                steps.append(step)
                ratios = ', '.join(
                    f'{way} {statistics.median(_ratios(took_ms[way])):.2f}' for way in WAYS
                )
                print(
                    f'old_rows {rows:,}: filled in {fill_s:.0f} s, p99 over empty: {ratios}',
                    flush=True,
                )
            retention = await _retention(old, plan)
            partition = await drop_partition(old)
        return {'steps': steps, 'retention': retention, 'partition': partition}

    def bars(self, data: Data) -> list[Bar]:
        """Judge the fullest."""
        step = data['steps'][-1]
        ratios = {way: _ratios(step['took_ms'][way]) for way in WAYS}
        measured = '; '.join(
            f'{WAYS[way]} {spread(values, ".2f")} x' for way, values in ratios.items()
        )
        text = f'outbox with {step["rows"]:,} old rows against empty: claim latency p99'
        return [
            Bar(
                text,
                f'{LIMIT} x',
                measured,
                all(statistics.median(v) <= LIMIT for v in ratios.values()),
            )
        ]

    def details(self, data: Data) -> list[str]:
        """Return latencies by size, and what old rows cost otherwise."""
        rows = []
        for step in data['steps']:
            for way, kinds in step['took_ms'].items():
                columns = [
                    spread([percentile(values, percent) for values in kinds[kind]], '.2f')
                    for percent in (50, 99)
                    for kind in ('empty', 'old')
                ]
                rows.append((f'{step["rows"]:,}', WAYS[way], *columns))
        headings = (
            'old rows',
            'claim',
            'p50 ms, empty',
            'p50 ms, with them',
            'p99 ms, empty',
            'p99 ms, with them',
        )
        return [*table(headings, rows), '', *partition_table(data)]


def partition_table(data: Data) -> list[str]:
    """Return what the old rows cost besides claims; docs/scaling.md shows it as well."""
    rows = [
        (
            f'{step["rows"]:,}',
            f'{step["bytes"]["heap"] / 1e9:.2f}',
            f'{step["bytes"]["indexes"] / 1e9:.2f}',
            f'{step["vacuum_first_s"]:.1f}',
            f'{step["vacuum_again_s"]:.1f}',
        )
        for step in data['steps']
    ]
    headings = (
        'rows',
        'table GB',
        'indexes GB',
        'first VACUUM s',
        'VACUUM after some thousand updates s',
    )
    retention, partition = data['retention'], data['partition']
    told = (
        f'Retention deletes {retention["rows_per_s"]:,.0f} rows/s '
        f'({retention["rows"]:,} in {retention["took_s"]:.0f} s); '
        f'a claim by id meanwhile takes {retention["claim_p50_ms"]:.2f} / '
        f'{retention["claim_p99_ms"]:.2f} ms '
        f'(p50 / p99); VACUUM after it {retention["vacuum_s"]:.1f} s. '
        f'DROP of a partition with {partition["rows"]:,} rows: {partition["drop_ms"]:.0f} ms.'
    )
    return [*table(headings, rows), '', told]


def _ratios(kinds: dict[str, list[list[float]]]) -> list[float]:
    pairs = zip(kinds['old'], kinds['empty'], strict=True)
    return [percentile(old, 99) / percentile(empty, 99) for old, empty in pairs]


async def _fill(outbox: Outbox, filled: int, rows: int, total: int) -> float:
    started_at = time.perf_counter()
    await outbox.conn.execute('SET synchronous_commit = off')
    for first in range(filled + 1, rows + 1, CHUNK):
        await outbox.conn.execute(
            FILL_SQL, first, min(rows, first + CHUNK - 1), float(total), AGE_DAYS, timeout=600
        )
    await outbox.conn.execute('RESET synchronous_commit')
    return time.perf_counter() - started_at


async def _vacuum(outbox: Outbox) -> float:
    started_at = time.perf_counter()
    await outbox.conn.execute('VACUUM ANALYZE outbound_emails', timeout=1800)
    return time.perf_counter() - started_at


async def _worker_pool(outbox: Outbox) -> asyncpg.Pool:
    return await create_postgres_pool(
        outbox.dsn,
        size=2,
        connect_timeout_s=10,
        command_timeout_s=60,
        application_name='bench',
        by_index=True,
    )


async def _compare(
    pair: Sequence[tuple[str, Outbox]], took_ms: dict[str, dict[str, list[list[float]]]], plan: Plan
) -> None:
    """Claim in both, one after the other each time."""
    single, batches = plan.count(CLAIMS, 10) + WARM_UP, plan.count(DUE_CLAIMS, 5) + WARM_UP
    async with contextlib.AsyncExitStack() as stack:
        claimers: dict[str, dict[str, Claimer]] = {way: {} for way in WAYS}
        for kind, outbox in pair:
            pool = await stack.enter_async_context(await _worker_pool(outbox))
            ids = [
                row['id'] for row in await outbox.conn.fetch(DUE_SQL, single + batches * DUE_BATCH)
            ]
            claimers['claim'][kind] = _by_id(pool, ids[:single])
            claimers['claim_due'][kind] = _next_due(pool)
        for way, count in (('claim', single), ('claim_due', batches)):
            found: dict[str, list[float]] = {kind: [] for kind, _ in pair}
            for _ in range(count):
                for kind, _ in pair:
                    started_at = time.perf_counter()
                    if not await claimers[way][kind]():
                        raise AssertionError('nothing was claimed')
                    found[kind].append((time.perf_counter() - started_at) * 1000)
            for kind, values in found.items():
                took_ms[way][kind].append(values[WARM_UP:])
        for _, outbox in pair:
            await outbox.execute(SENT_SQL)
            await outbox.execute(FORGET_SQL)


def _by_id(pool: asyncpg.Pool, ids: Sequence[int]) -> Claimer:
    waiting = iter(ids)
    return lambda: claim(
        pool, [next(waiting)], worker='bench', lease_s=300, message_id_domain='example.com'
    )


def _next_due(pool: asyncpg.Pool) -> Claimer:
    return lambda: claim_due(
        pool, DUE_BATCH, worker='bench', lease_s=300, message_id_domain='example.com'
    )


async def _retention(outbox: Outbox, plan: Plan) -> Data:
    """Delete what is old enough for some seconds, claims going on beside it."""
    ids = [row['id'] for row in await outbox.conn.fetch(DUE_SQL, plan.count(20_000, 100))]
    removed, took_ms = 0, []
    async with await _worker_pool(outbox) as pool:
        claim_next = _by_id(pool, ids)
        started_at = time.perf_counter()
        end = started_at + (RETENTION_WINDOW_S if plan.scale == 1 else 0.5)

        async def delete() -> None:
            nonlocal removed
            last_id: int | None = 0
            while last_id is not None and time.perf_counter() < end:
                batch = await remove_old(pool, RETENTION_DAYS, last_id)
                removed, last_id = removed + batch.emails, batch.last_id

        deleting = asyncio.create_task(delete())
        for _ in ids:
            began_at = time.perf_counter()
            await claim_next()
            took_ms.append((time.perf_counter() - began_at) * 1000)
            if deleting.done():
                break
            await asyncio.sleep(0.002)
        await deleting
        took_s = time.perf_counter() - started_at
    return {
        'rows': removed,
        'took_s': took_s,
        'rows_per_s': removed / took_s,
        'claim_p50_ms': percentile(took_ms, 50),
        'claim_p99_ms': percentile(took_ms, 99),
        'vacuum_s': await _vacuum(outbox),
    }
