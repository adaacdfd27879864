"""Measure our worker against Celery doing the same: `python -m bench.run [--emails N] [--rounds R]`.

Starts the embedded stack and a sink, runs every contender once a round, shows the table and, from five rounds on,
writes it to docs/performance.md. A run fails unless every row is sent at the first attempt and in the sink.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bench import celery_env, report
from bench.contenders import BASELINE, CONTENDERS, Contender
from bench.machine import describe_machine, describe_versions
from bench.outbox import RunFailed, make_template
from bench.relay import RelayFailed, install_smtp_sink, running_relay
from bench.rounds import Bench, Measurement
from dev.server import ServerFailed
from dev.stack import Stack
from dev.watchdog import Watchdog

DOCUMENT = Path(__file__).parent.parent / 'docs' / 'performance.md'
SMOKE_EMAILS = 40
ROUNDS_TO_PUBLISH = 5  # fewer are for looking, not for writing down


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; --smoke decides the rest."""
    keys = [contender.key for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog='python -m bench.run', description='E-mails per second, beside Celery.')
    parser.add_argument('--emails', type=int, default=3000, help='per run (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=5, help='default: %(default)s; fewer write no document')
    parser.add_argument('--only', nargs='+', choices=keys, default=keys, help='writes no document')
    parser.add_argument('--smoke', action='store_true', help='one short round that proves nothing but that it runs')
    parser.add_argument('--install-sink', action='store_true', help='install smtp-sink (Debian, as root)')
    parser.add_argument('--own-sink', action='store_true', help='use bench/sink.py even where smtp-sink is installed')
    parser.add_argument('--note', default='', help='written above the table')
    parser.add_argument('--profile', type=Path, metavar='DIR', help='py-spy stacks go here; writes no document')
    options = parser.parse_args(argv)
    if options.emails < 1 or options.rounds < 1:
        parser.error('--emails and --rounds must be at least 1')
    if options.smoke:
        options.emails, options.rounds = SMOKE_EMAILS, 1
        if not celery_env.is_installed():
            options.only = [key for key in options.only if key != BASELINE]
    return options


async def measure(bench: Bench, contenders: Sequence[Contender], emails: int, rounds: int) -> list[Measurement]:
    """Run all contenders in every round, each round beginning with another one."""
    await make_template(bench.stack.postgres)
    measurements = []
    for number in range(rounds):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            done = await bench.run(contender, emails, f'{number}_{contender.key}')
            print(
                f'round {number + 1}/{rounds}  {contender.title:45}{done.emails_per_s:7.0f}/s'
                f'{done.cpu_s_per_1000:7.2f} s CPU per 1,000{done.peak_pss_bytes / 1e6:7.0f} MB',
                flush=True,
            )
            measurements.append(done)
    return measurements


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory that other users may pass through: as root, the sink runs as nobody."""
    with tempfile.TemporaryDirectory(prefix='mail-bench-') as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


async def bench_all(options: argparse.Namespace, command: str) -> None:
    """Start everything, measure, show, write."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    contenders = [contender for contender in CONTENDERS if contender.key in options.only]
    with temporary_directory() as directory, Watchdog() as watchdog:
        watchdog.remove_at_death(directory)
        async with Stack() as stack:
            with running_relay(directory, watchdog, own=options.own_sink) as relay:
                facts = await asyncio.to_thread(describe_machine, directory)
                facts += await describe_versions(stack, relay.describe(), celery=BASELINE in options.only)
                print(*facts, sep='\n', flush=True)
                bench = Bench(stack, relay, watchdog, directory, options.profile)
                measurements = await measure(bench, contenders, options.emails, options.rounds)
    report.show(measurements)
    if options.rounds >= ROUNDS_TO_PUBLISH and not options.profile and len(contenders) == len(CONTENDERS):
        report.write(DOCUMENT, measurements, command, facts, options.note)
        print(f'written to {DOCUMENT.relative_to(DOCUMENT.parent.parent)}')


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 1 when a run failed, or could not begin."""
    options = parse(argv)
    logging.basicConfig(level=logging.ERROR)
    command = f'python -m bench.run --emails {options.emails} --rounds {options.rounds}'
    command += ' --own-sink' if options.own_sink else ''
    try:
        if options.install_sink:
            install_smtp_sink()
        if BASELINE in options.only:
            celery_env.install()
        asyncio.run(bench_all(options, command))
    except (RunFailed, RelayFailed, ServerFailed, OSError, subprocess.SubprocessError) as error:
        Console(stderr=True).print(f'bench: {error}', style='red', markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
