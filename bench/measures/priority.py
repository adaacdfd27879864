"""How long an urgent e-mail takes while a newsletter drains at full speed.

The same worker is measured beside it when it is idle.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator

from arq import create_pool

from bench.contender import Site
from bench.contenders import CONTENDERS
from bench.measures.latency import SETTLE_S, WARM_UP, Send, sample
from bench.measures.measure import Bar, Data, Measure, Plan, percentile, spread, table
from bench.outbox import RunFailed
from bench.relay import Relay
from bench.rounds import Bench, Order
from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email

RELAY_DELAY_MS = 5.0
SAMPLES = 100  # of each kind of wake-up
PAUSE_S = (0.01, 0.05)
NEWSLETTER = {'bulk': 120_000, 'jobs': 60_000}  # more than is sent meanwhile
LIMIT = 3.0
URGENT = 'urgent-'

WAKE_UPS = {'enqueue': 'enqueue_job', 'notify': 'NOTIFY and the sweep'}
NEWSLETTERS = {'bulk': 'rows and one wake-up', 'jobs': 'one job per e-mail'}


class Priority(Measure):
    """Urgent mail, one at a time, by both wake-ups in turns.

    First alone, then while low priority mail drains.
    """

    key = 'priority'
    title = f'Urgent mail while a newsletter drains, relay latency {RELAY_DELAY_MS:g} ms'
    about_s = 700

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Let the two kinds of newsletter take turns; each has the idle worker beside it."""
        rounds = []
        with bench.relay(delay_ms=RELAY_DELAY_MS, watched=True) as relay:
            for number, kind in plan.turns(list(NEWSLETTERS)):
                done = await self._round(bench, relay, kind, f'priority_{number}_{kind}', plan)
                rounds.append(done)
                for wake_up, by in WAKE_UPS.items():
                    idle, busy = done['idle_ms'][wake_up], done['busy_ms'][wake_up]
                    told = ' '.join(
                        f'{percentile(v, p):6.1f}' for v in (idle, busy) for p in (50, 99)
                    )
                    name = f'{by}, {NEWSLETTERS[kind]}'
                    print(f'priority {number + 1}/{plan.rounds}  {name:45} {told} ms', flush=True)
        return {'rounds': rounds}

    async def _round(self, bench: Bench, relay: Relay, kind: str, name: str, plan: Plan) -> Data:
        contender = CONTENDERS[kind]
        count = 2 * plan.count(SAMPLES, 5)
        order = Order(contender, relay, plan.count(NEWSLETTER[kind], 2000), name)
        async with bench.site(order) as site, bench.workers(order, site), _sender(site) as send:
            await site.outbox.execute(
                'ALTER TABLE outbound_emails ALTER COLUMN priority SET DEFAULT 2'
            )
            await sample(relay, send, WARM_UP)
            await asyncio.sleep(SETTLE_S)
            idle_ms = await sample(relay, send, count, watch=URGENT, pause_s=PAUSE_S)
            await site.outbox.insert_many(order.emails)
            rows = await site.outbox.conn.fetch('SELECT id FROM outbound_emails WHERE priority = 2')
            await contender.hold(site, [row['id'] for row in rows])
            await site.outbox.commit()
            await contender.release(site)
            await relay.settled_count(await asyncio.to_thread(relay.count) + order.emails // 20)
            before, began = await asyncio.to_thread(relay.count), time.monotonic()
            busy_ms = await sample(relay, send, count, watch=URGENT, pause_s=PAUSE_S)
            emails_per_s = (await asyncio.to_thread(relay.count) - before) / (
                time.monotonic() - began
            )
            if plan.scale == 1 and not await site.outbox.open_count():
                raise RunFailed('the newsletter was over before the urgent e-mails were')
        return {
            'newsletter': kind,
            'idle_ms': idle_ms,
            'busy_ms': busy_ms,
            'emails_per_s': emails_per_s,
        }

    def bars(self, data: Data) -> list[Bar]:
        """Compare the 99th percentiles within each round."""
        bars = []
        for kind, newsletter in NEWSLETTERS.items():
            for wake_up, by in WAKE_UPS.items():
                ratios = [
                    percentile(r['busy_ms'][wake_up], 99) / percentile(r['idle_ms'][wake_up], 99)
                    for r in data['rounds']
                    if r['newsletter'] == kind
                ]
                text = (
                    f'urgent mail by {by} while a newsletter drains ({newsletter}), p99 over idle'
                )
                met = statistics.median(ratios) <= LIMIT
                bars.append(Bar(text, f'{LIMIT:g} x', f'{spread(ratios)} x', met))
        return bars

    def details(self, data: Data) -> list[str]:
        """Return the percentiles, and how fast the newsletter went meanwhile."""
        rows = []
        for kind, newsletter in NEWSLETTERS.items():
            rounds = [r for r in data['rounds'] if r['newsletter'] == kind]
            rate = spread([r['emails_per_s'] for r in rounds], ',.0f')
            for wake_up, by in WAKE_UPS.items():
                times = [
                    spread([percentile(r[load][wake_up], percent) for r in rounds])
                    for load in ('idle_ms', 'busy_ms')
                    for percent in (50, 99)
                ]
                rows.append((by, newsletter, *times, rate))
        headings = (
            'urgent e-mail by',
            'newsletter',
            'idle p50 ms',
            'idle p99 ms',
            'p50 ms',
            'p99 ms',
            'newsletter/s',
        )
        return table(headings, rows)


@contextlib.asynccontextmanager
async def _sender(site: Site) -> AsyncIterator[Send]:
    """Queue urgent e-mails, by both wake-ups in turns."""
    producer = await create_pool(redis_settings(site.stack.env['ARQ_REDIS_URL']))
    conn = site.outbox.conn

    async def send(number: int) -> dict[str, int]:
        by_notify = bool(number % 2)
        transaction = conn.transaction()
        await transaction.start()
        email_id = await queue_email(
            conn,
            recipient=f'{URGENT}{number}@example.org',
            subject='Your code',
            body_text=f'Hello,\n\nyour code is {number:06d}.\n',
            priority='high',
            notify=by_notify,
        )
        began_ns = time.monotonic_ns()
        await transaction.commit()
        if by_notify:
            return {'notify': began_ns}
        began_ns = time.monotonic_ns()
        await producer.enqueue_job('send_email', email_id)
        return {'enqueue': began_ns}

    try:
        yield send
    finally:
        await producer.aclose()
