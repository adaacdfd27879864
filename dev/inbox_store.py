"""What the inbox keeps: one .eml file a message and one JSON line a message in index.jsonl.

The line is in the file before the client reads 250, in one write, so the index is a truthful record
of what was accepted even when the inbox is killed with -9. `durable` adds fsync, for a machine that
loses power.
"""

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import HeaderParser
from pathlib import Path

INDEX_NAME = 'index.jsonl'
READY_NAME = 'inbox.json'
CERTIFICATE_NAME = 'certificate.pem'
KEY_NAME = 'key.pem'


@dataclass(frozen=True)
class StoredMessage:
    """One line of the index.

    Attributes:
        n: Counts from 1 over both relays.
        received_at: ISO 8601, UTC.
        mail_from: Envelope sender, empty for the null sender.
        message_id, subject: From the header, decoded; None when absent.
        auth: The user the client logged in as.
        file: Name of the .eml file next to the index.
        answered: False when the inbox closed the connection instead of answering 250.
    """

    n: int
    relay: str
    received_at: str
    mail_from: str
    rcpt_to: list[str]
    message_id: str | None
    subject: str | None
    size_bytes: int
    tls: bool
    auth: str | None
    file: str
    answered: bool


@dataclass(frozen=True)
class Delivery:
    """A message as the SMTP session hands it over.

    `content` is the bytes as received, dots unstuffed.
    """

    relay: str
    mail_from: str
    rcpt_to: list[str]
    content: bytes
    tls: bool
    auth: str | None
    answered: bool


class MessageStore:
    """Writes messages and their index."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        """Open the index, and go on counting where an earlier run stopped.

        Args:
            durable: fsync the message and the index before each answer.
        """
        self._directory = directory
        self._durable = durable
        directory.mkdir(parents=True, exist_ok=True)
        index = directory / INDEX_NAME
        index.touch()
        _cut_torn_line(index)
        self._index_fd = os.open(index, os.O_WRONLY | os.O_APPEND)
        # A file without a line was never answered with 250; its number is not used again.
        self._last_n = max((int(path.stem) for path in directory.glob('[0-9]*.eml')), default=0)

    def add(self, delivery: Delivery) -> StoredMessage:
        """Keep a message.

        There is no await in here, so a client that goes away cannot interrupt it.

        Raises:
            OSError: the disk is full or not writable; the message must not be answered with 250.
        """
        self._last_n += 1
        name = f'{self._last_n:06d}.eml'
        self._write_file(self._directory / name, delivery.content)
        message_id, subject = read_header(delivery.content)
        stored = StoredMessage(
            n=self._last_n,
            relay=delivery.relay,
            received_at=datetime.now(UTC).isoformat(),
            mail_from=delivery.mail_from,
            rcpt_to=delivery.rcpt_to,
            message_id=message_id,
            subject=subject,
            size_bytes=len(delivery.content),
            tls=delivery.tls,
            auth=delivery.auth,
            file=name,
            answered=delivery.answered,
        )
        os.write(self._index_fd, json.dumps(vars(stored)).encode() + b'\n')
        if self._durable:
            os.fsync(self._index_fd)
        return stored

    def _write_file(self, path: Path, content: bytes) -> None:
        with path.open('xb') as file:
            file.write(content)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())


def read_header(content: bytes) -> tuple[str | None, str | None]:
    """Read Message-ID and decoded Subject; None for what is absent or beyond reading."""
    head = content.partition(b'\r\n\r\n')[0].decode(
        'utf-8', errors='replace'
    )  # UTF-8 as SMTPUTF8 allows it
    message = HeaderParser().parsestr(head)
    message_id, subject = message['message-id'], message['subject']
    return (
        None if message_id is None else message_id.strip(),
        None if subject is None else _decoded(subject),
    )


def _decoded(value: str) -> str:
    unfolded = re.sub(r'\r?\n(?=[ \t])', '', value)
    try:
        return str(make_header(decode_header(unfolded)))
    except (
        ValueError,
        LookupError,
        HeaderParseError,
    ):  # an unknown charset, or bytes that are not in it
        return unfolded


def read_index(directory: Path) -> list[StoredMessage]:
    """Read what an inbox has accepted so far, in order.

    A line that is just being written is left out.
    """
    try:
        content = (directory / INDEX_NAME).read_bytes()
    except FileNotFoundError:
        return []
    return [
        StoredMessage(**json.loads(line))
        for line in content[: content.rfind(b'\n') + 1].splitlines()
    ]


def _cut_torn_line(index: Path) -> None:
    """Remove a last line without its end: the write was cut, so no 250 followed it."""
    content = index.read_bytes()
    if not content.endswith(b'\n'):
        os.truncate(index, content.rfind(b'\n') + 1)
