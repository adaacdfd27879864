"""Profiles beside a measurement: where a bar is not met, its stacks say why."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench import environments

SAMPLES_PER_S = 200
STOP_DEADLINE_S = 30.0
START_S = 1.0
LINES = 30


def program() -> str | None:
    """Return py-spy: on the PATH, or in the peers' environment."""
    return shutil.which('py-spy') or shutil.which(environments.PEERS.program('py-spy'))


@contextlib.contextmanager
def profiled(pid: int, target: Path | None) -> Iterator[None]:
    """Sample a process and its children while entered, into a file.

    One line a stack, with its number of samples.

    Args:
        target: None for no profile.
    """
    found = program()
    if target is None or found is None:
        yield
        return
    options = [
        '--format',
        'raw',
        '--rate',
        str(SAMPLES_PER_S),
        '--duration',
        '3600',
        '--nonblocking',
    ]
    sampler = subprocess.Popen(
        [found, 'record', '--pid', str(pid), '--output', str(target), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(START_S)  # it reads the symbols first
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # it writes the file when interrupted
        try:
            sampler.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            sampler.kill()
            sampler.wait()


def summarise(stacks: str) -> list[str]:
    """Return the functions by their share: alone, and with what they call; as lines of a table."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(' ')
        if not count.isdigit():
            continue
        names = [frame.rpartition(':')[0] or frame for frame in frames.split(';')]
        total += int(count)
        alone[names[-1]] += int(count)
        for name in set(names):
            within[name] += int(count)
    if not total:
        return ['no samples']
    top = sorted(
        set(dict(alone.most_common(LINES))) | set(dict(within.most_common(LINES))),
        key=lambda n: -alone[n],
    )
    rows = [f'{alone[n] / total:7.1%} {within[n] / total:7.1%}  {n}' for n in top]
    return [f'{total} samples, {SAMPLES_PER_S} a second', '', '  alone  within  function', *rows]
