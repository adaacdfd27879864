"""The SMTP inbox as a server of the stack: a process of its own with two ports."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dev.inbox_control import InboxControl
from dev.inbox_store import CERTIFICATE_NAME, READY_NAME, StoredMessage, read_index
from dev.ports import can_bind, free_port
from dev.processes import Command
from dev.server import Server
from dev.watchdog import Watchdog

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class InboxLogin:
    """User and password of both relays; different ones, so that mixing them up shows."""

    user: str
    password: str
    backup_user: str
    backup_password: str


class InboxServer(Server):
    """The inbox; `port` is the primary relay's.

    Attributes:
        backup_port: The backup relay's port.
        control: Changes its behaviour while it runs.
    """

    name: ClassVar[str] = 'SMTP inbox'
    remedy: ClassVar[str] = 'look at the log; `make setup` installs what it needs'

    def __init__(
        self,
        directory: Path,
        watchdog: Watchdog,
        login: InboxLogin,
        port: int = 0,
        backup_port: int = 0,
        *,
        durable: bool = False,
    ) -> None:
        """See `Server`.

        Args:
            durable: fsync before every 250.
        """
        super().__init__(directory, watchdog, port)
        self.login = login
        self.backup_port = backup_port
        self.control = InboxControl(directory)
        self._durable = durable

    @property
    def certificate(self) -> Path:
        """What clients check the relays' certificate with."""
        return self.directory / CERTIFICATE_NAME

    def messages(self) -> list[StoredMessage]:
        """Read what it has accepted so far; also when it does not run."""
        return read_index(self.directory)

    def content(self, message: StoredMessage) -> bytes:
        """Read the bytes of a message as they were received."""
        return (self.directory / message.file).read_bytes()

    def prepare(self) -> None:
        """Remove the note of where an earlier one listened."""
        super().prepare()
        (self.directory / READY_NAME).unlink(missing_ok=True)

    def choose_port(self) -> None:
        """Choose both."""
        super().choose_port()
        while (
            not self.backup_port or self.backup_port == self.port or not can_bind(self.backup_port)
        ):
            self.backup_port = free_port()

    def command(self) -> Command:
        """`python -m dev.inbox`, passwords by environment."""
        argv = [sys.executable, '-m', 'dev.inbox', '--dir', str(self.directory)]
        argv += ['--primary-port', str(self.port), '--backup-port', str(self.backup_port)]
        argv += ['--user', self.login.user, '--backup-user', self.login.backup_user]
        argv += ['--durable'] if self._durable else []
        environment = {
            'INBOX_PASSWORD': self.login.password,
            'INBOX_BACKUP_PASSWORD': self.login.backup_password,
        }
        return Command(argv, cwd=PROJECT, environment=environment)

    def probe(self) -> None:
        """Ask over the control socket, so that its counts of connections start at zero."""
        ready = json.loads((self.directory / READY_NAME).read_text())
        if ready['pid'] != self.pid:
            raise ConnectionError('another inbox uses this directory')
        self.control.stats()
