"""How many e-mails clients can submit by SMTP, through one process of the ingress."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

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
from bench.rounds import Bench, stop
from dev.ports import free_port
from dev.processes import Command, last_lines, spawn

CLIENTS = 20
START_DEADLINE_S = 30.0
SENDER = 'noreply@example.com'
BODY = 'What you ordered is on its way.\r\n' * 30
KEPT_PER_S, EACH_PER_S, P99_MS = 1000, 600, 50.0


@dataclass(frozen=True)
class SmtpWay:
    """One way to submit.

    Attributes:
        is_kept: Each client keeps its connection; else there is one for each message.
        is_bare: aiosmtpd that keeps nothing, instead of the ingress.
        per_s: The pace; None: as fast as answers come.
    """

    title: str
    messages: int
    is_kept: bool
    is_bare: bool = False
    per_s: float | None = None


WAYS = {
    'bare_kept': SmtpWay('aiosmtpd that keeps nothing, kept connections', 6000, True, True),
    'kept': SmtpWay('the ingress, kept connections', 6000, True),
    'bare_each': SmtpWay('aiosmtpd that keeps nothing, one connection each', 3000, False, True),
    'each': SmtpWay('the ingress, one connection each', 3000, False),
    'kept_half': SmtpWay(
        f'the ingress at {KEPT_PER_S // 2}/s, kept connections', 2500, True, per_s=KEPT_PER_S / 2
    ),
    'each_half': SmtpWay(
        f'the ingress at {EACH_PER_S // 2}/s, one connection each', 1500, False,
        per_s=EACH_PER_S / 2,
    ),
}  # fmt: skip


class Ingress(Measure):
    """Clients that submit, beside a server that keeps nothing, in turns; no worker runs."""

    key = 'ingress'
    title = 'Queueing by SMTP, one process'
    about_s = 150

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Return messages a second and latencies, by way and round."""
        rates: dict[str, list[float]] = {}
        p99s: dict[str, list[float]] = {}
        for number, name in plan.turns(list(WAYS)):
            way = WAYS[name]
            messages = plan.count(way.messages, CLIENTS)
            async with fresh_outbox(bench.stack.postgres, f'bench_smtp_{number}_{name}') as outbox:
                took_s, latencies_ms = await _submitted(bench, outbox, way, messages)
                stored = await outbox.conn.fetchval('SELECT count(*) FROM outbound_emails')
                if stored != (0 if way.is_bare else messages + CLIENTS):
                    raise RunFailed(f'{way.title}: {stored} of {messages} are in the outbox')
            rate, p99 = messages / took_s, percentile(latencies_ms, 99)
            rates.setdefault(name, []).append(rate)
            p99s.setdefault(name, []).append(p99)
            print(
                f'ingress {number + 1}/{plan.rounds}  {way.title:50} {rate:8.0f}/s {p99:6.1f} ms',
                flush=True,
            )
        return {'rates': rates, 'p99_ms': p99s}

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
        return table(
            ('what', 'messages/s', 'p99 of a message, ms'),
            [
                (WAYS[name].title, spread(rates, ',.0f'), spread(data['p99_ms'][name]))
                for name, rates in data['rates'].items()
            ],
        )


async def _submitted(
    bench: Bench, outbox: Outbox, way: SmtpWay, messages: int
) -> tuple[float, list[float]]:
    async with _server(bench, outbox, way) as port:
        await _load(port, SmtpWay('warm', CLIENTS, way.is_kept), CLIENTS)
        return await _load(port, way, messages)


@contextlib.asynccontextmanager
async def _server(bench: Bench, outbox: Outbox, way: SmtpWay) -> AsyncIterator[int]:
    port = free_port()
    environment = {**os.environ, **bench.stack.env, 'DATABASE_URL': outbox.dsn}
    environment |= {'INGRESS_PORT': str(port), 'SMTP_FROM_EMAIL': SENDER}
    words = ['bench.bare_smtp', str(port)] if way.is_bare else ['ingress']
    argv = [sys.executable, '-m', *words]
    log_path = bench.directory / f'ingress-{port}.log'
    process = spawn(Command(argv, cwd=ROOT, environment=environment), log_path, bench.watchdog)
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            await _wait_for(port)
        yield port
    except (RunFailed, TimeoutError) as error:
        raise RunFailed(f'{error}\n{last_lines(log_path.read_text())}') from error
    finally:
        await asyncio.to_thread(stop, [process], bench.watchdog)


async def _wait_for(port: int) -> None:
    while True:
        try:
            await (await _Client.connected(port)).quit()
        except OSError:
            await asyncio.sleep(0.05)
        else:
            return


async def _load(port: int, way: SmtpWay, messages: int) -> tuple[float, list[float]]:
    """Submit so many. Returns how long it took, and how long each waited from its turn."""
    latencies_ms: list[float] = []
    numbers = iter(range(messages))
    started_at = time.perf_counter()

    async def submit() -> None:
        client = await _Client.connected(port) if way.is_kept else None
        for number in numbers:  # shared: each takes the next
            turn_at = time.perf_counter()
            if way.per_s is not None:
                turn_at = started_at + number / way.per_s
                await asyncio.sleep(max(0.0, turn_at - time.perf_counter()))
            own = client or await _Client.connected(port)
            await own.send(number)
            latencies_ms.append((time.perf_counter() - turn_at) * 1000)
            if client is None:
                await own.quit()
        if client is not None:
            await client.quit()

    await asyncio.gather(*(submit() for _ in range(CLIENTS)))
    return time.perf_counter() - started_at, latencies_ms


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connected(cls, port: int) -> '_Client':
        client = cls(*await asyncio.open_connection('127.0.0.1', port))
        await client._says(b'', b'220')
        await client._says(b'EHLO bench.example\r\n', b'250')
        return client

    async def send(self, number: int) -> None:
        await self._says(f'MAIL FROM:<{SENDER}>\r\n'.encode(), b'250')
        await self._says(b'RCPT TO:<anna@example.com>\r\n', b'250')
        await self._says(b'DATA\r\n', b'354')
        head = (
            f'From: Shop <{SENDER}>\r\nTo: anna@example.com\r\nSubject: Receipt {number}\r\n'
            f'Date: Mon, 30 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@bench.example>\r\n\r\n'
        )
        await self._says(f'{head}{BODY}.\r\n'.encode(), b'250')

    async def quit(self) -> None:
        await self._says(b'QUIT\r\n', b'221')
        self._writer.close()

    async def _says(self, said: bytes, code: bytes) -> None:
        self._writer.write(said)
        while True:
            line = await self._reader.readline()
            if line[3:4] != b'-':
                break
        if not line.startswith(code):
            raise RunFailed(f'{said[:60]!r} was answered by {line!r}')
