"""The environment of the peers, `.venv-bench`: made when it is missing or its lock has changed."""

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK = ROOT / 'bench' / 'requirements-peers.txt'
ENVIRONMENT = ROOT / '.venv-bench'
STAMP = ENVIRONMENT / '.installed'
VERSIONS_PROGRAM = 'import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))'


def python() -> Path:
    """Return the environment's interpreter, whether it is there or not."""
    return ENVIRONMENT / 'bin' / 'python'


def is_installed() -> bool:
    """Tell whether the environment holds what the lock says."""
    return STAMP.exists() and STAMP.read_text() == _lock_hash()


def install() -> None:
    """Make the environment, or bring it up to date. Does nothing when it is.

    Raises:
        subprocess.CalledProcessError: venv or pip failed; they have said why.
    """
    if is_installed():
        return
    print(f'installing the peers into {ENVIRONMENT.name} ...', file=sys.stderr)
    subprocess.run([sys.executable, '-m', 'venv', '--clear', str(ENVIRONMENT)], check=True)
    (ENVIRONMENT / '.gitignore').write_text('*\n')
    pip = [str(python()), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, '--require-hashes', '-r', str(LOCK)], check=True)
    STAMP.write_text(_lock_hash())


def versions(*names: str) -> list[str]:
    """Return the installed versions of these distributions."""
    command = [str(python()), '-c', VERSIONS_PROGRAM, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def _lock_hash() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()
