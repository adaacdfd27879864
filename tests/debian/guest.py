"""A server of Debian's that sees a machine of its own: its packages over /usr, its files over /etc.

Those that exclude each other as packages run side by side so, with the paths they were built for,
and nothing of this machine is touched. `.ci/mail-servers` unpacks the packages.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev.processes import Command, last_lines, spawn
from dev.watchdog import Watchdog

PACKAGES = Path(__file__).parents[2] / '.venv/mail-servers'
OWN = ('run', 'var/lib', 'var/spool', 'var/log', 'var/mail')
ENTER = f"""\
set -e
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t overlay overlay -o lowerdir="$1" /usr
mount -t overlay overlay -o lowerdir="$2/etc:/etc" /etc
for name in {' '.join(OWN)}; do mount --bind "$2/$name" "/$name"; done
shift 2
exec "$@"
"""
# The accounts that the packages' scripts make, and the one that mailboxes belong to.
ACCOUNTS = {
    'Debian-exim': 60701, 'opensmtpd': 60702, 'opensmtpq': 60703, 'dovecot': 60704,
    'dovenull': 60705, 'postgrey': 60706, 'vmail': 60707,
}  # fmt: skip
START_DEADLINE_S, STOP_DEADLINE_S = 60.0, 20.0


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A folder that servers get into, whoever they are.

    Not below pytest's own: each run of pytest that begins closes that to others.
    """
    with tempfile.TemporaryDirectory(prefix='mail-server-') as name:
        Path(name).chmod(0o711)
        yield Path(name)


class Guest:
    """One server's view of the machine.

    Attributes:
        directory: Where its files are, seen from outside.
    """

    def __init__(self, directory: Path, packages: Sequence[str]) -> None:
        assert os.geteuid() == 0, 'servers of Debian start as root'
        folders = [PACKAGES / package / 'usr' for package in packages]
        missing = [str(folder) for folder in folders if not folder.is_dir()]
        assert not missing, f'{missing}: .ci/mail-servers fetches them'
        self.directory = directory
        self._usr = ':'.join([*(os.path.realpath(folder) for folder in folders), '/usr'])
        for name in ('etc', *OWN):
            (directory / name).mkdir(parents=True)
        (directory / 'var/mail').chmod(0o777)
        for file, line in (('passwd', '{0}:x:{1}:{1}::/var/mail:/bin/sh'), ('group', '{0}:x:{1}:')):
            lines = [line.format(*account) for account in ACCOUNTS.items()]
            self.write(f'etc/{file}', '\n'.join([Path('/etc', file).read_text().rstrip(), *lines]))

    def write(self, name: str, text: str, *, owner: str = 'root', mode: int = 0o644) -> Path:
        """Put a file into its place."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')
        path.chmod(mode)
        self.own(path, owner)
        return path

    def folder(self, name: str, owner: str) -> None:
        """Make a folder that belongs to one of its accounts."""
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        self.own(path, owner)

    def own(self, path: Path, owner: str) -> None:
        number = ACCOUNTS.get(owner, 0)
        os.chown(path, number, number)

    def command(self, *argv: str) -> list[str]:
        enter = [
            '/usr/bin/unshare',
            '--mount',
            'sh',
            '-c',
            ENTER,
            'enter',
            self._usr,
            str(self.directory),
        ]
        return [*enter, *argv]

    def run(self, *argv: str, given: str = '') -> str:
        """Run a program to its end. Returns what it printed."""
        done = subprocess.run(
            self.command(*argv),
            input=given,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f'{argv}: {done.stdout}{done.stderr}'
        return done.stdout

    @contextlib.contextmanager
    def running(
        self, watchdog: Watchdog, ports: Sequence[int], *argv: str, **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a server until the end; it has begun once it listens at its ports."""
        log = self.directory.with_suffix('.out')
        command = Command(self.command(*argv), environment=environment, death_signal=signal.SIGTERM)
        process = spawn(command, log, watchdog)
        try:
            for port in ports:
                until_open(port, lambda: process.poll() is None, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_DEADLINE_S)
            watchdog.forget(process.pid)


def until_open(port, goes_on, log):
    """Wait until somebody listens; fail with what the server said when it has ended."""
    end = time.monotonic() + START_DEADLINE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), 5):
            return
        if not goes_on() or time.monotonic() > end:
            raise AssertionError(f'nobody listens at {port}:\n{last_lines(log.read_text())}')
        time.sleep(0.02)
