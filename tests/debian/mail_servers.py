"""Debian's Exim, OpenSMTPD and Postfix, set up alike: what is common to them.

Each has ports with rules of their own, takes mail for example.com into maildirs, refuses what the
tests of `test_mail_servers.py` name, and sends mail for other domains to a server that refuses it,
so that it has reports to write, which the ingress takes.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.inbox_certificate import server_tls_context
from dev.inbox_store import CERTIFICATE_NAME, KEY_NAME
from dev.ports import free_port

# plain: no TLS, no login. tls: only after STARTTLS. login: only after STARTTLS and a login.
# ascii: without SMTPUTF8. few: two messages a connection (OpenSMTPD: 20), or a minute (Postfix).
PORTS = ('plain', 'tls', 'login', 'ascii', 'few')
USER, PASSWORD = 'shop', 'correct-horse'
SIZE_LIMIT_BYTES = 200_000
MAILBOXES = ('anna', 'bob', 'carl', 'jürgen')
REPORTS = 'reports.example'  # whose MX is the ingress
BY_LMTP = 'lmtp.example'  # delivered to it by LMTP


@dataclass(frozen=True)
class MailServer:
    """A running one.

    Attributes:
        mail: The folder with a maildir for each local part.
        certificate: What it shows after STARTTLS, its own authority.
        log: Its log file.
    """

    name: str
    ports: Mapping[str, int]
    mail: Path
    certificate: Path
    log: Path

    def messages(self, mailbox: str) -> list[bytes]:
        """Return what was delivered, the first first."""
        files = (self.mail / mailbox / 'new').glob('*')
        return [path.read_bytes() for path in sorted(files, key=_delivered_at)]


def _delivered_at(path: Path) -> int:
    return path.stat().st_mtime_ns


@dataclass(frozen=True)
class Outside:
    """Ports of those whom a server sends to: who refuses everything, and the ingress."""

    refusing: int
    ingress: int
    lmtp: int


def free_ports(*names: str) -> dict[str, int]:
    """Return a port for each name, no two the same."""
    ports: dict[str, int] = {}
    for name in names:
        while (port := free_port()) in ports.values():
            pass
        ports[name] = port
    return ports


def tls_files(directory: Path, owner: int | str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, and its key for an account."""
    directory.mkdir()
    server_tls_context(directory)
    shutil.chown(directory / KEY_NAME, owner)
    return directory / CERTIFICATE_NAME, directory / KEY_NAME
