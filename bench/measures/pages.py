"""What a look costs, at the web page and at /metrics, on an outbox with much mail that waits."""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx

from actions.retry import RetryTerms
from actions.tokens import ApiScope, create_token
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.outbox import Outbox, fresh_outbox
from bench.rounds import Bench
from db import checkup, waiting
from db.audit import Actor
from db.pools import create_postgres_pool
from db.reports import attempts, outbox, traces
from dev.postgres import Postgres
from engine.signals import WorkerSignals
from jobs.count_history import count_history
from mail_outbox.address_fields import Sender
from reporting.history import WINDOWS, Dimension, read_history, read_most
from reporting.servers import ServerAddresses
from web.api.parts import Api
from web.api.servers import ApiServers
from web.application import make_application
from web.questions import OVERVIEW, READINESS
from web.watch import Watch

EMAILS, WAITING = 10_000_000, 1_000_000
CHUNK = 500_000
LOOKS, LIMIT_MS = 20, 100.0
SENDER = Sender('noreply@example.com', 'Example')
PATHS = {
    '/': 'the page', '/metrics': '/metrics', '/workers': 'Workers', '/mail': 'Mail',
    '/mail?status=dead': 'Mail that is dead', '/mail?status=held': 'Mail that is held',
    '/mail?q=customer-77@domain-77.example.org': 'Mail to one address',
    '/mail?q=nobody@domain-77.example.org': 'Mail to an address that has none',
}  # fmt: skip

# A third of what was sent went out within the last day, the rest within 90; 1 % was refused.
SENT_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, organization_id, status,
    attempts, smtp_code, smtp_response, relay, message_id, created_at, updated_at,
    last_attempt_at, sent_at, dead_reason)
SELECT 'customer-' || n || '@domain-' || n % 5000 || '.example.org', 'Your code',
    repeat('Your code is 123456. ', 8), (ARRAY['code', 'receipt', 'news'])[n % 3 + 1], n % 800,
    CASE WHEN n % 100 = 1 THEN 'failed' ELSE 'sent' END, 1,
    CASE WHEN n % 100 = 1 THEN 550 ELSE 250 END, '2.0.0 Ok: queued',
    (ARRAY['primary', 'backup'])[n % 2 + 1], '<' || n || '@example.com>', at - interval '2 s', at,
    at, CASE WHEN n % 100 <> 1 THEN at END, CASE WHEN n % 100 = 1 THEN 'rejected' END
FROM generate_series($1::bigint, $2::bigint) AS n,
    LATERAL (SELECT now() - CASE WHEN n <= $3 * 2 / 3
        THEN interval '1 day' + (1 - n / ($3 * 2.0 / 3)) * interval '89 days'
        ELSE (1 - (n - $3 * 2.0 / 3) / ($3 / 3.0)) * interval '1 day' END AS at) AS t
"""
ATTEMPTS_SQL = """
INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase, relay, smtp_code,
    reply, duration_ms, recorded_at)
SELECT id, updated_at, 1, 'mail-' || id % 8 || '@host:1',
    CASE WHEN status = 'sent' THEN 'accepted' ELSE 'rejected' END, 'data', relay, smtp_code,
    smtp_response, 5 + id % 400, updated_at + interval '0.4 s'
FROM outbound_emails WHERE id BETWEEN $1 AND $2
"""
# Of ten that wait six are due, two are for later, two are tried again.
WAITING_SQL = """
INSERT INTO outbound_emails (recipient, subject, body_text, email_type, organization_id, status,
    attempts, next_retry_at, priority, created_at)
SELECT 'customer-' || n || '@domain-' || n % 5000 || '.example.org', 'Your code',
    repeat('Your code is 123456. ', 8), (ARRAY['code', 'receipt', 'news'])[n % 3 + 1], n % 800,
    CASE WHEN n % 10 < 8 THEN 'pending' ELSE 'failed' END, CASE WHEN n % 10 < 8 THEN 0 ELSE 1 END,
    now() + CASE WHEN n % 10 < 6 THEN n % 3600 * interval '-1 second'
        ELSE n % 86400 * interval '1 second' END,
    n % 20 / 10 + 1, now() - interval '1 hour'
