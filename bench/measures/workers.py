"""Several workers on one outbox, behind a relay whose latency, not the cores, is the limit."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import CONTENDERS, DEFAULT_CONNECTIONS
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.relay import RelayKind, running_relay, smtp_source_rate
from bench.rounds import Bench, Order, Run

WINDOW_S = 2.5  # how long a run should take
MOST_PER_S = 6000.0
EMAILS = (300, 20_000)  # at least and at most
LIMIT_MESSAGES = 20_000
LIMIT_SESSIONS = 500
MESSAGE_BYTES = 2_300


@dataclass(frozen=True)
class Cell:
    """One arrangement; connections are SMTP connections of each worker."""

    workers: int
    delay_ms: float
    connections: int

    @property
    def emails(self) -> int:
        """Enough for some seconds, if each connection sends one e-mail a round trip."""
        per_s = min(MOST_PER_S, self.workers * self.connections / self.delay_ms * 1000)
        return round(min(EMAILS[1], max(EMAILS[0], per_s * WINDOW_S)))


class Workers(Measure):
    """Arrangements in turns."""

    def __init__(
        self,
        key: str,
        title: str,
        about_s: int,
        rounds: int,
        cells: Sequence[Cell],
        ratios: dict[int, float],
    ) -> None:
        """Say what is compared.

        Args:
            ratios: Workers -> how many times the rate of one they must reach.
        """
        self.key, self.title, self.about_s, self.rounds = key, title, about_s, rounds
        self._cells = cells
        self._ratios = ratios

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Run all arrangements in turns; find out first what each sink can take at all."""
        limits = {
            f'{delay_ms:g}': self._limit(bench, plan, delay_ms)
            for delay_ms in {c.delay_ms for c in self._cells}
        }
        runs = []
        for number, cell in plan.turns(self._cells):
            name = f'{self.key}_{number}_{cell.workers}_{cell.delay_ms:g}'
            with bench.relay(delay_ms=cell.delay_ms) as relay:
                settings = {'SMTP_MAX_CONNECTIONS': str(cell.connections)}
                emails = plan.count(cell.emails, 40)
                done = await bench.run(
                    Order(
                        CONTENDERS['bulk_for_all'],
                        relay,
                        emails,
                        name,
                        cell.workers,
                        settings=settings,
                    )
                )
            told = f'{cell.workers} workers, {cell.delay_ms:3g} ms: {done.emails_per_s:7.0f}/s'
            print(
                (
                    f'{self.key} {number + 1}/{plan.rounds}  {told}, machine '
                    f'{done.machine_busy:.0%} busy'
                ),
                flush=True,
            )
            runs.append(
                {'delay_ms': cell.delay_ms, 'connections': cell.connections, 'run': done.as_json()}
            )
        return {'runs': runs, 'limits': limits, 'cores': os.cpu_count()}

    def _limit(self, bench: Bench, plan: Plan, delay_ms: float) -> float | None:
        with running_relay(bench.directory, bench.watchdog, RelayKind(delay_ms=delay_ms)) as relay:
            messages = plan.count(LIMIT_MESSAGES, 100)
            return smtp_source_rate(
                relay, messages, sessions=LIMIT_SESSIONS, message_bytes=MESSAGE_BYTES
            )

    def bars(self, data: Data) -> list[Bar]:
        """Compare within each round."""
        by_cell = runs_by_cell(data)
        bars = []
        for workers, threshold in self._ratios.items():
            (cell,) = (c for c in self._cells if c.workers == workers)
            (one,) = (c for c in self._cells if c.workers == 1)
            pairs = zip(by_cell[workers, cell.delay_ms], by_cell[1, one.delay_ms], strict=True)
            values = [many.emails_per_s / alone.emails_per_s for many, alone in pairs]
            text = f'{workers} workers against one, relay latency {cell.delay_ms:g} ms, e-mails/s'
            met = statistics.median(values) >= threshold
            bars.append(Bar(text, f'{threshold:g} x', f'{spread(values, ".2f")} x', met))
        return bars

    def details(self, data: Data) -> list[str]:
        """Return the rates, and how busy the machine was."""
        rows = []
        for (workers, delay_ms), runs in sorted(
            runs_by_cell(data).items(), key=lambda item: item[0][::-1]
        ):
            connections = next(
                run['connections'] for run in data['runs'] if run['run']['workers'] == workers
            )
            busy = f'{statistics.median(run.machine_busy for run in runs):.0%}'
            rates, costs = (
                [run.emails_per_s for run in runs],
                [run.cpu_s_per_1000() for run in runs],
            )
            costs_text = spread(costs, '.2f')
            rows.append(
                (
                    f'{delay_ms:g}',
                    f'{workers}',
                    f'{connections}',
                    spread(rates, '.0f'),
                    costs_text,
                    busy,
                )
            )
        headings = (
            'relay latency ms',
            'workers',
            'connections each',
            'e-mails/s',
            'worker CPU s per 1,000',
            'machine busy',
        )
        limits = [f'{rate:,.0f}/s at {delay} ms' for delay, rate in data['limits'].items() if rate]
        told = (
            f'The sink alone, from smtp-source with {LIMIT_SESSIONS} connections: '
            f'{", ".join(limits)}.'
        )
        return [*table(headings, rows), '', *([told] if limits else [])]

    async def profile(self, bench: Bench, plan: Plan, target: Path) -> None:
        """Profile one of the most workers."""
        cell = self._cells[-1]
        with bench.relay(delay_ms=cell.delay_ms) as relay:
            settings = {'SMTP_MAX_CONNECTIONS': str(cell.connections)}
            contender, emails = CONTENDERS['bulk_for_all'], plan.count(cell.emails, 40)
            await bench.run(
                Order(
                    contender,
                    relay,
                    emails,
                    f'{self.key}_profile',
                    cell.workers,
                    settings=settings,
                    profile=target,
                )
            )


def runs_by_cell(data: Data) -> dict[tuple[int, float], list[Run]]:
    """Return the runs by workers and latency."""
    found: dict[tuple[int, float], list[Run]] = {}
    for entry in data['runs']:
        run = Run(**entry['run'])
        found.setdefault((run.workers, entry['delay_ms']), []).append(run)
    return found


# Two connections each: eight workers then ask for 1,600 e-mails a second at most, which two cores
# can do.
WORKERS = Workers(
    'workers',
    'Several workers',
    180,
    5,
    [Cell(1, 10, 2), Cell(2, 10, 2), Cell(8, 10, 2)],
    {2: 1.9, 8: 6},
)
SCALING = Workers(
    'scaling',
    'Workers and relay latency',
    230,
    3,
    [
        Cell(workers, delay_ms, DEFAULT_CONNECTIONS)
        for delay_ms in (1, 10, 100)
        for workers in (1, 2, 4)
    ],
    {},
)
