"""Where the mailbox is that reports come to; what reads it takes longer to import."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MailboxPlace:
    """Where the mailbox is, and what becomes of reports there.

    Attributes:
        tls: 'implicit', 'starttls' or 'none'.
        token_file: With an access token for XOAUTH2, instead of a password.
        taken_folder: Where reports are moved to; None: they stay, as read.
    """

    host: str
    port: int
    tls: str
    user: str
    folder: str
    password: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    taken_folder: str | None = None
    ca_file: Path | None = None

    def __str__(self) -> str:
        return f'{self.user} at {self.host}:{self.port}, {self.folder}'