FROM generate_series(1, $1::bigint) AS n
"""
STATEMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    'what waits': (waiting.COUNT_NOW_SQL, (waiting.COUNTED_NOW,)),
    'the last count of what waits': (waiting.LAST_COUNT_SQL, ()),
    'sent in the last hour': (outbox.SENT_SQL, ()),
    'why attempts failed': (attempts.FAILURES_SQL, (10,)),
    'how long attempts took': (attempts.DURATIONS_SQL, (attempts.QUANTILES,)),
    'the same, counted': (attempts.COUNTED_DURATIONS_SQL, ()),
    'set aside within a day': (checkup.POISONED_SQL, ()),
    'workers that left a trace': (traces.SEEN_WORKERS_SQL, ()),
    'duties': (traces.DUTIES_SQL, ()),
    'services': (traces.SERVICES_SQL, ()),
}


class Pages(Measure):
    """One database, filled; the page and /metrics asked again and again, nothing is shared."""

    key = 'pages'
    title = 'A look at a large outbox'
    about_s = 900
    rounds = 3

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Fill, count as the duty does, look cold and warm."""
        postgres = bench.stack.postgres
        emails, waits = plan.count(EMAILS, 30_000), plan.count(WAITING, 12_000)
        async with fresh_outbox(postgres, 'bench_pages') as large:
            data: Data = {'emails': emails, 'waiting': waits}
            data['fill_s'] = await _fill(large, emails - waits, waits)
            data['counting'] = await _count(large)
            looks: dict[str, Any] = {path: {'cold_ms': [], 'warm_ms': []} for path in PATHS}
            for _ in range(plan.rounds):
                for path in PATHS:
                    await _restart(postgres, large)
                    async with _client(bench, large.dsn) as client:
                        looks[path]['cold_ms'].append(await _look(client, path))
                        warm = [await _look(client, path) for _ in range(plan.count(LOOKS, 3))]
                        looks[path]['warm_ms'].append(statistics.median(warm))
            data['looks'] = looks
            data['statements'] = await _explain(large)
            data['charts_ms'] = await _charts(large)
        return data

    def bars(self, data: Data) -> list[Bar]:
        """Judge warm looks."""
        size = f'{data["emails"]:,} e-mails, {data["waiting"]:,} of them waiting'
        return [
            Bar(
                f'{PATHS[path]} at {size}, ms',
                f'{LIMIT_MS:.0f}',
                spread(found['warm_ms'])
                + f'; first after a restart of PostgreSQL {spread(found["cold_ms"], ".0f")}',
                statistics.median(found['warm_ms']) <= LIMIT_MS,
            )
            for path, found in data['looks'].items()
        ]

    def details(self, data: Data) -> list[str]:
        """Return each statement, the charts, and what counting cost."""
        rows = [
            (name, f'{one["ms"]:.1f}', f'{one["pages"]:,}', one['indexes'])
            for name, one in data['statements'].items()
        ]
        charts = ', '.join(f'{name} {ms:.1f} ms' for name, ms in data['charts_ms'].items())
        return [
            *table(('question', 'ms', 'pages of 8 kB', 'by'), rows),
            '',
            f'Charts and tables of a window: {charts}.',
            _told(data['counting']),
        ]


def _told(counting: Data) -> str:
    return (
        f'The duty counted the attempts of before, {counting["attempts"]:,}, in '
        f'{counting["took_s"]:.0f} s ({counting["attempts"] / counting["took_s"]:,.0f} a second), '
        f'and all that waits in {counting["waiting_took_s"]:.2f} s; mail_history has '
        f'{counting["rows"]:,} rows, {counting["bytes"] / 1e6:.0f} MB with its index.'
    )


async def _fill(large: Outbox, sent: int, waits: int) -> float:
    started_at = time.perf_counter()
    await large.conn.execute('SET synchronous_commit = off')
    for first in range(1, sent + 1, CHUNK):
        last = min(sent, first + CHUNK - 1)
        await large.conn.execute(SENT_SQL, first, last, sent, timeout=1800)
        await large.conn.execute(ATTEMPTS_SQL, first, last, timeout=1800)
        print(f'pages: {last:,} sent', flush=True)
    await large.conn.execute(WAITING_SQL, waits, timeout=1800)
    await large.conn.execute('RESET synchronous_commit')
    await large.conn.execute('VACUUM ANALYZE outbound_emails, email_attempts', timeout=1800)
    return time.perf_counter() - started_at


async def _pool(large: Outbox, *, by_index: bool) -> asyncpg.Pool:
    return await create_postgres_pool(
        large.dsn, size=1, connect_timeout_s=10, command_timeout_s=15, application_name='bench',
        by_index=by_index,
    )  # fmt: skip


