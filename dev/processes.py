"""How a server of the stack is started so that it cannot outlive us."""

import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dev.watchdog import Watchdog

LAUNCHER = Path(__file__).with_name('launch.py').resolve()
LOG_TAIL_LINES = 15
LOG_LINE_CHARACTERS = 300


@dataclass(frozen=True)
class Identity:
    """The user and group a server runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run: program and arguments, where, as whom, with which additional environment.

    Attributes:
        death_signal: What ends it when we are gone.
    """

    argv: list[str]
    cwd: Path = Path('/')
    identity: Identity | None = None
    environment: dict[str, str] = field(default_factory=dict)
    death_signal: signal.Signals = signal.SIGKILL


class _Spawner:
    """The one thread that starts processes.

    PR_SET_PDEATHSIG fires when the *thread* that started the child ends, not the process: a child
    started from a pool's thread would die with the pool. This thread lives as long as the process.
    """

    def __init__(self) -> None:
        self.owner_pid = os.getpid()
        self._orders: queue.SimpleQueue[tuple[Command, Path, Future[subprocess.Popen[bytes]]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name='dev-spawner', daemon=True).start()

    def order(self, command: Command, log_path: Path) -> subprocess.Popen[bytes]:
        done: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((command, log_path, done))
        return done.result()

    def _work(self) -> None:
        while True:
            command, log_path, done = self._orders.get()
            try:
                done.set_result(_popen(command, log_path))
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                done.set_exception(error)


_spawner: _Spawner | None = None
_spawner_guard = threading.Lock()


def spawn(command: Command, log_path: Path, watchdog: Watchdog) -> subprocess.Popen[bytes]:
    """Start a program that ends when we end, whatever ends us.

    Args:
        log_path: Where its stdout and stderr are appended.
    Returns:
        The process; it leads a session and process group of its own.
    Raises:
        OSError: it could not be started.
    """
    global _spawner  # noqa: PLW0603 - one thread a process, made at first use
    with _spawner_guard:
        if _spawner is None or _spawner.owner_pid != os.getpid():
            _spawner = _Spawner()
    process = _spawner.order(command, log_path)
    watchdog.watch(process.pid, command.death_signal)
    return process


def _popen(command: Command, log_path: Path) -> subprocess.Popen[bytes]:
    identity = f'{command.identity.uid}:{command.identity.gid}' if command.identity else '-'
    launcher = [
        sys.executable,
        '-I',
        '-S',
        str(LAUNCHER),
        str(os.getpid()),
        str(int(command.death_signal)),
        identity,
    ]
    # A developer's PGHOST or PGDATA must not reach initdb; a locale that does not exist here stops
    # servers.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(('PG', 'LC_'))
    }
    with log_path.open('ab') as log:
        return subprocess.Popen(
            launcher + command.argv,
            cwd=command.cwd,
            env=environment | {'LC_ALL': 'C'} | command.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C on the terminal reaches only us; we stop the servers in order.
            start_new_session=True,
        )


def process_tree(pid: int) -> list[psutil.Process]:
    """List this process and its descendants.

    PostgreSQL's children lead groups of their own, so killpg misses them.
    """
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def log_since(log_path: Path, offset_bytes: int) -> str:
    """Read what a server has logged from an offset on."""
    try:
        with log_path.open('rb') as log:
            log.seek(offset_bytes)
            return log.read().decode(errors='replace')
    except OSError:
        return ''


def last_lines(log: str) -> str:
    """Shorten a log to its last lines, none of them endless, indented for an error message."""
    lines = log.splitlines()[-LOG_TAIL_LINES:] or ['(nothing)']
    return '\n'.join(f'    {line[:LOG_LINE_CHARACTERS]}' for line in lines)
