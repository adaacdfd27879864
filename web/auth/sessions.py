"""The sessions that are open, as a web server knows them."""

import secrets
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

from db.desk_sessions import (
    DeskSession,
    NamedPerson,
    close_session,
    confirm_session,
    find_session,
    open_session,
)
from reporting.problems import ProblemError
from reporting.servers import Servers

SESSION_S = 12 * 3600  # a long shift
# A session that was ended elsewhere, or whose token was revoked, is refused after FRESH_S at the
# latest; while PostgreSQL does not answer, after STALE_S.
FRESH_S, STALE_S = 2.0, 60.0
MOST_KNOWN = 2000


def new_secret() -> str:
    """Return what a cookie holds: 256 random bits."""
    return secrets.token_urlsafe(32)


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


class KnownSessions:
    """Sessions by what their cookies hold; a page that reloads costs no statement each time."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known: OrderedDict[bytes, tuple[float, DeskSession | None]] = OrderedDict()

    async def find(self, secret: str) -> DeskSession | None:
        """Return the session, if it is open.

        Raises:
            ProblemError: PostgreSQL does not answer, and has not for STALE_S.
        """
        digest, now = _digest(secret), time.monotonic()
        read_at, session = self._known.get(digest, (-STALE_S, None))
        if now - read_at > FRESH_S:
            try:
                session = await self._servers.ask_postgres(
                    partial(find_session, session_hash=digest)
                )
            except ProblemError:
                if now - read_at > STALE_S:
                    raise
            else:
                self._remember(digest, now, session)
        if session is not None and session.expires_at <= datetime.now(UTC):
            return None
        return session

    async def open(self, of: int | NamedPerson, origin: str) -> str:
        """Open a session. Returns what the cookie is to hold.

        Args:
            of: A token's id, or a person.
        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        secret = new_secret()
        opening = partial(
            open_session, session_hash=_digest(secret), of=of, origin=origin,
            lasts=timedelta(seconds=SESSION_S),
        )  # fmt: skip
        await self._servers.ask_postgres(opening)
        return secret

    async def confirm(self, secret: str) -> None:
        """Note that the person of a session has shown again who it is.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        digest = _digest(secret)
        await self._servers.ask_postgres(partial(confirm_session, session_hash=digest))
        self._known.pop(digest, None)

    async def close(self, secret: str) -> None:
        """End a session.

        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        digest = _digest(secret)
        await self._servers.ask_postgres(partial(close_session, session_hash=digest))
        self._known.pop(digest, None)

    def _remember(self, digest: bytes, now: float, session: DeskSession | None) -> None:
        self._known[digest] = (now, session)
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
