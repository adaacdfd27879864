"""How long an idle system takes from the wake-up to the end of DATA at the sink."""

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from arq import create_pool

from bench import environments
from bench.celery_prefork import CeleryPrefork
from bench.contender import ROOT, Site
from bench.contenders import CONTENDERS
from bench.measures.measure import Bar, Data, Measure, Plan, percentile, spread, table
from bench.outbox import RunFailed
from bench.relay import Relay
from bench.rounds import Bench, Order
from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email

SAMPLES = 100
PAUSE_S = (0.03, 0.09)  # between two e-mails: by chance, so that they meet every phase of a poll
ARRIVAL_DEADLINE_S = 20.0
WARM_UP = 20
SETTLE_S = 3.0  # our worker sweeps once, two seconds after its start

TITLES = {
    'enqueue': 'this worker, from enqueue_job',
    'notify': 'this worker, from COMMIT (sent) by NOTIFY',
    'notify_committed': 'this worker, from COMMIT (answered) by NOTIFY',
    'celery': 'Celery -c 4, from apply_async',
}
LIMITS_MS = {'enqueue': (3.0, 8.0), 'notify': (3.0, 6.0)}

Send = Callable[[int], Awaitable[dict[str, int]]]  # number -> when it began, in ns, by kind


class Latency(Measure):
    """One e-mail at a time."""

    key = 'latency'
    title = 'Latency of an idle system'
    about_s = 210

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Let the two kinds of wake-up and Celery take turns."""
        samples_ms: dict[str, list[list[float]]] = {}
        kinds = ['enqueue', 'notify', *(['celery'] if plan.peers else [])]
        with bench.relay(watched=True) as relay:
            for number, kind in plan.turns(kinds):
                taken = await self._round(
                    bench, relay, kind, f'latency_{number}_{kind}', plan.count(SAMPLES, 5)
                )
                for name, values in taken.items():
                    samples_ms.setdefault(name, []).append(values)
                    p50, p99 = percentile(values, 50), percentile(values, 99)
                    print(
                        (
                            f'latency {number + 1}/{plan.rounds}  {TITLES[name]:45} '
                            f'{p50:6.2f} {p99:6.2f} ms'
                        ),
                        flush=True,
                    )
        return {'samples_ms': samples_ms}

    async def _round(
        self, bench: Bench, relay: Relay, kind: str, name: str, count: int
    ) -> dict[str, list[float]]:
        contender = CONTENDERS['celery' if kind == 'celery' else 'jobs']
        order = Order(contender, relay, count, name)
        senders = {'celery': _celery_sender, 'enqueue': _enqueue_sender, 'notify': _notify_sender}
        async with (
            bench.site(order) as site,
            bench.workers(order, site),
            senders[kind](site) as send,
        ):
            await sample(relay, send, WARM_UP)
            await asyncio.sleep(SETTLE_S)
            return await sample(relay, send, count)

    def bars(self, data: Data) -> list[Bar]:
        """Judge the medians of the rounds' percentiles."""
        by_kind = _percentiles(data)
        bars = []
        for kind, (limit50, limit99) in LIMITS_MS.items():
            p50s, p99s = by_kind[kind]
            met = statistics.median(p50s) <= limit50 and statistics.median(p99s) <= limit99
            measured = f'{spread(p50s, ".1f")} / {spread(p99s, ".1f")} ms'
            limit = f'{limit50:g} / {limit99:g} ms'
            bars.append(
                Bar(
                    f'idle latency to the end of DATA, p50 / p99: {TITLES[kind]}',
                    limit,
                    measured,
                    met,
                )
            )
        return [*bars, *(_below_celery(by_kind, kind) for kind in LIMITS_MS)]

    def details(self, data: Data) -> list[str]:
        """Return the percentiles."""
        by_kind = _percentiles(data)
        rows = [
            (TITLES[k], spread(p50s, '.2f'), spread(p99s, '.2f'))
            for k, (p50s, p99s) in by_kind.items()
        ]
        return table(('what', 'p50 ms', 'p99 ms'), rows)


