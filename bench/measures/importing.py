"""How long an application waits for `import mail_outbox`, in a process that has loaded nothing."""

import asyncio
import statistics
import sys

from bench.contender import ROOT
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.rounds import Bench

TIMES = 15
LIMIT_MS = 50
CODE = 'import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1000)'
WHAT = {
    'mail_outbox': 'import mail_outbox',
    'typing, json, logging': 'import typing, json, logging',  # what hardly any program is without
}


class Importing(Measure):
    """Fresh processes in turn, so that both have the same machine."""

    key = 'import'
    title = 'Importing mail_outbox'
    about_s = 5
    rounds = 1

    async def run(self, _: Bench, plan: Plan) -> Data:
        """Start interpreters and read what each says."""
        times: dict[str, list[float]] = {what: [] for what in WHAT}
        await _import_ms(WHAT['mail_outbox'])  # it is compiled now
        for _round in range(plan.count(TIMES, 2)):
            for what, statement in WHAT.items():
                times[what].append(await _import_ms(statement))
        return {'ms': times}

    def bars(self, data: Data) -> list[Bar]:
        """Judge the median."""
        times = data['ms']['mail_outbox']
        met = statistics.median(times) < LIMIT_MS
        return [Bar('import mail_outbox, ms', f'under {LIMIT_MS}', spread(times, '.0f'), met)]

    def details(self, data: Data) -> list[str]:
        """Return both."""
        return table(('import', 'ms'), [(what, spread(t, '.0f')) for what, t in data['ms'].items()])


async def _import_ms(statement: str) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, '-c', CODE.format(statement), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    return float(said)
