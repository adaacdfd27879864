"""How long an operator waits for a command, from the shell's start of it to its end."""

import asyncio
import os
import statistics
import time

from bench.contender import ROOT
from bench.environments import worker_program
from bench.measures.measure import Bar, Data, Measure, Plan, spread, table
from bench.outbox import RunFailed, fresh_outbox
from bench.rounds import Bench

TIMES = 15
HELP_MS, COMMAND_MS = 150, 400
HELP = ('--help', 'ops --help')
COMMANDS = ('ops schedule', 'ops failed', 'ops show 1', 'ops retry 1 --dry-run')
FINE = (0, 1)  # 1: the e-mail it asks for is not there


class Commands(Measure):
    """Fresh processes in turn, so that all have the same machine."""

    key = 'commands'
    title = 'Commands'
    about_s = 30
    rounds = 1

    async def run(self, bench: Bench, plan: Plan) -> Data:
        """Run each again and again; what they import is compiled by then."""
        walls: dict[str, list[float]] = {command: [] for command in (*HELP, *COMMANDS)}
        async with fresh_outbox(bench.stack.postgres, 'bench_commands') as outbox:
            env = bench.stack.env | {'DATABASE_URL': outbox.dsn, 'PATH': os.environ['PATH']}
            env['EMAIL_WORKER_PYTHON'] = worker_program('python')
            for command in walls:
                await _wall_ms(command, env)
            for _round in range(plan.count(TIMES, 2)):
                for command, taken in walls.items():
                    taken.append(await _wall_ms(command, env))
        return {'ms': walls}

    def bars(self, data: Data) -> list[Bar]:
        """Judge the slowest of each kind by its median."""
        bars = []
        for commands, what, limit_ms in (
            (HELP, '`email-worker --help`, ms', HELP_MS),
            (COMMANDS, 'a command of operators, ms', COMMAND_MS),
        ):
            slowest = max((data['ms'][command] for command in commands), key=statistics.median)
            met = statistics.median(slowest) < limit_ms
            bars.append(Bar(what, f'under {limit_ms}', spread(slowest, '.0f'), met))
        return bars

    def details(self, data: Data) -> list[str]:
        """Return all."""
        rows = [
            (f'`email-worker {command}`', spread(taken, '.0f'))
            for command, taken in data['ms'].items()
        ]
        return table(('command', 'ms'), rows)


async def _wall_ms(command: str, env: dict[str, str]) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        ROOT / 'deploy/email-worker', *command.split(), env=env,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate()
    if process.returncode not in FINE:
        raise RunFailed(f'{command}: {told.decode()}')
    return (time.perf_counter() - began) * 1000
