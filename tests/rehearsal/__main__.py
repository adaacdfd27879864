"""Rehearse the move from Celery.

`python -m tests.rehearsal [--short] [--variant NAME ...] [--seed N] [--list]`.
"""

import argparse
import asyncio
import datetime as dt
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.chaos.__main__ import forget_own_settings
from tests.rehearsal.arena import Arena
from tests.rehearsal.installations import SHORT, VARIANTS
from tests.rehearsal.old_system import OLD
from tests.rehearsal.report import Row, print_table
from tests.rehearsal.stage import StepFailedError

LANES, LANES_SHORT = 2, 3

console = Console(width=170, soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m tests.rehearsal', description=__doc__)
    parser.add_argument(
        '--short', action='store_true', help=f'{", ".join(SHORT)}; fewer e-mails, under 2 minutes'
    )
    parser.add_argument('--variant', nargs='+', choices=VARIANTS, metavar='NAME', help='only these')
    parser.add_argument(
        '--seed', type=int, help='repeats the order of the variants; default: a new one'
    )
    parser.add_argument(
        '--lanes',
        type=int,
        choices=range(1, 6),
        help='so many variants at once; default: 2, short 3',
    )
    parser.add_argument('--list', action='store_true', help='name the variants and end')
    return parser.parse_args()


async def run(options: argparse.Namespace, directory: Path) -> list[Row]:
    """Run the variants in lanes, because most of them only wait."""
    names = list(options.variant or (SHORT if options.short else VARIANTS))
    waiting = random.Random(options.seed).sample(names, len(names))
    rows: dict[str, Row] = {}
    arena = Arena(directory, options.short)

    async def lane(number: int) -> None:
        while waiting:
            name = waiting.pop()
            rows[name] = await run_one(name, arena, number)
            console.print(
                f'{name} {"FAILED" if rows[name].problems else "ok"}, {rows[name].took_s:.0f} s'
            )
            for problem in rows[name].problems:
                console.print(f'    {problem}', markup=False, highlight=False)

    await arena.open()
    try:
        async with asyncio.TaskGroup() as lanes:
            for number in range(
                min(options.lanes or (LANES_SHORT if options.short else LANES), len(names))
            ):
                lanes.create_task(lane(number))
    finally:
        await arena.close()
    return [rows[name] for name in names]


async def run_one(name: str, arena: Arena, lane: int) -> Row:
    """Run a variant; one that breaks off is a row that failed, with what had been found
    until then.
    """
    variant = VARIANTS[name]
    row = Row(name)
    started = time.monotonic()
    try:
        async with arena.stage(variant, lane) as stage:
            row = stage.row
            try:
                await variant.story(stage)
            except StepFailedError as error:
                row.problems.append(str(error))
                await stage.judge()
    except Exception as error:  # noqa: BLE001 - the others shall run, and the table shall say so
        console.print_exception()
        row.problems.append(f'broke off: {type(error).__name__}: {error}')
        row.took_s = time.monotonic() - started
    return row


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
        for name, variant in VARIANTS.items():
            told = (variant.story.__doc__ or '').splitlines()[0]
            console.print(f'{name:22} {told}', markup=False, highlight=False)
        return 0
    if options.seed is None:
        options.seed = random.randrange(10**6)
    OLD.install()
    forget_own_settings()
    directory = Path(tempfile.mkdtemp(prefix=f'mail-rehearsal-{options.seed}-'))
    length = 'short' if options.short else 'full'
    celery, sqlalchemy = OLD.versions('celery', 'sqlalchemy')
    title = f'make rehearsal ({length}), {dt.datetime.now(dt.UTC):%Y-%m-%d}, seed {options.seed}, '
    title += f'Celery {celery}, SQLAlchemy {sqlalchemy}'
    console.print(f'{title}; logs in {directory}', markup=False, highlight=False)
    started = time.monotonic()
    try:
        rows = asyncio.run(supervise(options, directory))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    print_table(console, rows, f'{title}, {(time.monotonic() - started) / 60:.1f} minutes')
    return 1 if any(row.problems for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
