"""Run the scenarios: `python -m tests.chaos [--seed N] [--scenario NAME ...] [--short] [--table
PATH] [--list]`.
"""

import argparse
import asyncio
import datetime as dt
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from configuration.sources import variable_names
from settings import Settings
from tests.chaos.arena import LEASE_S, SHORT_LEASE_S, Arena
from tests.chaos.report import Row, markdown, print_table
from tests.chaos.scenarios import SCENARIOS

LANES, LANES_SHORT = 2, 3

console = Console(width=150, soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m tests.chaos', description=__doc__)
    parser.add_argument(
        '--seed', type=int, help='repeats the random choices of a run; default: a new one'
    )
    parser.add_argument(
        '--scenario', nargs='+', choices=SCENARIOS, metavar='NAME', help='only these'
    )
    parser.add_argument(
        '--short', action='store_true', help='fewer e-mails, a lease of 3 s: under 3 minutes'
    )
    parser.add_argument('--table', type=Path, help='write the table as markdown to this file')
    parser.add_argument('--list', action='store_true', help='name the scenarios and end')
    return parser.parse_args()


async def run(options: argparse.Namespace, directory: Path) -> list[Row]:
    """Run the scenarios in lanes, each with a stack of its own, because most of them only wait."""
    names = list(options.scenario or SCENARIOS)
    waiting = list(names)
    began_at = time.monotonic()
    rows: dict[str, list[Row]] = {}

    async def lane(number: int) -> None:
        logs = directory / f'lane{number}'
        logs.mkdir()
        arena = Arena(logs, options.seed, options.short)
        try:
            await arena.open()
            while waiting:
                name = waiting.pop(0)
                started = time.monotonic()
                rows[name] = await run_one(name, arena)
                verdict = 'FAILED' if any(row.failed for row in rows[name]) else 'ok'
                now = time.monotonic()
                left_s = (now - began_at) / len(rows) * (len(names) - len(rows))
                console.print(
                    f'{name} {verdict}, {now - started:.0f} s; {len(rows)} of {len(names)}, '
                    f'about {left_s / 60:.0f} min left'
                )
        finally:
            await arena.close()

    async with asyncio.TaskGroup() as lanes:
        for number in range(min(LANES_SHORT if options.short else LANES, len(names))):
            lanes.create_task(lane(number))
    return [row for name in names for row in rows[name]]


async def run_one(name: str, arena: Arena) -> list[Row]:
    """Run a scenario; one that breaks off is a row that failed."""
    try:
        return await SCENARIOS[name](arena)
    except Exception as error:  # noqa: BLE001 - the others shall run, and the table shall say so
        console.print_exception()
        return [Row(name, problems=[f'broke off: {type(error).__name__}: {error}'])]


def forget_own_settings() -> None:
    """Drop the developer's own variables for the worker, so that every run has the same
    settings.
    """
    for field_name, field in Settings.model_fields.items():
        for name in variable_names(field_name, field):
            os.environ.pop(name, None)


async def supervise(options: argparse.Namespace, directory: Path) -> list[Row]:
    """Run as a task that SIGINT and SIGTERM cancel, so that all servers and workers end before we
    do.
    """
    task = asyncio.create_task(run(options, directory))
    for stop_signal in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop_signal, task.cancel)
    return await task


def main() -> int:
    options = parse_arguments()
    if options.list:
        for name, scenario in SCENARIOS.items():
            console.print(
                f'{name:12} {(scenario.__doc__ or "").splitlines()[0]}',
                markup=False,
                highlight=False,
            )
        return 0
    if options.seed is None:
        options.seed = random.randrange(10**6)
    forget_own_settings()
    # A new one each time: repeating a run that failed must not remove its logs.
    directory = Path(tempfile.mkdtemp(prefix=f'mail-chaos-{options.seed}-'))
    length = (
        f'short: a lease of {SHORT_LEASE_S:.0f} s instead of {LEASE_S:.0f} s'
        if options.short
        else 'full'
    )
    title = f'make chaos ({length}), {dt.datetime.now(dt.UTC):%Y-%m-%d}, seed {options.seed}'
    console.print(f'{title}; logs in {directory}', markup=False, highlight=False)
    started = time.monotonic()
    try:
        rows = asyncio.run(supervise(options, directory))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    title += f', {(time.monotonic() - started) / 60:.1f} minutes'
    print_table(console, rows, title)
    if options.table:
        options.table.write_text(markdown(rows, title))
    return 1 if any(row.failed for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