def _percentiles(data: Data) -> dict[str, tuple[list[float], list[float]]]:
    return {
        kind: (
            [percentile(values, 50) for values in rounds],
            [percentile(values, 99) for values in rounds],
        )
        for kind, rounds in data['samples_ms'].items()
    }


def _below_celery(by_kind: dict[str, tuple[list[float], list[float]]], kind: str) -> Bar:
    text = f'the same against Celery in the same run, p50; p99: {TITLES[kind]}'
    if 'celery' not in by_kind:
        return Bar(text, 'lower', 'not measured', None)
    ratios = [
        [ours / theirs for ours, theirs in zip(by_kind[kind][i], by_kind['celery'][i], strict=True)]
        for i in (0, 1)
    ]
    met = all(statistics.median(values) < 1 for values in ratios)
    return Bar(text, 'lower', '; '.join(f'{spread(values, ".2f")} of it' for values in ratios), met)


async def sample(
    relay: Relay, send: Send, count: int, *, watch: str = '', pause_s: tuple[float, float] = PAUSE_S
) -> dict[str, list[float]]:
    """Send one after the other; return the milliseconds by what they are counted from.

    Args:
        watch: What the recipients hold, where others' mail comes at the same time.
    """
    reader, writer = await asyncio.open_connection('127.0.0.1', relay.port)
    try:
        await reader.readline()
        writer.write(f'XWATCH {watch}\r\n'.upper().encode())
        await reader.readline()
        samples_ms: dict[str, list[float]] = {}
        for number in range(count):
            began_ns = await send(number)
            try:
                line = await asyncio.wait_for(reader.readline(), ARRIVAL_DEADLINE_S)
            except TimeoutError:
                raise RunFailed(
                    f'an e-mail did not come within {ARRIVAL_DEADLINE_S:.0f} s'
                ) from None
            arrived_ns = int(line.split()[1])
            for name, at_ns in began_ns.items():
                samples_ms.setdefault(name, []).append((arrived_ns - at_ns) / 1e6)
            await asyncio.sleep(random.uniform(*pause_s))
        return samples_ms
    finally:
        writer.close()


async def _queue(site: Site, number: int) -> int:
    text = f'Hello,\n\nyour code is {number:06d}.\n'
    recipient = f'customer-{number}@example.org'
    return await queue_email(
        site.outbox.conn, recipient=recipient, subject='Your code', body_text=text
    )


@contextlib.asynccontextmanager
async def _enqueue_sender(site: Site) -> AsyncIterator[Send]:
    producer = await create_pool(redis_settings(site.stack.env['ARQ_REDIS_URL']))

    async def send(number: int) -> dict[str, int]:
        email_id = await _queue(site, number)
        began_ns = time.monotonic_ns()
        await producer.enqueue_job('send_email', email_id)
        return {'enqueue': began_ns}

    try:
        yield send
    finally:
        await producer.aclose()


@contextlib.asynccontextmanager
async def _notify_sender(site: Site) -> AsyncIterator[Send]:
    conn = site.outbox.conn

    async def send(number: int) -> dict[str, int]:
        transaction = conn.transaction()
        await transaction.start()
        text = f'Hello,\n\nyour code is {number:06d}.\n'
        await queue_email(
            conn, recipient='anna@example.org', subject='Your code', body_text=text, notify=True
        )
        began_ns = time.monotonic_ns()
        await transaction.commit()
        return {'notify': began_ns, 'notify_committed': time.monotonic_ns()}

    yield send


@contextlib.asynccontextmanager
async def _celery_sender(site: Site) -> AsyncIterator[Send]:
    program = await asyncio.create_subprocess_exec(
        *(
            environments.PEERS.program('python'),
            '-m',
            'bench.celery_app.enqueue',
            'celery',
            '--paced',
        ),
        cwd=ROOT,
        env=os.environ | CeleryPrefork().environment(site),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    stdin, stdout = program.stdin, program.stdout
    if stdin is None or stdout is None or await stdout.readline() != b'ready\n':
        raise RunFailed("Celery's producer did not start")

    async def send(number: int) -> dict[str, int]:
        stdin.write(b'%d\n' % await _queue(site, number))
        return {'celery': int(await stdout.readline())}

    try:
        yield send
    finally:
        stdin.close()
        await program.wait()
