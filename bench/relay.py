"""The relay all contenders send to, in a process of its own: Debian's smtp-sink where it is installed, else ours."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from dev.ports import free_port
from dev.postgres_home import server_identity
from dev.processes import Command, last_lines, log_since, spawn
from dev.watchdog import Watchdog

ROOT = Path(__file__).parent.parent
START_DEADLINE_S = 10.0
SETTLE_DEADLINE_S = 5.0
COUNTER = re.compile(rb'mesg=(\d+)')
COUNTER_TAIL_BYTES = 400


class RelayFailed(RuntimeError):  # noqa: N818 - reads as what happened
    """The sink did not start."""


class Relay(ABC):
    """A running sink.

    Attributes:
        port: Where it listens on 127.0.0.1, without TLS or login.
        log_path: Its standard output.
    """

    def __init__(self, port: int, log_path: Path) -> None:
        self.port = port
        self.log_path = log_path

    @abstractmethod
    def command(self) -> Command:
        """Say what to run."""

    @abstractmethod
    def describe(self) -> str:
        """Return name and version, for people."""

    @abstractmethod
    def count(self) -> int:
        """Return how many messages it has taken since it started."""

    async def settled_count(self, expected: int) -> int:
        """Return the count once it is as expected, or what it still is after some seconds."""
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        while True:
            counted = await asyncio.to_thread(self.count)
            if counted >= expected or time.monotonic() > deadline:
                return counted
            await asyncio.sleep(0.05)


class SmtpSink(Relay):
    """Postfix' own test program."""

    def command(self) -> Command:
        """`smtp-sink` with running counters; as root it wants another user."""
        argv = [_smtp_sink_program() or '', '-4', '-c', '-m', '1024', f'127.0.0.1:{self.port}', '1024']
        return Command(argv, identity=server_identity(), death_signal=signal.SIGKILL)

    def describe(self) -> str:
        """Return the version of the Debian package, where there is one."""
        if shutil.which('dpkg-query'):
            query = ['dpkg-query', '--show', '--showformat=${Version}', 'postfix']
            if version := subprocess.run(query, capture_output=True, text=True, check=False).stdout:
                return f'smtp-sink (postfix {version})'
        return 'smtp-sink'

    def count(self) -> int:
        """Read the last counter it printed; it prints one after each message."""
        with self.log_path.open('rb') as log:
            log.seek(max(0, self.log_path.stat().st_size - COUNTER_TAIL_BYTES))
            counters = COUNTER.findall(log.read())
        return int(counters[-1]) if counters else 0


class OwnSink(Relay):
    """bench/sink.py."""

    def command(self) -> Command:
        """Run the module with our own Python."""
        return Command([sys.executable, '-m', 'bench.sink', str(self.port)], cwd=ROOT)

    def describe(self) -> str:
        """Return its name."""
        return 'bench/sink.py for a relay'

    def count(self) -> int:
        """Ask it."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=START_DEADLINE_S) as conn:
            replies = conn.makefile('rb')
            replies.readline()
            conn.sendall(b'XCOUNT\r\n')
            return int(replies.readline().split()[1])


def _smtp_sink_program() -> str | None:
    # It lives in /usr/sbin, which a user's PATH often lacks.
    return shutil.which('smtp-sink', path=f'{os.environ.get("PATH", "")}:/usr/sbin')


def install_smtp_sink() -> None:
    """Install Debian's postfix package for its smtp-sink; as `No configuration`, so that no mail server starts.

    Raises:
        RelayFailed: not root, not Debian, or apt failed.
    """
    if _smtp_sink_program():
        return
    if os.geteuid() != 0 or not shutil.which('apt-get'):
        raise RelayFailed('--install-sink needs root and apt-get')
    environment = os.environ | {'DEBIAN_FRONTEND': 'noninteractive'}
    answer = 'postfix postfix/main_mailer_type select No configuration\n'
    try:
        subprocess.run(['debconf-set-selections'], input=answer, text=True, check=True)  # noqa: S607
        for step in (['update', '-qq'], ['install', '-qq', '-y', '--no-install-recommends', 'postfix']):
            subprocess.run(['apt-get', *step], env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S607
    except (OSError, subprocess.CalledProcessError) as error:
        raise RelayFailed(f'postfix could not be installed: {error}') from error


@contextlib.contextmanager
def running_relay(directory: Path, watchdog: Watchdog, *, own: bool = False) -> Iterator[Relay]:
    """Start a sink on a free port, and stop it at the end.

    Args:
        directory: Where its log goes.
        own: Ours, even where smtp-sink is installed.
    Raises:
        RelayFailed: it does not greet within ten seconds.
    """
    kind = OwnSink if own or not _smtp_sink_program() else SmtpSink
    relay = kind(free_port(), directory / 'relay.log')
    process = spawn(relay.command(), relay.log_path, watchdog)
    try:
        _wait_for_greeting(relay, process)
        yield relay
    finally:
        process.kill()
        process.wait()
        watchdog.forget(process.pid)


def _wait_for_greeting(relay: Relay, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(('127.0.0.1', relay.port), timeout=1) as conn:
                if conn.recv(3) == b'220':
                    return
        except OSError:
            time.sleep(0.02)
    raise RelayFailed(f'the sink does not answer:\n{last_lines(log_since(relay.log_path, 0))}')
