"""What a worker costs that has nothing to do."""

import asyncio
import itertools
import statistics

from bench.contenders import CONTENDERS
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.outbox import RunFailed
from bench.rounds import Bench, Order, stop
from bench.usage import cpu_s
from dev.processes import spawn

SETTLE_S = 8.0
WINDOW_S = 60.0
PARTS = 5
LIMIT_PERCENT = 0.3


class Idle(Measure):
    """All kinds of worker side by side, left alone for a minute."""

    key = 'idle'
    title = 'CPU of an idle worker'
    about_s = 85
    rounds = 1

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Count the CPU seconds of a minute, in five parts."""
        part_s = plan.count(WINDOW_S * 10, 10) / 10 / PARTS
        keys = ['jobs', *(['celery'] if plan.peers else [])]
        with bench.relay() as relay:
            order = Order(CONTENDERS['jobs'], relay, 0, 'idle')
            async with bench.site(order) as site:
                processes = [
                    spawn(
                        CONTENDERS[key].command(site), site.directory / f'{key}.log', bench.watchdog
                    )
                    for key in keys
                ]
                try:
                    await asyncio.sleep(SETTLE_S if plan.scale == 1 else 3.0)
                    seen = [[cpu_s(process.pid) for process in processes]]
                    for _ in range(PARTS):
                        await asyncio.sleep(part_s)
                        seen.append([cpu_s(process.pid) for process in processes])
                    if ended := [
                        key for key, p in zip(keys, processes, strict=True) if p.poll() is not None
                    ]:
                        raise RunFailed(f'ended while it was idle: {", ".join(ended)}')
                finally:
                    await asyncio.to_thread(stop, processes, bench.watchdog)
        percents = {
            key: [
                (after[n] - before[n]) / part_s * 100 for before, after in itertools.pairwise(seen)
            ]
            for n, key in enumerate(keys)
        }
        return {'percents': percents, 'part_s': part_s}

    def bars(self, data: Data) -> list[Bar]:
        """Judge the whole minute."""
        percents = data['percents']['jobs']
        mean = statistics.mean(percents)
        measured = f'{mean:.2f} % ({min(percents):.2f} to {max(percents):.2f})'
        return [
            Bar(
                'idle CPU of a worker over 60 s',
                f'under {LIMIT_PERCENT} % of a core',
                measured,
                mean < LIMIT_PERCENT,
            )
        ]

    def details(self, data: Data) -> list[str]:
        """Return all kinds."""
        rows = [
            (CONTENDERS[key].title, spread(percents, '.2f'))
            for key, percents in data['percents'].items()
        ]
        heading = f'% of a core, {len(data["percents"]["jobs"])} parts of {data["part_s"]:g} s'
        return table(('what', heading), rows)
