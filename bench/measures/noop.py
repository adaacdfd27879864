"""Jobs that do nothing: what each queue itself costs, and how fast an idle one wakes."""

import asyncio
import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio

from bench import environments
from bench.contender import ROOT, run_to_end
from bench.measures.measure import Bar, Data, Measure, Plan, percentile, spread, table
from bench.outbox import RunFailed
from bench.peers import tally
from bench.py_spy import profiled
from bench.rounds import Bench, stop
from bench.usage import cpu_s
from dev.processes import Command, last_lines, log_since, spawn
from dev.stack import ARQ_DATABASE

OURS = 'arq_ours'
PROBES = 50
# The clock runs from the first tenth of the jobs to the last twentieth: neither start nor end is
# the queue's own speed.
FROM, TO = 0.1, 0.95
DEADLINE_S = 120.0
LOOK_EVERY_S = 0.004
SETTLE_S = 0.3
LIMITS_MS = (1.5, 2.5)


@dataclass(frozen=True)
class Peer:
    """One queue.

    Attributes:
        key: Its name in the results.
        module: In bench/peers.
        argv: How its worker is started: program and arguments, in its environment's bin.
        jobs: Enough for two seconds.
        ours: Whether it lives in our own environment.
    """

    key: str
    title: str
    module: str
    argv: tuple[str, ...]
    jobs: int
    ours: bool = False

    def program(self, name: str) -> str:
        """Return a program of its environment."""
        return environments.worker_program(name) if self.ours else environments.PEERS.program(name)


PEERS = (
    Peer(
        OURS,
        'this worker',
        'arq_ours',
        ('arq', 'bench.peers.arq_ours.WorkerSettings'),
        12_000,
        ours=True,
    ),
    Peer(
        'arq_stock',
        'arq, max_jobs 100, poll_delay 0.01, uvloop',
        'arq_stock',
        ('arq', 'bench.peers.arq_stock.WorkerSettings'),
        4000,
        ours=True,
    ),
    Peer(
        'saq',
        'SAQ, concurrency 100, uvloop',
        'saq_noop',
        ('saq', 'bench.peers.saq_noop.settings'),
        4000,
    ),
    Peer(
        'streaq',
        'streaq, concurrency 100',
        'streaq_noop',
        ('streaq', 'run', 'bench.peers.streaq_noop:worker'),
        3000,
    ),
    Peer(
        'taskiq',
        'taskiq-redis, list broker, 1 process, 100 tasks',
        'taskiq_noop',
        (
            'taskiq',
            'worker',
            'bench.peers.taskiq_noop:broker',
            '--workers',
            '1',
            '--max-async-tasks',
            '100',
        ),
        4000,
    ),
    Peer(
        'dramatiq',
        'dramatiq, 1 process, 100 threads',
        'dramatiq_noop',
        ('dramatiq', 'bench.peers.dramatiq_noop', '--processes', '1', '--threads', '100'),
        6000,
    ),
    Peer(
        'celery',
        'Celery, -P threads -c 100',
        'celery_noop',
        (
            'celery',
            '-A',
            'bench.peers.celery_noop',
            'worker',
            '-P',
            'threads',
            '-c',
            '100',
            '-l',
            'warning',
        ),
        2000,
    ),
    Peer(
        'celery_prefork',
        'Celery, -P prefork -c 2',
        'celery_noop',
        (
            'celery',
            '-A',
            'bench.peers.celery_noop',
            'worker',
            '-P',
            'prefork',
            '-c',
            '2',
            '-l',
            'warning',
        ),
        2000,
    ),
)