async def _count(large: Outbox) -> Data:
    """Count the last week as the duty does after a week without a worker."""
    await large.conn.execute(
        'UPDATE mail_history_progress '
        "SET counted_until = date_trunc('minute', now() - $1::interval)",
        timedelta(days=7),
    )
    attempts_counted, took_s = 0, 0.0
    async with await _pool(large, by_index=True) as pool:
        runtime = SimpleNamespace(stores=SimpleNamespace(pool=pool), signals=WorkerSignals())
        ctx = {'runtime': runtime}
        done = 1
        while done:
            started_at = time.perf_counter()
            done = (await count_history(ctx))['affected']
            attempts_counted, took_s = (
                attempts_counted + done,
                time.perf_counter() - started_at + took_s,
            )
    await large.conn.execute('VACUUM ANALYZE mail_history')
    [row] = await large.conn.fetch(
        'SELECT COALESCE(waiting_took_s, 0) AS took_s, '
        "pg_total_relation_size('mail_history') AS bytes, "
        '(SELECT count(*) FROM mail_history) AS rows FROM mail_history_progress'
    )
    return {
        'attempts': attempts_counted, 'took_s': took_s, 'waiting_took_s': row['took_s'],
        'rows': row['rows'], 'bytes': row['bytes'],
    }  # fmt: skip


async def _restart(postgres: Postgres, large: Outbox) -> None:
    """Empty the server's own memory. What the machine keeps of its files stays."""
    await large.conn.close()
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)
    large.conn = await asyncpg.connect(large.dsn)


@contextlib.asynccontextmanager
async def _client(bench: Bench, dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    addresses = ServerAddresses(postgres_dsn=dsn, redis_url=bench.stack.env['ARQ_REDIS_URL'])
    watches = [Watch(addresses, asked, shared_s=0) for asked in (OVERVIEW, READINESS)]
    queueing, servers = ApiServers(addresses, 10.0), ApiServers(addresses, 10.0)
    api = Api(queueing, servers, RetryTerms(24, 'arq:queue'), SENDER)
    app = make_application(*watches, token=None, loopback_only=True, api=api)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url='http://localhost') as client:
        await client.get('/health/ready')  # its own connections: the watch's are opened by a look
        await _log_in(client, servers)
        yield client
    await api.close()
    for watch in watches:
        await watch.close()


async def _log_in(client: httpx.AsyncClient, servers: ApiServers) -> None:
    name, by = f'bench-{time.time_ns()}', Actor('bench', 'here')
    token = await create_token(servers, name, [ApiScope.READ], by=by)
    page = await client.get('/login')
    key = page.text.partition('name="form_key" value="')[2].partition('"')[0]
    await client.post('/login', data={'form_key': key, 'token': token.token})


async def _look(client: httpx.AsyncClient, path: str) -> float:
    started_at = time.perf_counter()
    answer = await client.get(path)
    took_ms = (time.perf_counter() - started_at) * 1000
    if (
        answer.status_code != 200
        or 'did not answer' in answer.text
        or 'postgresql"} 0.0' in answer.text
    ):
        raise AssertionError(answer.text[:2000])
    return took_ms


async def _explain(large: Outbox) -> Data:
    found = {}
    for name, (sql, arguments) in STATEMENTS.items():
        explain = f'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}'
        plans = [json.loads(await large.conn.fetchval(explain, *arguments)) for _ in range(3)]
        plan = plans[-1][0]
        found[name] = {
            'ms': statistics.median(p[0]['Execution Time'] + p[0]['Planning Time'] for p in plans),
            'pages': plan['Plan']['Shared Hit Blocks'] + plan['Plan']['Shared Read Blocks'],
            'indexes': ', '.join(sorted(set(_scans(plan['Plan'])))),
        }
    return found


def _scans(node: Data) -> list[str]:
    """Return by which indexes a plan goes, and which tables it reads whole."""
    own = [node['Index Name']] if 'Index Name' in node else []
    if node['Node Type'] == 'Seq Scan' and node['Relation Name'] in (
        'outbound_emails',
        'email_attempts',
    ):
        own.append(f'all of {node["Relation Name"]}')
    return own + [name for child in node.get('Plans', ()) for name in _scans(child)]


async def _charts(large: Outbox) -> dict[str, float]:
    took_ms = {}
    async with await _pool(large, by_index=False) as pool:
        for window in WINDOWS.values():
            for _ in range(2):  # the first one plans
                started_at = time.perf_counter()
                await read_history(pool, window)
                took_ms[window.name] = (time.perf_counter() - started_at) * 1000
            for _ in range(2):
                started_at = time.perf_counter()
                await read_most(pool, window, Dimension.DOMAIN)
                took_ms[f'domains of {window.name}'] = (time.perf_counter() - started_at) * 1000
    return took_ms
