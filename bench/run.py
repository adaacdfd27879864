"""Measure everything the bars are about: `python -m bench.run [--only KEY ...]`.

Without --only, all of it.

Starts the embedded stack, the sinks and the peers by itself. Results are kept in bench/results/, so
that measures can be taken at different times; bench/results/README.md, docs/performance.md and
docs/scaling.md are put together from them.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from bench import environments, model, py_spy, report, store
from bench.machine import busy_fraction, commit, describe_machine, describe_versions
from bench.measures.all import MEASURES
from bench.measures.measure import Measure, Plan
from bench.outbox import RunFailed, make_template
from bench.relay import RelayFailed, RelayKind, install_smtp_sink, running_relay
from bench.rounds import Bench
from bench.store import Result
from dev.server import ServerFailed
from dev.stack import Stack
from dev.watchdog import Watchdog

DOCS = Path(__file__).parent.parent / 'docs'
RESULTS = Path(__file__).parent / 'results'
SMOKE_SCALE = 0.004
QUIET_S = 2.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; --smoke decides the rest."""
    keys = [measure.key for measure in MEASURES]
    parser = argparse.ArgumentParser(prog='python -m bench.run', description=_describe_measures())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        '--only', nargs='+', choices=keys, default=keys, metavar='KEY', help='these measures'
    )
    parser.add_argument(
        '--skip', nargs='+', choices=keys, default=[], metavar='KEY', help='not these'
    )
    parser.add_argument(
        '--rounds', type=int, help='default: what each measure needs to be published'
    )
    parser.add_argument(
        '--scale', type=float, default=1.0, help='multiplies the sizes; anything but 1 is not kept'
    )
    parser.add_argument(
        '--look', action='store_true', help='show only: keep nothing, write no document'
    )
    parser.add_argument(
        '--smoke',
        action='store_true',
        help='tiny, and without peers that are not installed; no numbers',
    )
    parser.add_argument(
        '--install-sink', action='store_true', help='install smtp-sink (Debian, as root)'
    )
    parser.add_argument(
        '--own-sink',
        action='store_true',
        help='use bench/sink.py even where smtp-sink is installed',
    )
    parser.add_argument('--note', default='', help='written above the table')
    parser.add_argument(
        '--report', action='store_true', help='measure nothing, write the documents anew'
    )
    options = parser.parse_args(argv)
    if (options.rounds is not None and options.rounds < 1) or options.scale <= 0:
        parser.error('--rounds and --scale must be more than 0')
    if options.smoke:
        options.rounds, options.scale = 1, SMOKE_SCALE
    options.look = options.look or options.scale != 1
    return options


def _describe_measures() -> str:
    lines = [
        f'  {measure.key:10} {measure.title} (about {measure.about_s} s)' for measure in MEASURES
    ]
    return '\n'.join(['What can be measured:', *lines])


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory that other users may pass through: as root, the sink runs as nobody."""
    with tempfile.TemporaryDirectory(prefix='mail-bench-') as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


async def bench_all(options: argparse.Namespace, command: str) -> list[str]:
    """Take one measure after the other; keep and write after each.

    Returns:
        The measures that failed; the others were taken all the same.
    """
    failed = []
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with temporary_directory() as directory, Watchdog() as watchdog:
        watchdog.remove_at_death(directory)
        async with Stack() as stack:
            facts = await asyncio.to_thread(describe_machine, directory)
            with running_relay(directory, watchdog, RelayKind(own=options.own_sink)) as relay:
                facts += await describe_versions(stack, [relay.describe()])
            print(*facts, sep='\n', flush=True)
            await make_template(stack.postgres)
            bench = Bench(stack, watchdog, directory, own_sink=options.own_sink)
            for measure in MEASURES:
                if measure.key not in options.only or measure.key in options.skip:
                    continue
                try:
                    await take(measure, bench, options, command, facts)
                except (RunFailed, RelayFailed) as error:
                    complain(f'{measure.key}: {error}')
                    failed.append(measure.key)
    return failed


async def take(
    measure: Measure, bench: Bench, options: argparse.Namespace, command: str, facts: Sequence[str]
) -> None:
    """Take one measure, and a profile when it does not meet a bar; show, keep, write."""
    started_at = time.monotonic()
    plan = Plan(options.rounds or measure.rounds, options.scale, peers=not options.smoke)
    busy = await asyncio.to_thread(busy_fraction, 0.1 if options.smoke else QUIET_S)
    at = f'{datetime.now(UTC):%Y-%m-%d %H:%M} UTC'
    data = await measure.run(bench, plan)
    profile = None
    if not options.look and any(bar.met is False for bar in measure.bars(data)):
        profile = await _profile(measure, bench, plan)
    result = Result(
        measure.key, at, command, commit(), busy, plan.rounds, facts, data, options.note, profile
    )
    Console(soft_wrap=True).print(
        f'\n{measure.title}: {time.monotonic() - started_at:.0f} s', style='bold'
    )
    lines = [*report.bars([measure], {measure.key: result}), '', *measure.details(result.data), '']
    print('\n'.join(lines), flush=True)
    if not options.look:
        store.keep(RESULTS, result)
        write_documents()


async def _profile(measure: Measure, bench: Bench, plan: Plan) -> str | None:
    """Return the path in bench/results/ of a profile taken now."""
    stacks = bench.directory / f'{measure.key}.stacks'
    await measure.profile(bench, plan, stacks)
    if not stacks.exists():
        return None
    target = RESULTS / 'profiles' / f'{measure.key}.txt'
    target.parent.mkdir(parents=True, exist_ok=True)
    title = (
        f'{measure.title}: the worker under py-spy, {datetime.now(UTC):%Y-%m-%d}, commit {commit()}'
    )
    target.write_text(
        '\n'.join([title, '', *py_spy.summarise(stacks.read_text())]) + '\n', encoding='utf-8'
    )
    return str(target.relative_to(RESULTS))


def write_documents() -> None:
    """Put the documents together from what was kept."""
    kept = store.load(RESULTS)
    report.write(DOCS / 'performance.md', 'measured', report.summary(MEASURES, kept))
    report.write(RESULTS / 'README.md', 'results', report.details(MEASURES, kept))
    for name, block in model.BLOCKS.items():
        report.write(DOCS / 'scaling.md', name, block(kept))


def complain(error: str) -> None:
    """Tell what went wrong."""
    Console(stderr=True).print(
        f'bench: {error}', style='red', markup=False, highlight=False, soft_wrap=True
    )


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 1 when a run failed, or could not begin."""
    options = parse(argv)
    logging.basicConfig(level=logging.ERROR)
    try:
        if options.report:
            write_documents()
            return 0
        if options.install_sink:
            install_smtp_sink()
        if not options.smoke:
            for environment in (environments.PEERS, environments.WORKER):
                environment.install()
        command = ' '.join(['python -m bench.run', *(sys.argv[1:] if argv is None else argv)])
        if failed := uvloop.run(bench_all(options, command)):
            complain(f'failed: {" ".join(failed)}; again with --only {" ".join(failed)}')
            return 1
    except (RunFailed, RelayFailed, ServerFailed, OSError, subprocess.SubprocessError) as error:
        complain(str(error))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
