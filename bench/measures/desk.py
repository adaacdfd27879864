"""The desk with many pages open, beside bulk mail: what it takes, and what it costs the worker."""

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import psutil

from actions.tokens import ApiScope, create_token
from bench.contender import ROOT
from bench.contenders import CONTENDERS
from bench.http_load import load
from bench.measures.measure import Bar, Data, Measure, Plan, percentile, spread, table
from bench.outbox import Outbox
from bench.rounds import Bench, Order, stop
from db.audit import Actor
from dev.ports import free_port
from dev.processes import Command, spawn
from reporting.servers import ServerAddresses, Servers

EMAILS, WARM_UP, DEADLINE_S = 40_000, 500, 600.0
PAGES, PER_S, LEAST_S = 200, 50.0, 10.0
CORES, SLOWER = 0.5, 1.05
PATHS = ('/', '/mail', '/mail?status=dead', '/workers', '/mail?q=nobody@example.com')


class DeskLoad(Measure):
    """Bulk mail with the desk and without, in turns."""

    key = 'desk'
    title = f'{PAGES} pages of the desk open, {PER_S:.0f} requests/s, beside bulk mail'
    about_s = 180

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Return what each process took, by round."""
        found: Data = {'with': [], 'without': []}
        for number, name in plan.turns(['with', 'without']):
            one = await _one(bench, plan, f'desk_{number}_{name}', has_desk=name == 'with')
            found[name].append(one)
            print(f'desk {number + 1}/{plan.rounds}  {name:8} {one}', flush=True)
        return found

    def bars(self, data: Data) -> list[Bar]:
        """Judge the server's share of a core, and the worker's time for an e-mail."""
        web = [one['web_cores'] for one in data['with']]
        cost = [
            a['worker_us'] / b['worker_us']
            for a, b in zip(data['with'], data['without'], strict=True)
        ]
        what = f'{PAGES} pages open, {PER_S:.0f} requests/s: '
        return [
            Bar(f'{what}cores of the web server', f'under {CORES}', spread(web, '.2f'),
                statistics.median(web) < CORES),
            Bar(f'{what}worker CPU for an e-mail, to that without', f'under {SLOWER}',
                spread(cost, '.2f'), statistics.median(cost) < SLOWER),
        ]  # fmt: skip

    def details(self, data: Data) -> list[str]:
        """Return each side."""
        return table(
            ('', 'e-mails/s', 'worker CPU, us an e-mail', 'request p50, p99, ms', 'events a page'),
            [
                (
                    name,
                    spread([one['per_s'] for one in runs], ',.0f'),
                    spread([one['worker_us'] for one in runs], '.0f'),
                    f'{spread([one["p50_ms"] for one in runs])}, '
                    f'{spread([one["p99_ms"] for one in runs])}' if name == 'with' else '',
                    spread([one['events'] for one in runs]) if name == 'with' else '',
                )
                for name, runs in data.items()
            ],
        )  # fmt: skip


async def _one(bench: Bench, plan: Plan, name: str, *, has_desk: bool) -> Data:
    contender = CONTENDERS['bulk_for_all']
    with bench.relay() as relay:
        order = Order(contender, relay, plan.count(EMAILS, 200), name)
        async with bench.site(order) as site, bench.workers(order, site) as workers:
            outbox = site.outbox
            await outbox.insert(WARM_UP)
            await outbox.commit()
            await contender.release(site)
            await outbox.wait_until_sent(workers, lambda: True, DEADLINE_S)
            async with contextlib.AsyncExitStack() as stack:
                people = await stack.enter_async_context(_people(bench, outbox, has_desk=has_desk))
                await outbox.insert_many(order.emails)
                emails = await outbox.open_count()
                worker = psutil.Process(workers[0].pid)
                before_s, began_at = _cpu_s(worker), time.perf_counter()
                loading = asyncio.create_task(people(plan.count(LEAST_S)))
                await outbox.commit()
                await contender.release(site)
                await outbox.wait_until_sent(workers, lambda: True, DEADLINE_S)
                took_s, cpu_s = time.perf_counter() - began_at, _cpu_s(worker) - before_s
                told = await loading
    return {'per_s': emails / took_s, 'worker_us': cpu_s / emails * 1e6, **told}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def _people(bench: Bench, outbox: Outbox, *, has_desk: bool) -> AsyncIterator[Any]:
    """Yield what looks for so many seconds; it returns what that took."""

    async def nobody(_: float) -> Data:
        return {}

    if not has_desk:
        yield nobody
        return
    port = free_port()
    environment = {
        **os.environ, **bench.stack.env, 'DATABASE_URL': outbox.dsn, 'WEB_PORT': str(port),
    }  # fmt: skip
    argv = [sys.executable, '-m', 'web']
    command = Command(argv, cwd=ROOT, environment=environment)
    process = spawn(command, bench.directory / f'desk-{port}.log', bench.watchdog)
    try:
        cookie = await _log_in(bench, outbox, port)
        head = f'Host: 127.0.0.1\r\nCookie: {cookie}\r\nAccept: text/html\r\n\r\n'
        events = [0] * PAGES
        streams = [asyncio.create_task(_stream(port, head, events, n)) for n in range(PAGES)]
        server = psutil.Process(process.pid)

        async def look(seconds: float) -> Data:
            before_s, began_at, seen = _cpu_s(server), time.perf_counter(), sum(events)
            taken = await load(
                port,
                lambda n: f'GET {PATHS[n % len(PATHS)]} HTTP/1.1\r\n{head}'.encode(),
                max(10, int(seconds * PER_S)), connections=20, per_s=PER_S,
            )  # fmt: skip
            cores = (_cpu_s(server) - before_s) / (time.perf_counter() - began_at)
            p50, p99 = (percentile(taken.latencies_ms, percent) for percent in (50, 99))
            new = (sum(events) - seen) / PAGES
            return {'web_cores': cores, 'p50_ms': p50, 'p99_ms': p99, 'events': new}

        yield look
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    finally:
        await asyncio.to_thread(stop, [process], bench.watchdog)


async def _log_in(bench: Bench, outbox: Outbox, port: int) -> str:
    servers = Servers(ServerAddresses(outbox.dsn, bench.stack.env['ARQ_REDIS_URL']))
    by = Actor('bench', 'here')
    created = await create_token(servers, f'desk-{time.time_ns()}', [ApiScope.READ], by=by)
    await servers.close()
    transport = httpx.AsyncHTTPTransport(retries=30)
    base = f'http://127.0.0.1:{port}'
    async with httpx.AsyncClient(base_url=base, transport=transport, timeout=30) as client:
        page = await client.get('/login')
        key = page.text.partition('name="form_key" value="')[2].partition('"')[0]
        answer = await client.post('/login', data={'form_key': key, 'token': created.token})
    held = SimpleCookie(answer.headers['set-cookie'])['desk']
    return f'desk={held.value}'


async def _stream(port: int, head: str, events: list[int], number: int) -> None:
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        writer.write(f'GET /live HTTP/1.1\r\n{head}'.encode())
        while line := await reader.readline():
            events[number] += line.startswith(b'data: <div data-live="first"')
    finally:
        writer.close()
