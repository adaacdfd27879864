"""The environments of what is measured.

The worker's as deploy/install.sh makes it, and the peers' own.
"""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSIONS_PROGRAM = (
    'import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))'
)


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made when it is missing or its lock has changed."""

    whose: str
    directory: Path
    lock: Path

    def program(self, name: str) -> str:
        """Return the path of one of its programs, whether it is there or not."""
        return str(self.directory / 'bin' / name)

    def is_installed(self) -> bool:
        """Tell whether the environment holds what the lock says."""
        return self._stamp.exists() and self._stamp.read_text() == self._lock_hash()

    def install(self) -> None:
        """Make the environment, or bring it up to date. Does nothing when it is.

        Raises:
            subprocess.CalledProcessError: venv or pip failed; they have said why.
        """
        if self.is_installed():
            return
        print(f'installing {self.whose} into {self.directory.name} ...', file=sys.stderr)
        subprocess.run([sys.executable, '-m', 'venv', '--clear', str(self.directory)], check=True)
        (self.directory / '.gitignore').write_text('*\n')
        pip = [
            self.program('python'),
            '-m',
            'pip',
            'install',
            '--quiet',
            '--disable-pip-version-check',
        ]
        subprocess.run([*pip, '--require-hashes', '-r', str(self.lock)], check=True)
        self._stamp.write_text(self._lock_hash())

    def versions(self, *names: str) -> list[str]:
        """Return the installed versions of these distributions."""
        command = [self.program('python'), '-c', VERSIONS_PROGRAM, *names]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    @property
    def _stamp(self) -> Path:
        return self.directory / '.installed'

    def _lock_hash(self) -> str:
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()


PEERS = Environment('the peers', ROOT / '.venv-bench', ROOT / 'bench' / 'requirements-peers.txt')
# Not the developer's, which has what the tests need: redis-py, for one, imports cryptography where
# it finds it (6 MB).
WORKER = Environment('the worker', ROOT / '.venv-worker', ROOT / 'requirements.txt')


def worker_program(name: str) -> str:
    """Return a program of the worker's environment.

    Of this one in a smoke run, which installs nothing.
    """
    return (
        WORKER.program(name) if WORKER.is_installed() else str(Path(sys.executable).with_name(name))
    )
