"""Enqueue no-op jobs: `python -m bench.peers.produce MODULE fill|probe COUNT`.

`probe` enqueues one by one, timed.
"""

import asyncio
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.peers import tally

TOGETHER = 50
PAUSE_S = (0.015, 0.045)
WARM_UP = 10
LOOK_EVERY_S = 0.0003
DEADLINE_S = 10.0


async def fill(enqueue: Callable[[], Awaitable[object]], count: int) -> None:
    """Enqueue that many."""
    for start in range(0, count, TOGETHER):
        await asyncio.gather(*(enqueue() for _ in range(min(TOGETHER, count - start))))


async def probe(enqueue: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Return how many milliseconds pass from before each call until its job ran."""
    directory = Path(os.environ['BENCH_TALLY'])
    took_ms = []
    for _ in range(WARM_UP + count):
        await asyncio.sleep(random.uniform(*PAUSE_S))
        began_ns = time.monotonic_ns()
        await enqueue()
        deadline = time.monotonic() + DEADLINE_S
        # By the worker's own clock: one that was still to come from before does not count for this
        # one.
        while (ran_ns := tally.read(directory)[1]) < began_ns:
            if time.monotonic() > deadline:
                raise SystemExit(f'a job did not run within {DEADLINE_S:.0f} s')
            await asyncio.sleep(LOOK_EVERY_S)
        took_ms.append((ran_ns - began_ns) / 1e6)
    return took_ms[WARM_UP:]


async def main() -> None:
    """Do what the command line says."""
    module = importlib.import_module(f'bench.peers.{sys.argv[1]}')
    async with module.producer() as enqueue:
        if sys.argv[2] == 'fill':
            await fill(enqueue, int(sys.argv[3]))
        else:
            print(json.dumps(await probe(enqueue, int(sys.argv[3]))))


if __name__ == '__main__':
    asyncio.run(main())