class Noop(Measure):
    """All queues on the same server, one process each."""

    key = 'noop'
    title = 'No-op jobs, one process each, concurrency 100'
    about_s = 370

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Let all queues take turns: drain a full queue, then wake an idle worker."""
        peers = [peer for peer in PEERS if plan.peers or peer.ours]
        runs = []
        for number, peer in plan.turns(peers):
            run = await self._run(bench, peer, plan, f'noop_{number}_{peer.key}')
            told = f'{run["jobs_per_s"]:7.0f}/s {run["cpu_s_per_1000"]:6.2f} s CPU per 1,000'
            idle = (
                f'idle {percentile(run["idle_ms"], 50):6.2f} '
                f'{percentile(run["idle_ms"], 99):6.2f} ms'
            )
            print(f'noop {number + 1}/{plan.rounds}  {peer.title:48} {told}  {idle}', flush=True)
            runs.append(run)
        return {'runs': runs}

    async def _run(
        self, bench: Bench, peer: Peer, plan: Plan, name: str, profile: Path | None = None
    ) -> Data:
        directory = bench.directory / name
        counts = directory / 'tally'
        counts.mkdir(parents=True)
        redis_url = bench.stack.valkey.url(ARQ_DATABASE)
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            await client.flushall()
        environment = {
            'BENCH_REDIS': redis_url,
            'BENCH_TALLY': str(counts),
            'PYTHONPATH': str(ROOT),
        }
        produce = [peer.program('python'), '-m', 'bench.peers.produce', peer.module]
        jobs = plan.count(peer.jobs, 100)
        await run_to_end([*produce, 'fill', str(jobs)], os.environ | environment, b'')
        command = Command(
            [peer.program(peer.argv[0]), *peer.argv[1:]], cwd=directory, environment=environment
        )
        log_path = directory / 'worker.log'
        worker = await asyncio.to_thread(spawn, command, log_path, bench.watchdog)
        try:
            with profiled(worker.pid, profile):
                jobs_per_s, cpu_s_per_1000 = await _drain(worker, counts, jobs)
            probes = [*produce, 'probe', str(plan.count(PROBES, 5))]
            idle_ms = json.loads(await run_to_end(probes, os.environ | environment, b''))
        except RunFailed as error:
            raise RunFailed(
                f'{peer.title}: {error}\n{last_lines(log_since(log_path, 0))}'
            ) from error
        finally:
            await asyncio.to_thread(stop, [worker], bench.watchdog)
        return {
            'peer': peer.key,
            'jobs_per_s': jobs_per_s,
            'cpu_s_per_1000': cpu_s_per_1000,
            'idle_ms': idle_ms,
        }

    def bars(self, data: Data) -> list[Bar]:
        """First means: more jobs a second than the best of the others, in the median round."""
        by_peer = _by_peer(data)
        ours = by_peer[OURS]
        others = [runs for key, runs in by_peer.items() if key != OURS]
        ratios = [
            mine['jobs_per_s'] / max(runs[number]['jobs_per_s'] for runs in others)
            for number, mine in enumerate(ours)
        ]
        met = statistics.median(ratios) > 1 if len(by_peer) == len(PEERS) else None
        first = Bar(
            'no-op jobs/s against the fastest of the others',
            'first',
            f'{spread(ratios, ".1f")} x',
            met,
        )
        p50s, p99s = ([percentile(run['idle_ms'], percent) for run in ours] for percent in (50, 99))
        met = statistics.median(p50s) <= LIMITS_MS[0] and statistics.median(p99s) <= LIMITS_MS[1]
        measured = f'{spread(p50s)} / {spread(p99s)} ms'
        limit = f'{LIMITS_MS[0]} / {LIMITS_MS[1]} ms'
        return [first, Bar('idle latency of a no-op job, p50 / p99', limit, measured, met)]

    def details(self, data: Data) -> list[str]:
        """Return the queues, the fastest first."""
        rows = []
        for key, runs in _by_peer(data).items():
            title = next(peer.title for peer in PEERS if peer.key == key)
            rates, costs = (
                [run[name] for run in runs] for name in ('jobs_per_s', 'cpu_s_per_1000')
            )
            idle = [
                spread([percentile(run['idle_ms'], percent) for run in runs])
                for percent in (50, 99)
            ]
            rows.append(
                (
                    statistics.median(rates),
                    (title, spread(rates, '.0f'), spread(costs, '.2f'), *idle),
                )
            )
        headings = ('what', 'jobs/s', 'CPU s per 1,000', 'idle p50 ms', 'idle p99 ms')
        return table(headings, [row for _, row in sorted(rows, reverse=True)])

    async def profile(self, bench: Bench, plan: Plan, target: Path) -> None:
        """Profile our worker while it drains."""
        await self._run(bench, PEERS[0], plan, 'noop_profile', target)


def _by_peer(data: Data) -> dict[str, list[Data]]:
    found: dict[str, list[Data]] = {}
    for run in data['runs']:
        found.setdefault(run['peer'], []).append(run)
    return found


async def _drain(worker: subprocess.Popen[bytes], counts: Path, jobs: int) -> tuple[float, float]:
    """Return jobs per second and CPU seconds per thousand of them."""
    started = await _reached(worker, counts, jobs * FROM)
    cpu_before_s = cpu_s(worker.pid)
    ended = await _reached(worker, counts, jobs * TO)
    cpu_used_s = cpu_s(worker.pid) - cpu_before_s
    done = max(1, ended[0] - started[0])
    took_s = max(1e-9, (ended[1] - started[1]) / 1e9)
    await _reached(worker, counts, jobs - 1)  # racing threads may lose the very last count
    await asyncio.sleep(SETTLE_S)  # or it is still to come
    return done / took_s, cpu_used_s / done * 1000


async def _reached(worker: subprocess.Popen[bytes], counts: Path, count: float) -> tuple[int, int]:
    deadline = time.monotonic() + DEADLINE_S
    while (now := tally.read(counts))[0] < count:
        if worker.poll() is not None:
            raise RunFailed(f'the worker ended with status {worker.returncode}')
        if time.monotonic() > deadline:
            raise RunFailed(f'only {now[0]} jobs ran within {DEADLINE_S:.0f} s')
        await asyncio.sleep(LOOK_EVERY_S)
    return now
