"""Profiles beside a measurement, when py-spy is on the PATH: `python -m bench.run --profile DIRECTORY`."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

SAMPLES_PER_S = 200
STOP_DEADLINE_S = 30.0


@contextlib.contextmanager
def profiled(pid: int, directory: Path | None, name: str) -> Iterator[None]:
    """Sample a process and its children while entered, into NAME.txt: one line a stack, with its number of samples.

    Args:
        directory: Where the file goes; None for no profile. The sampling itself takes CPU: do not publish what was
            measured meanwhile.
    """
    if directory is None:
        yield
        return
    program = shutil.which('py-spy')
    if program is None:
        raise SystemExit('--profile needs py-spy on the PATH')
    directory.mkdir(parents=True, exist_ok=True)
    target = ['--pid', str(pid), '--subprocesses', '--output', str(directory / f'{name}.txt')]
    options = ['--format', 'raw', '--rate', str(SAMPLES_PER_S), '--duration', '3600']
    sampler = subprocess.Popen(
        [program, 'record', *target, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # it writes the file when interrupted
        try:
            sampler.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            sampler.kill()
            sampler.wait()
