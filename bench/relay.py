"""The relay all contenders send to, in a process of its own.

Debian's smtp-sink where it is installed, else ours.

Ours (bench/sink.py) also where a relay must be slow, speak TLS, or tell when each message came.
"""

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
from dataclasses import dataclass
from pathlib import Path

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
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
        port: Where it listens on 127.0.0.1, without login.
        log_path: Its standard output.
        ca_file: The certificate that it shows after STARTTLS, which it offers then only.
        pid: Its process, once it runs.
    """

    def __init__(self, port: int, log_path: Path, kind: 'RelayKind') -> None:
        self.port = port
        self.log_path = log_path
        self.kind = kind
        self.ca_file: Path | None = None
        self.pid = 0

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
        argv = [
            _postfix_program('smtp-sink') or '',
            '-4',
            '-c',
            '-m',
            '1024',
            f'127.0.0.1:{self.port}',
            '1024',
        ]
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
        argv = [
            sys.executable,
            '-m',
            'bench.sink',
            str(self.port),
            '--delay-ms',
            str(self.kind.delay_ms),
        ]
        if self.kind.tls:
            directory = self.log_path.parent
            server_tls_context(directory)  # makes the files
            self.ca_file = directory / CERTIFICATE_NAME
            argv += ['--certificate', str(self.ca_file), '--key', str(directory / KEY_NAME)]
        return Command(argv, cwd=ROOT)

    def describe(self) -> str:
        """Return its name and what it was told."""
        latency = f', every answer {self.kind.delay_ms:g} ms later' if self.kind.delay_ms else ''
        return f'bench/sink.py{latency}{", STARTTLS" if self.kind.tls else ""}'

    def count(self) -> int:
        """Ask it."""
        with socket.create_connection(('127.0.0.1', self.port), timeout=START_DEADLINE_S) as conn:
            replies = conn.makefile('rb')
            replies.readline()
            conn.sendall(b'XCOUNT\r\n')
            return int(replies.readline().split()[1])


@dataclass(frozen=True)
class RelayKind:
    """What a relay must be able to do.

    Attributes:
        delay_ms: Each of its answers comes this much later.
        tls: It offers STARTTLS.
        watched: It tells when each message came.
        own: bench/sink.py in any case.
    """

    delay_ms: float = 0.0
    tls: bool = False
    watched: bool = False
    own: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it takes bench/sink.py."""
        return (
            self.own
            or self.tls
            or self.watched
            or self.delay_ms > 0
            or not _postfix_program('smtp-sink')
        )


def _postfix_program(name: str) -> str | None:
    # They live in /usr/sbin, which a user's PATH often lacks.
    return shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin')


def smtp_source_rate(
    relay: Relay, messages: int, *, sessions: int, message_bytes: int
) -> float | None:
    """Send with Postfix' own test program, connections reused.

    Return messages per second, None where it is missing.

    Raises:
        RelayFailed: it did.
    """
    program = _postfix_program('smtp-source')
    if program is None:
        return None
    count = ['-d', '-s', str(sessions), '-m', str(messages), '-l', str(message_bytes)]
    ends = ['-f', 'noreply@example.com', '-t', 'customer@example.org', f'127.0.0.1:{relay.port}']
    started_at = time.monotonic()
    done = subprocess.run([program, '-4', *count, *ends], capture_output=True, check=False)
    if done.returncode:
        raise RelayFailed(f'smtp-source: {done.stderr.decode()[-500:]}')
    return messages / (time.monotonic() - started_at)


def install_smtp_sink() -> None:
    """Install Debian's postfix package for its smtp-sink.

    As `No configuration`, so that no mail server starts.

    Raises:
        RelayFailed: not root, not Debian, or apt failed.
    """
    if _postfix_program('smtp-sink'):
        return
    if os.geteuid() != 0 or not shutil.which('apt-get'):
        raise RelayFailed('--install-sink needs root and apt-get')
    environment = os.environ | {'DEBIAN_FRONTEND': 'noninteractive'}
    answer = 'postfix postfix/main_mailer_type select No configuration\n'
    try:
        subprocess.run(['debconf-set-selections'], input=answer, text=True, check=True)  # noqa: S607
        for step in (
            ['update', '-qq'],
            ['install', '-qq', '-y', '--no-install-recommends', 'postfix'],
        ):
            subprocess.run(
                ['apt-get', *step],  # noqa: S607
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RelayFailed(f'postfix could not be installed: {error}') from error


@contextlib.contextmanager
def running_relay(directory: Path, watchdog: Watchdog, kind: RelayKind) -> Iterator[Relay]:
    """Start a sink on a free port, and stop it at the end.

    Args:
        directory: Where its log goes.
    Raises:
        RelayFailed: it does not greet within ten seconds.
    """
    port = free_port()
    relay = (OwnSink if kind.is_own else SmtpSink)(port, directory / f'relay-{port}.log', kind)
    process = spawn(relay.command(), relay.log_path, watchdog)
    relay.pid = process.pid
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
