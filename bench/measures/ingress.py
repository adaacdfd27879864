"""How many e-mails clients can submit by SMTP: to one process of the ingress, and to others."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.contender import ROOT
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
from bench.outbox import Outbox, RunFailed, fresh_outbox
from bench.postfix import find_postfix, running_postfix
from bench.rounds import Bench, stop
from bench.smtp_load import SENDER, SmtpLoad, connected, message, submit_all
from bench.usage import Usage
from dev.ports import free_port
from dev.processes import Command, last_lines, spawn

CLIENTS = 20
START_DEADLINE_S = 30.0
KEPT_PER_S, EACH_PER_S, P99_MS = 1000, 600, 50.0

Count = Callable[[], Awaitable[int]]


class Server(StrEnum):
    """Who takes the messages."""

    INGRESS = 'the SMTP ingress'
    BARE = 'aiosmtpd that keeps nothing'
    POSTFIX = "Postfix, Debian's"


@dataclass(frozen=True)
class SmtpWay:
    """One way to submit.

    Attributes:
        is_kept: Each client keeps its connection; else there is one for each message.
        per_s: The pace; None: as fast as answers come.
    """

    server: Server
    messages: int
    is_kept: bool
    per_s: float | None = None

    @property
    def title(self) -> str:
        """What it is."""
        pace = '' if self.per_s is None else f' at {self.per_s:.0f}/s'
        return f'{self.server}{pace}, {"kept connections" if self.is_kept else "one each"}'


WAYS = {
    'bare_kept': SmtpWay(Server.BARE, 3000, is_kept=True),
    'postfix_kept': SmtpWay(Server.POSTFIX, 1500, is_kept=True),
    'kept': SmtpWay(Server.INGRESS, 4000, is_kept=True),
    'bare_each': SmtpWay(Server.BARE, 1500, is_kept=False),
    'postfix_each': SmtpWay(Server.POSTFIX, 1500, is_kept=False),
    'each': SmtpWay(Server.INGRESS, 2000, is_kept=False),
    'kept_half': SmtpWay(Server.INGRESS, 1500, is_kept=True, per_s=KEPT_PER_S / 2),
    'each_half': SmtpWay(Server.INGRESS, 900, is_kept=False, per_s=EACH_PER_S / 2),
}


class Ingress(Measure):
    """Clients that submit, to one server after the other, in turns; no worker runs."""

    key = 'ingress'
    title = 'Queueing by SMTP, one process'
    about_s = 150

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Return messages a second, latencies and CPU seconds, by way and round."""
        data: Data = {'rates': {}, 'p99_ms': {}, 'cpu_s_per_1000': {}}
        has_postfix = find_postfix() is not None
        ways = [
            name for name, way in WAYS.items() if has_postfix or way.server is not Server.POSTFIX
        ]
        for number, name in plan.turns(ways):
            way = WAYS[name]
            messages = plan.count(way.messages, CLIENTS)
            async with fresh_outbox(bench.stack.postgres, f'bench_smtp_{number}_{name}') as outbox:
                load, cpu_s = await _submitted(bench, outbox, way, messages)
            rate, p99 = messages / load.wall_s, percentile(load.latencies_ms, 99)
            data['rates'].setdefault(name, []).append(rate)
            data['p99_ms'].setdefault(name, []).append(p99)
            for role, seconds in cpu_s.items():
                by_role = data['cpu_s_per_1000'].setdefault(name, {})
                by_role.setdefault(role, []).append(seconds / messages * 1000)
            used = ', '.join(f'{role} {s / messages * 1000:.2f}' for role, s in cpu_s.items())
            print(
                f'ingress {number + 1}/{plan.rounds}  {way.title:50} {rate:8.0f}/s {p99:6.1f} ms'
                f'   CPU s per 1,000: {used}',
                flush=True,
            )
        return data

    def bars(self, data: Data) -> list[Bar]:
        """Judge the speed, and the latency at half of what is wanted."""
        found = []
        for name, wanted in (('kept', KEPT_PER_S), ('each', EACH_PER_S)):
            rates, p99s = data['rates'][name], data['p99_ms'][f'{name}_half']
            titles = (WAYS[name].title, WAYS[f'{name}_half'].title)
            found += rate_and_p99_bars(rates, p99s, titles, (wanted, P99_MS))
        return found

    def details(self, data: Data) -> list[str]:
        """Return all ways."""
        roles = ('server', 'postgres', 'clients')
        return table(
            ('what', 'messages/s', 'p99 of a message, ms', *(f'{r} CPU s/1,000' for r in roles)),
            [
                (WAYS[name].title, spread(rates, ',.0f'), spread(data['p99_ms'][name]),
                 *(spread(data['cpu_s_per_1000'][name][role], '.2f') for role in roles))
                for name, rates in data['rates'].items()
            ],
        )  # fmt: skip


async def _submitted(
    bench: Bench, outbox: Outbox, way: SmtpWay, messages: int
) -> tuple[SmtpLoad, dict[str, float]]:
    """Submit messages, and see that they were kept."""
    warm, measured = map(message, range(CLIENTS)), [message(n) for n in range(messages)]
    async with _server(bench, outbox, way.server) as (port, pid, count):
        await submit_all(port, [*warm], CLIENTS, is_kept=way.is_kept)
        usage = Usage({'server': [pid], 'postgres': [bench.stack.postgres.pid]})
        clients_s = time.process_time()
        load = await submit_all(port, measured, CLIENTS, is_kept=way.is_kept, per_s=way.per_s)
        cpu_s, _ = usage.taken()
        cpu_s['clients'] = time.process_time() - clients_s
        if count is not None and (kept := await count()) != messages + CLIENTS:
            raise RunFailed(f'{way.title}: {kept} of {messages + CLIENTS} were kept')
    return load, cpu_s


@contextlib.asynccontextmanager
async def _server(
    bench: Bench, outbox: Outbox, server: Server
) -> AsyncIterator[tuple[int, int, Count | None]]:
    """Start a server; yields its port, its process, and what tells how many messages it keeps."""
    if server is Server.POSTFIX:
        with running_postfix(bench.directory, bench.watchdog) as postfix:

            async def held() -> int:
                return postfix.kept()

            await _greeted(postfix.port)
            yield postfix.port, postfix.pid, held
        return
    port = free_port()
    environment = {**os.environ, **bench.stack.env, 'DATABASE_URL': outbox.dsn}
    environment |= {'INGRESS_PORT': str(port), 'SMTP_FROM_EMAIL': SENDER}
    words = ['bench.bare_smtp', str(port)] if server is Server.BARE else ['ingress']
    argv = [sys.executable, '-m', *words]
    log_path = bench.directory / f'ingress-{port}.log'
    process = spawn(Command(argv, cwd=ROOT, environment=environment), log_path, bench.watchdog)

    async def stored() -> int:
        return int(await outbox.conn.fetchval('SELECT count(*) FROM outbound_emails'))

    try:
        await _greeted(port)
        yield port, process.pid, None if server is Server.BARE else stored
    except (RunFailed, TimeoutError) as error:
        raise RunFailed(f'{error}\n{last_lines(log_path.read_text())}') from error
    finally:
        await asyncio.to_thread(stop, [process], bench.watchdog)


async def _greeted(port: int) -> None:
    async with asyncio.timeout(START_DEADLINE_S):
        while True:
            try:
                (await connected(port)).hang_up()
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return
