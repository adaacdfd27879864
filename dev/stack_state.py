"""What the stack remembers in its data directory (stack.json).

A lock keeps a second stack out.
"""

import contextlib
import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import get_args

from dev.mongo import Engine

STATE_NAME = 'stack.json'
LOCK_NAME = 'stack.lock'
PASSWORD_BYTES = 16
LOCK_WAIT_S = 8.0  # the watchdog of a stack killed with -9 holds it until its servers are gone


def new_password() -> str:
    """Make a password of letters and digits, so that no URL, .env file or SQL needs to quote it."""
    return secrets.token_hex(PASSWORD_BYTES)


@dataclass
class StackState:
    """Ports (0: not chosen yet) and passwords, the same at every start of one data directory."""

    postgres_port: int = 0
    postgres_password: str = field(default_factory=new_password)
    postgres_superuser_password: str = field(default_factory=new_password)
    valkey_port: int = 0
    valkey_password: str = field(default_factory=new_password)
    mongo_port: int = 0
    mongo_engine: str = ''
    smtp_port: int = 0
    smtp_password: str = field(default_factory=new_password)
    smtp_backup_port: int = 0
    smtp_backup_password: str = field(default_factory=new_password)

    @property
    def known_engine(self) -> Engine | None:
        """The engine whose files are in the data directory; the other could not read them."""
        return next((engine for engine in get_args(Engine) if engine == self.mongo_engine), None)


def load_state(data_dir: Path) -> StackState:
    """Read the state of an earlier start, or make a new one."""
    try:
        known = json.loads((data_dir / STATE_NAME).read_text())
    except FileNotFoundError:
        return StackState()
    return StackState(
        **{entry.name: known[entry.name] for entry in fields(StackState) if entry.name in known}
    )


def save_state(data_dir: Path, state: StackState) -> None:
    """Write the state, readable by its owner only."""
    unfinished = data_dir / f'{STATE_NAME}.new'
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(asdict(state), indent=2) + '\n')
    unfinished.rename(data_dir / STATE_NAME)


class DirectoryInUse(RuntimeError):  # noqa: N818 - reads as what happened
    """Another stack runs on this data directory; the message has its process id."""


def lock_directory(data_dir: Path, wait_s: float = LOCK_WAIT_S) -> int:
    """Take the data directory for ourselves.

    Returns:
        A descriptor; the lock lasts until we and everyone who inherited it have closed it.
    Raises:
        DirectoryInUse: another stack still has it after some seconds.
    """
    lock_fd = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        if time.monotonic() > deadline:
            holder = os.pread(lock_fd, 20, 0).decode().strip()
            os.close(lock_fd)
            raise DirectoryInUse(
                f'{data_dir} is in use by another stack (process {holder}). Stop that one first.'
            )
        time.sleep(0.05)
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f'{os.getpid()}\n'.encode(), 0)
    return lock_fd
