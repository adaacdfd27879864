"""How many e-mails clients can queue over HTTP, through one process of the web server."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from actions.tokens import ApiScope, create_token
from bench.contender import ROOT
from bench.http_load import Load, load
from bench.measures.measure import (
    Bar,
    Data,
    Measure,
    Plan,
    percentile,
    rate_and_p99_bars,
    spread,
    table,
)
from bench.outbox import Outbox, RunFailed, email, fresh_outbox
from bench.rounds import Bench, stop
from db.audit import Actor
from dev.ports import free_port
from dev.processes import Command, last_lines, spawn
from reporting.servers import ServerAddresses, Servers

BATCH = 100
DIFFERENT = 200  # bodies
START_DEADLINE_S = 30.0
SENDER = 'noreply@example.com'


@dataclass(frozen=True)
class Way:
    """One way to ask.

    Attributes:
        requests: How many are measured.
        per_s: The pace, in requests; None: as fast as answers come.
    """

    title: str
    requests: int
    connections: int
    is_batch: bool = False
    is_bare: bool = False
    per_s: float | None = None

    @property
    def emails(self) -> int:
        """E-mails in one request."""
        return BATCH if self.is_batch else 1


SINGLE_PER_S, BATCHED_PER_S, P99_MS = 1000, 8000, 50.0
WAYS = {
    'bare': Way('bare FastAPI and asyncpg: an INSERT each', 6000, 40, is_bare=True),
    'single': Way('POST /emails', 10_000, 40),
    'batch': Way('POST /emails/batch, 100 each', 400, 8, is_batch=True),
    'single_half': Way(f'POST /emails at {SINGLE_PER_S // 2}/s', 2500, 100, per_s=SINGLE_PER_S / 2),
    'batch_half': Way(
        f'POST /emails/batch at {BATCHED_PER_S // 2} e-mails/s', 200, 40, is_batch=True,
        per_s=BATCHED_PER_S / 2 / BATCH,
    ),
}  # fmt: skip


class Api(Measure):
    """Clients that send, beside a bare endpoint, in turns; no worker runs.

    With a token, every check, an Idempotency-Key each, and a commit before the answer.
    """

    key = 'api'
    title = 'Queueing over HTTP, one process'
    about_s = 150

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Return e-mails a second and latencies, by way and round."""
        rates: dict[str, list[float]] = {}
        p99s: dict[str, list[float]] = {}
        for number, name in plan.turns(list(WAYS)):
            way = WAYS[name]
            requests = plan.count(way.requests, 20)
            async with fresh_outbox(bench.stack.postgres, f'bench_api_{number}_{name}') as outbox:
                taken = await _taken(bench, outbox, way, requests)
                await _check(outbox, requests * way.emails)
            rate = requests * way.emails / taken.wall_s
            p50, p99 = (percentile(taken.latencies_ms, percent) for percent in (50, 99))
            rates.setdefault(name, []).append(rate)
            p99s.setdefault(name, []).append(p99)
            print(
                f'api {number + 1}/{plan.rounds}  {way.title:45} {rate:8.0f} e-mails/s '
                f'{p50:6.1f} {p99:6.1f} ms',
                flush=True,
            )
        return {'rates': rates, 'p99_ms': p99s}

    def bars(self, data: Data) -> list[Bar]:
        """Judge the speed, and the latency at half of what is wanted."""
        found = []
        for name, wanted in (('single', SINGLE_PER_S), ('batch', BATCHED_PER_S)):
            rates, p99s = data['rates'][name], data['p99_ms'][f'{name}_half']
            titles = (WAYS[name].title, WAYS[f'{name}_half'].title)
            found += rate_and_p99_bars(rates, p99s, titles, (wanted, P99_MS))
        return found

    def details(self, data: Data) -> list[str]:
        """Return all ways."""
        return table(
            ('what', 'e-mails/s', 'p99 of a request, ms'),
            [
                (WAYS[name].title, spread(rates, ',.0f'), spread(data['p99_ms'][name]))
                for name, rates in data['rates'].items()
            ],
        )


async def _taken(bench: Bench, outbox: Outbox, way: Way, requests: int) -> Load:
    async with _server(bench, outbox, way) as (port, token):
        request_of = _requests(way, token, 'measured')
        await load(port, _requests(way, token, 'warm'), max(20, requests // 20), connections=10)
        return await load(port, request_of, requests, connections=way.connections, per_s=way.per_s)


@contextlib.asynccontextmanager
async def _server(bench: Bench, outbox: Outbox, way: Way) -> AsyncIterator[tuple[int, str]]:
    port = free_port()
    token = ''
    environment = {**os.environ, **bench.stack.env, 'DATABASE_URL': outbox.dsn}
    argv = [sys.executable, '-m', 'bench.bare_api', outbox.dsn, str(port)]
    if not way.is_bare:
        token = await _token(bench, outbox)
        argv = [sys.executable, '-m', 'web']
        environment |= {'WEB_PORT': str(port), 'SMTP_FROM_EMAIL': SENDER}
    log_path = bench.directory / f'api-{port}.log'
    process = spawn(Command(argv, cwd=ROOT, environment=environment), log_path, bench.watchdog)
    try:
        await _wait_for(port)
        yield port, token
    except RunFailed as error:
        raise RunFailed(f'{error}\n{last_lines(log_path.read_text())}') from error
    finally:
        await asyncio.to_thread(stop, [process], bench.watchdog)


async def _token(bench: Bench, outbox: Outbox) -> str:
    servers = Servers(ServerAddresses(outbox.dsn, bench.stack.env['ARQ_REDIS_URL']))
    try:
        created = await create_token(servers, 'bench', [ApiScope.SEND], by=Actor('bench', 'here'))
    finally:
        await servers.close()
    return created.token


async def _wait_for(port: int) -> None:
    async with asyncio.timeout(START_DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection('127.0.0.1', port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _requests(way: Way, token: str, run: str) -> Callable[[int], bytes]:
    """Return what makes a request: the bodies repeat, the keys do not."""
    bodies = [_body(way, number) for number in range(DIFFERENT)]
    path = '/emails/batch' if way.is_batch else '/emails'
    head = (
        f'POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n'
        f'Authorization: Bearer {token}\r\n'
    )

    def request_of(number: int) -> bytes:
        body = bodies[number % DIFFERENT]
        lines = f'{head}Idempotency-Key: {run}/{number}\r\nContent-Length: {len(body)}\r\n\r\n'
        return lines.encode() + body

    return request_of


def _body(way: Way, number: int) -> bytes:
    emails = []
    for place in range(way.emails):
        recipient, subject, text, html = email(number * way.emails + place)
        emails.append({'to': recipient, 'subject': subject, 'text': text, 'html': html})
        if not way.is_bare:
            emails[-1]['from'] = f'Shop <{SENDER}>'
    return json.dumps(emails if way.is_batch else emails[0]).encode()


COUNT_SQL = 'SELECT count(*) FROM outbound_emails'


async def _check(outbox: Outbox, emails: int) -> None:
    stored = await outbox.conn.fetchval(COUNT_SQL)
    if stored < emails:
        raise RunFailed(f'{stored} e-mails are stored, {emails} were answered')
