"""The life of one server of the stack.

Start, stop, kill, freeze, thaw, and start again on the same port.
"""

import contextlib
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import psutil

from dev.ports import can_bind, free_port
from dev.processes import Command, last_lines, log_since, process_tree, spawn
from dev.watchdog import Watchdog, wait_until_gone

PORT_ATTEMPTS = 5
POLL_S = 0.02
KILL_DEADLINE_S = 5.0


class ServerFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """A server of the stack did not start or did not answer in time.

    The message has its log and the remedy.
    """


class PortTaken(ServerFailed):
    """Something else bound the server's port first."""


class Server(ABC):
    """One server process, its data directory and its port.

    Attributes:
        port: The port it listens on, 0 before the first start; kept over restarts.
        log_path: The file that holds its stdout and stderr.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    # What a client raises while the server is still coming up.
    not_yet: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    start_deadline_s: ClassVar[float] = 30.0
    stop_deadline_s: ClassVar[float] = 15.0

    def __init__(self, directory: Path, watchdog: Watchdog, port: int = 0) -> None:
        """Say where it lives; nothing is started.

        Args:
            directory: Its own directory, created at the first start.
            port: The port it had last time, used again when it is free; 0 for any.
        """
        self.directory = directory
        self.log_path = directory.parent / f'{directory.name}.log'
        self.port = port
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        self._has_run = False  # from then on clients know the port: it stays
        self._log_start_bytes = 0
        self._guard = threading.RLock()
        self._cancelled = threading.Event()

    @abstractmethod
    def command(self) -> Command:
        """Say what to run, for the current port."""

    @abstractmethod
    def probe(self) -> None:
        """Do one real exchange with the server; raises one of `not_yet` while it is not ready."""

    def prepare(self) -> None:
        """Make the directory ready before each start."""
        self.directory.mkdir(parents=True, exist_ok=True)

    def choose_port(self) -> None:
        """Keep the port when it can be bound, else take another."""
        if not self.port or not can_bind(self.port):
            self.port = free_port()

    @property
    def pid(self) -> int:
        """The server's process id; raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError(f'{self.name} is not running')
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return when it answers. Does nothing when it runs.

        Raises:
            ServerFailed: it ended or did not answer in time.
        """
        with self._guard:
            if self.is_running:
                return
            self._reap()
            self._cancelled.clear()
            self.prepare()
            for attempt in range(1, PORT_ATTEMPTS + 1):
                if not self._has_run:
                    self.choose_port()
                try:
                    self._start_once()
                except PortTaken:
                    self._reap()
                    if attempt == PORT_ATTEMPTS:
                        raise
                    self._pause(0.2 * attempt)
                except BaseException:
                    self.kill()
                    raise
                else:
                    self._has_run = True
                    return

    def cancel_start(self) -> None:
        """Make a `start` that goes on in another thread fail soon."""
        self._cancelled.set()

    def stop(self) -> None:
        """Ask the server to end in order, wait, and kill it when it does not."""
        with self._guard:
            if self._process is None:
                return
            self.thaw()
            tree = process_tree(self._process.pid)
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(self.stop_deadline_s)
            except subprocess.TimeoutExpired:
                self.kill()
            wait_until_gone(tree, KILL_DEADLINE_S)
            self._reap()

    def discard(self) -> None:
        """End the server fast; its data is thrown away next."""
        self.kill()

    def kill(self) -> None:
        """SIGKILL the server with its children and wait until they are gone; its data stays."""
        with self._guard:
            if self._process is None:
                return
            tree = process_tree(self._process.pid)
            for process in [*tree, *self._frozen]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(KILL_DEADLINE_S)
            wait_until_gone(tree, KILL_DEADLINE_S)
            self._reap()

    def freeze(self) -> None:
        """SIGSTOP the server with its children: connections stay open and nothing answers."""
        with self._guard:
            self._frozen = process_tree(self.pid)
            for process in self._frozen:
                if process.pid != self.pid:
                    self._watchdog.watch(
                        process.pid
                    )  # stopped, it cannot notice its parent's death
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()

    def thaw(self) -> None:
        """SIGCONT what `freeze` stopped."""
        with self._guard:
            for process in self._frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
                if self._process is None or process.pid != self._process.pid:
                    self._watchdog.forget(process.pid)
            self._frozen = []

    def failure(self, what: str) -> str:
        """Compose an error message: what went wrong, the log's last lines, the remedy."""
        tail = last_lines(log_since(self.log_path, self._log_start_bytes))
        return (
            f'{self.name} {what}.\n  Last lines of {self.log_path}:\n{tail}\n  Remedy: '
            f'{self.remedy}'
        )

    def run_to_end(self, command: Command, timeout_s: float) -> None:
        """Run a preparing program (initdb) to its end.

        Raises:
            ServerFailed: it failed or took too long.
        """
        process = self._spawn(command)
        deadline = time.monotonic() + timeout_s
        try:
            while process.poll() is None and time.monotonic() < deadline:
                self._pause(POLL_S)
        finally:
            code = process.poll()
            for member in process_tree(process.pid):
                member.kill()
            process.wait()
            self._watchdog.forget(process.pid)
        if code != 0:
            ended = (
                f'ended with status {code}'
                if code is not None
                else f'took longer than {timeout_s:.0f} s'
            )
            raise ServerFailed(self.failure(f'could not be prepared: {command.argv[0]} {ended}'))

    def _spawn(self, command: Command) -> subprocess.Popen[bytes]:
        self._log_start_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
        return spawn(command, self.log_path, self._watchdog)

    def _start_once(self) -> None:
        self._process = self._spawn(self.command())
        deadline = time.monotonic() + self.start_deadline_s
        last_error: Exception | None = None
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                self._raise_ended(code)
            try:
                self.probe()
            except self.not_yet as error:
                last_error = error
                self._pause(POLL_S)
            else:
                return
        raise ServerFailed(
            self.failure(f'did not answer within {self.start_deadline_s:.0f} s ({last_error})')
        )

    def _pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise ServerFailed(f'{self.name}: the start was cancelled')

    def _raise_ended(self, code: int) -> None:
        if 'address already in use' in log_since(self.log_path, self._log_start_bytes).lower():
            raise PortTaken(self.failure(f'could not listen on port {self.port}'))
        raise ServerFailed(self.failure(f'ended with status {code} while starting'))

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._watchdog.forget(self._process.pid)
            self._process = None
        self._frozen = []
