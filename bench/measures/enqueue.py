"""How fast an application can queue e-mails.

Many at once, and one at a time from several writers.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
from arq import create_pool

import mail_outbox.outbox
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.outbox import Outbox, email, fresh_outbox
from bench.rounds import Bench
from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email
from mail_outbox.validation import EmailValues
from mail_outbox.wake import notify

BULK_ROWS = 10_000
SINGLE_ROWS = 4000
WRITERS = 10
LIMIT_PER_S = 10_000

TITLES = {
    'queue_emails': 'queue_emails: 10,000 e-mails, one transaction, one wake-up',
    'unnest': 'INSERT ... SELECT FROM unnest: 10,000 rows, one NOTIFY (no checks)',
    'insert': 'queue_email, 10 writers, a transaction each',
    'notify': 'the same with notify=True',
    'enqueue': 'the same, then enqueue_job',
}


class Enqueue(Measure):
    """All ways to queue, in turns; no worker runs."""

    key = 'enqueue'
    title = 'Queueing e-mails'
    about_s = 50

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Return rows a second by way and round."""
        rates: dict[str, list[float]] = {}
        for number, way in plan.turns(
            [way for way in TITLES if way != 'queue_emails' or has_queue_emails()]
        ):
            async with fresh_outbox(
                bench.stack.postgres, f'bench_enqueue_{number}_{way}'
            ) as outbox:
                rows = plan.count(BULK_ROWS if way in BULK else SINGLE_ROWS, 20)
                took_s = await (
                    BULK[way](outbox, rows) if way in BULK else _singly(bench, outbox, way, rows)
                )
            rates.setdefault(way, []).append(rows / took_s)
            print(
                f'enqueue {number + 1}/{plan.rounds}  {TITLES[way]:68} {rows / took_s:8.0f} rows/s',
                flush=True,
            )
        return {'rates': rates}

    def bars(self, data: Data) -> list[Bar]:
        """Judge queue_emails where there is one."""
        text, limit = 'bulk enqueue of 10,000 e-mails, one wake-up, rows/s', f'over {LIMIT_PER_S:,}'
        rates = data['rates'].get('queue_emails')
        if not rates:
            return [Bar(text, limit, 'not there yet', None)]
        return [Bar(text, limit, spread(rates, ',.0f'), statistics.median(rates) > LIMIT_PER_S)]

    def details(self, data: Data) -> list[str]:
        """Return all ways."""
        return table(
            ('what', 'rows/s'),
            [(TITLES[way], spread(rates, ',.0f')) for way, rates in data['rates'].items()],
        )


def has_queue_emails() -> bool:
    """Tell whether this version of the project can queue many at once."""
    return hasattr(mail_outbox.outbox, 'queue_emails')


async def _unnest(outbox: Outbox, rows: int) -> float:
    columns = list(zip(*(email(number) for number in range(rows)), strict=True))
    started_at = time.perf_counter()
    async with outbox.conn.transaction():
        await outbox.conn.fetch(Outbox.INSERT_SQL, *columns)
        await notify(outbox.conn)
    return time.perf_counter() - started_at


async def _queue_emails(outbox: Outbox, rows: int) -> float:
    emails = [_arguments(number) for number in range(rows)]
    started_at = time.perf_counter()
    async with outbox.conn.transaction():
        await mail_outbox.outbox.queue_emails(outbox.conn, emails, notify=True)
    return time.perf_counter() - started_at


BULK: dict[str, Callable[[Outbox, int], Awaitable[float]]] = {
    'unnest': _unnest,
    'queue_emails': _queue_emails,
}


def _arguments(number: int) -> EmailValues:
    recipient, subject, text, html = email(number)
    return {
        'recipient': recipient,
        'subject': subject,
        'body_text': text,
        'body_html': html,
        'email_type': 'receipt',
    }


async def _singly(bench: Bench, outbox: Outbox, way: str, rows: int) -> float:
    redis = await create_pool(redis_settings(bench.stack.env['ARQ_REDIS_URL']))
    numbers = iter(range(rows))

    async def write(conn: asyncpg.Connection) -> None:
        for number in numbers:  # shared: each takes the next
            async with conn.transaction():
                email_id = await queue_email(conn, **_arguments(number), notify=way == 'notify')
            if way == 'enqueue':
                await redis.enqueue_job('send_email', email_id)

    conns = [await asyncpg.connect(outbox.dsn) for _ in range(WRITERS)]
    try:
        started_at = time.perf_counter()
        await asyncio.gather(*(write(conn) for conn in conns))
        return time.perf_counter() - started_at
    finally:
        for conn in conns:
            await conn.close()
        await redis.flushall()
        await redis.aclose()
