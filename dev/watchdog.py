"""The process that cleans up after a stack that was killed with -9.

It reads commands from a pipe whose other end only the stack holds. End of file means that the stack
is gone: it ends every process it was told about, with all their descendants, and removes the
temporary directories it was told about. On Linux the servers die through PR_SET_PDEATHSIG already;
the watchdog adds what that misses (other systems, servers stopped with SIGSTOP, temporary files).
It inherits the lock of the data directory, so that the next stack waits until this one's servers
are gone.

Lines it understands: `+PID SIGNAL` watch, `-PID` forget, `dir PATH` remove this too, `quit` leave
everything alone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO, Self

import psutil

GENTLE_DEADLINE_S = 3.0
VICTIM_DEADLINE_S = 5.0


class Watchdog:
    """Our end of the pipe. Usable from several threads: each command is one short write."""

    def __init__(self, inherited_fd: int | None = None) -> None:
        """Start the process.

        Args:
            inherited_fd: A descriptor it shall hold open until it ends (the data directory's lock).
        """
        self._process = subprocess.Popen(
            [sys.executable, '-P', str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            cwd='/',
            bufsize=0,
            start_new_session=True,  # Ctrl-C on the terminal is the stack's business
            pass_fds=[] if inherited_fd is None else [inherited_fd],
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def watch(self, pid: int, death_signal: signal.Signals = signal.SIGKILL) -> None:
        """End this process with this signal when we are gone.

        If it is still there then, with SIGKILL.
        """
        self._tell(f'+{pid} {int(death_signal)}')

    def forget(self, pid: int) -> None:
        """Leave this process alone: it has ended and was reaped."""
        self._tell(f'-{pid}')

    def remove_at_death(self, directory: Path) -> None:
        """Delete this temporary directory when we are killed."""
        self._tell(f'dir {directory}')

    def close(self) -> None:
        """End it without any killing, and with that release the lock it inherited."""
        self._tell('quit')
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=VICTIM_DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, command: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was killed: PR_SET_PDEATHSIG remains
            if self._process.stdin is not None:
                self._process.stdin.write(f'{command}\n'.encode())


def watch_until_end_of_file(commands: IO[str]) -> None:
    """Follow the commands; on end of file without `quit`, clean up."""
    watched: dict[int, tuple[psutil.Process, int]] = {}
    directories: list[Path] = []
    for line in commands:
        command = line.strip()
        if command == 'quit':
            return
        if command.startswith('+'):
            pid, death_signal = (int(part) for part in command[1:].split())
            with contextlib.suppress(
                psutil.Error
            ):  # psutil remembers its start time: a reused id is safe
                watched[pid] = (psutil.Process(pid), death_signal)
        elif command.startswith('-'):
            watched.pop(int(command[1:]), None)
        elif command.startswith('dir '):
            directories.append(Path(command[4:]))
    end_trees(dict(watched.values()))
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def end_trees(death_signals: dict[psutil.Process, int]) -> None:
    """Send each process its signal, and some seconds later SIGKILL to what is left.

    Their descendants are among what is left.
    """
    family = set(death_signals)
    for root in death_signals:
        with contextlib.suppress(psutil.Error):
            family.update(root.children(recursive=True))
    for process, death_signal in death_signals.items():
        with contextlib.suppress(psutil.Error):
            process.send_signal(death_signal)
            process.resume()  # stopped with SIGSTOP, it would never see the signal
    wait_until_gone(family, GENTLE_DEADLINE_S)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    wait_until_gone(family, VICTIM_DEADLINE_S)


def wait_until_gone(processes: Collection[psutil.Process], timeout_s: float) -> bool:
    """Wait until all have ended; False when some have not in time.

    A zombie counts as ended: whoever adopts our orphans may take its time to reap them.
    """
    deadline = time.monotonic() + timeout_s
    while any(lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def lives(process: psutil.Process) -> bool:
    """Tell whether a process still runs (zombies do not)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == '__main__':
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.chdir('/')
    watch_until_end_of_file(sys.stdin)
