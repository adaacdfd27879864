"""A mailbox that reports come to, by IMAP (RFC 3501).

All of it blocks: for a thread. Only `close` may be called beside another call, which then fails.
"""

import contextlib
import imaplib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

from mail.bounce.mailbox_place import MailboxPlace
from mail.bounce.mime import MOST_BYTES
from mail.bounce.report import single_line

CONNECT_S, SILENCE_S = 10.0, 20.0
SEARCHED_AT_ONCE = 20_000  # their numbers are one line, which Python's library bounds
NO_REPORT = b'$NoReport'  # a keyword of ours (RFC 3501, 2.3.2) on what is left for people


class MailboxError(Exception):
    """The mailbox cannot be read: what it said, and what to do."""


class ReportMailbox:
    """A connection to a mailbox.

    Every method but close raises MailboxError: the server is away, slow, refuses us, or talks what
    nobody understands.
    """

    def __init__(self, place: MailboxPlace) -> None:
        self._place = place
        self._client: Any = None
        self._keeps_keywords = False
        self._count = 0  # of messages there
        self._is_closed = False

    def open(self) -> None:
        """Log in, and select the folder."""
        with self._told():
            self._connect()
            self._log_in()
            self._select()

    def waiting(self, most: int) -> list[int]:
        """Return the ids of messages that nobody has read, the first first."""
        criteria = ['UNSEEN', 'UNDELETED']
        if self._keeps_keywords:
            criteria += ['UNKEYWORD', NO_REPORT.decode()]
        found: list[int] = []
        with self._told():
            for first in range(1, self._count + 1, SEARCHED_AT_ONCE):
                last = min(first + SEARCHED_AT_ONCE - 1, self._count)
                found += self._client.search([f'{first}:{last}', *criteria])
                if len(found) >= most:
                    break
        return sorted(found)[:most]

    def read(self, uid: int) -> bytes | None:
        """Return the beginning of a message; None when it is gone. It stays unread.

        One that the server itself cannot read is empty, so that those behind it are read.
        """
        with self._told():
            try:
                answer = self._client.fetch([uid], [f'BODY.PEEK[]<0.{MOST_BYTES}>'])
            except imaplib.IMAP4.error as error:
                if type(error) is not imaplib.IMAP4.error:  # the connection is lost, not a NO
                    raise
                return b''
        for name, value in answer.get(uid, {}).items():
            if name.startswith(b'BODY[]') and isinstance(value, bytes):
                return value
        return None

    def settle(self, taken: Sequence[int], left: Sequence[int]) -> None:
        """Mark what was read, or move it: reports that are stored, and what is none."""
        with self._told():
            if left:
                self._client.add_flags(left, NO_REPORT if self._keeps_keywords else b'\\Seen')
            if taken:
                self._client.add_flags(taken, b'\\Seen')
                if self._place.taken_folder is not None:
                    self._move(taken, self._place.taken_folder)

    def close(self) -> None:
        """End the connection, also under a call that waits for the server."""
        self._is_closed = True
        if self._client is not None:
            with contextlib.suppress(OSError, AttributeError):
                self._client.socket().shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError, AttributeError):
                self._client.shutdown()

    def _connect(self) -> None:
        from imapclient import IMAPClient, SocketTimeout  # noqa: PLC0415 - few have a mailbox

        place = self._place
        context = ssl.create_default_context(cafile=place.ca_file)
        self._client = IMAPClient(
            place.host,
            place.port,
            ssl=place.tls == 'implicit',
            ssl_context=context,
            timeout=SocketTimeout(CONNECT_S, SILENCE_S),
        )
        if self._is_closed:  # meanwhile
            self.close()
        if place.tls == 'starttls':
            self._client.starttls(context)

    def _log_in(self) -> None:
        from imapclient.exceptions import LoginError  # noqa: PLC0415

        place, client = self._place, self._client
        password = place.password or ''
        try:
            if place.token_file is not None:
                client.oauth2_login(place.user, place.token_file.read_text().strip())
            elif password.isascii() and place.user.isascii():
                client.login(place.user, password)
            else:  # LOGIN knows no other characters
                client.plain_login(place.user, password)
        except LoginError as error:
            what = 'BOUNCE_IMAP_TOKEN_FILE' if place.token_file else 'BOUNCE_IMAP_PASSWORD'
            raise MailboxError(
                f'{place}: the login is refused: {_said(error)}; see {what}'
            ) from error

    def _select(self) -> None:
        place, client = self._place, self._client
        selected = client.select_folder(place.folder)
        if b'READ-WRITE' not in selected:
            raise MailboxError(f'{place}: it can only be read, and reports must be marked there')
        self._count = int(selected[b'EXISTS'])
        flags = {flag.lower() for flag in selected.get(b'PERMANENTFLAGS', ())}
        self._keeps_keywords = b'\\*' in flags or NO_REPORT.lower() in flags

    def _move(self, uids: Sequence[int], folder: str) -> None:
        client = self._client
        if not client.folder_exists(folder):
            client.create_folder(folder)
        if client.has_capability('MOVE'):  # RFC 6851
            client.move(uids, folder)
            return
        client.copy(uids, folder)
        client.add_flags(uids, b'\\Deleted')
        if client.has_capability('UIDPLUS'):  # RFC 4315; a bare EXPUNGE takes others' as well
            client.uid_expunge(uids)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Have everything that a server can do to us end in one error."""
        try:
            yield
        except MailboxError:
            raise
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise MailboxError(f'{self._place}: {_said(error) or type(error).__name__}') from error
        except Exception as error:  # imaplib's are no OSError and have no common ancestor but this
            if type(error).__module__.partition('.')[0] not in ('imaplib', 'imapclient'):
                raise
            raise MailboxError(f'{self._place}: {_said(error)}') from error


def _said(error: Exception) -> str:
    return single_line(str(error), 300)
