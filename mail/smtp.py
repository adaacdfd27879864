"""Kept SMTP connections to the relays, and which relay can be used now."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import aiosmtplib

from mail.outcome import Reply
from mail.session import Session, take_over

# Doubled with every failure in a row. Short, because a relay that restarts is back in seconds.
COOL_DOWN_BASE_S = 2.0
COOL_DOWN_MAX_S = 120.0
PROBE_WAIT_S = 1.0  # how long to leave a relay alone that somebody is trying right now
MAX_MESSAGES_PER_CONNECTION = 1000  # some relays count, and close the connection at an inconvenient moment


class Tls(StrEnum):
    """How a connection to a relay is protected."""

    NONE = 'none'
    STARTTLS = 'starttls'  # required: without it the connection fails
    IMPLICIT = 'implicit'


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Where a relay is and how to talk to it. Times in seconds."""

    name: str
    host: str
    port: int
    tls: Tls
    tls_context: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    local_hostname: str | None = None
    max_connections: int = 10
    idle_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    command_timeout_s: float = 60.0
    body_timeout_s: float = 180.0
    reply_timeout_s: float = 600.0


class RelayError(Exception):
    """No connection to the relay could be made."""

    counts = True

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


class RelayRefusedError(RelayError):
    """The relay wants nothing from us now: 421, or it does not accept our credentials."""

    counts = False


class Connection:
    """One connection to a relay, ready for MAIL."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.messages = 0
        self.idle_since = time.monotonic()
        self.reusable = False  # set by the transaction that left it in a known state

    @property
    def fresh(self) -> bool:
        """Whether this connection has carried no message yet."""
        return self.messages == 0

    @property
    def usable(self) -> bool:
        """Whether a transaction may begin on it."""
        return self.session.is_open and not self.session.has_unread

    def close(self) -> None:
        """Close in order when the connection is in a known state, at once otherwise."""
        if self.reusable and self.usable:
            self.session.close()
        else:
            self.session.abort()


class Relay:
    """A relay's connections and its health.

    After a failure the relay cools down. When that is over, one e-mail at a time tries it until one gets through, so
    that an outage costs one attempt per cool-down instead of one per waiting e-mail.
    """

    def __init__(self, options: RelayOptions) -> None:
        self.options = options
        self._slots = asyncio.Semaphore(options.max_connections)
        self._idle: list[Connection] = []
        self._failures = 0
        self._cool_until = 0.0
        self._probing = False
        self.last_error: str | None = None

    @property
    def name(self) -> str:
        """The relay's name in logs, attempts and health: primary or backup."""
        return self.options.name

    def unavailable_for_s(self) -> float:
        """Return 0 when the relay can be used now, else how long not to try it."""
        left = self._cool_until - time.monotonic()
        if left > 0:
            return left
        return PROBE_WAIT_S if self._probing else 0.0

    def cool_down(self, reason: str) -> None:
        """Leave the relay alone for a while, longer after each failure in a row."""
        self.last_error = reason
        if self._cool_until > time.monotonic():
            return  # one of many that the same outage failed
        self._failures += 1
        # 2**64 is far beyond the cap and still a float.
        pause_s = min(COOL_DOWN_MAX_S, COOL_DOWN_BASE_S * 2.0 ** min(self._failures - 1, 64))
        self._cool_until = time.monotonic() + pause_s
        self.close_idle(older_than_s=0)

    def recovered(self) -> None:
        """Note that the relay answered as it should."""
        self._failures = 0
        self.last_error = None

    @contextlib.asynccontextmanager
    async def connection(self, *, reuse: bool = True, urgent: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection; kept afterwards when the borrower marks it reusable, closed otherwise.

        Args:
            reuse: Whether a kept connection will do.
            urgent: Do not wait for one of max_connections to be free, open one more.

        Raises:
            RelayError: no connection; RelayRefusedError when the relay sends us away.
        """
        probe = self._failures > 0
        self._probing = self._probing or probe
        try:
            async with contextlib.nullcontext() if urgent else self._slots:
                connection = (self._take_idle() if reuse else None) or await self._connect()
                try:
                    yield connection
                finally:
                    self._give_back(connection)
        finally:
            if probe:
                self._probing = False

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reusable = False
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        connection.messages += 1
        if connection.reusable and connection.usable and connection.messages < MAX_MESSAGES_PER_CONNECTION:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> Connection:
        try:
            connection = await self._open()
        except RelayError:
            if _is_cancelled():
                raise asyncio.CancelledError from None
            raise
        if _is_cancelled():
            connection.session.abort()
            raise asyncio.CancelledError
        return connection

    async def _open(self) -> Connection:
        options = self.options
        client = aiosmtplib.SMTP(
            hostname=options.host,
            port=options.port,
            use_tls=options.tls is Tls.IMPLICIT,
            start_tls=options.tls is Tls.STARTTLS,
            tls_context=options.tls_context,
            local_hostname=options.local_hostname,
            timeout=options.connect_timeout_s,
        )
        taken_over = False
        try:
            await client.connect()
            await client.ehlo()
            await self._log_in(client)
            if client.transport is None:
                raise RelayError(f'{self.name} closed the connection')
            session = take_over(client.transport, client.esmtp_extensions)
            taken_over = True
        except aiosmtplib.SMTPResponseException as error:
            reply = Reply(error.code, error.message)
            if reply.code == 421:
                raise RelayRefusedError(f'{self.name} sends us away: {reply}', reply) from error
            raise RelayError(f'{self.name} refused the connection: {reply}', reply) from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise RelayError(f'{self.name} ({options.host}:{options.port}): {error}') from error
        finally:
            if not taken_over:
                client.close()
        return Connection(session)

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        """Log in by the first method both sides know; aiosmtplib's own login tries all, and loses a 421 on the way."""
        username, password = self.options.username, self.options.password or ''
        if username is None:
            return
        methods = {'cram-md5': client.auth_crammd5, 'plain': client.auth_plain, 'login': client.auth_login}
        offered = [methods[name] for name in client.supported_auth_methods if name in methods]
        if not offered:
            raise RelayRefusedError(f'{self.name} offers no AUTH that we know; SMTP_USER needs one')
        try:
            await offered[0](username, password)
        except aiosmtplib.SMTPAuthenticationError as error:
            reply = Reply(error.code, error.message)
            raise RelayRefusedError(
                f'{self.name} does not accept our user name and password: {reply}', reply
            ) from error

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections unused for longer than this, the relay's idle timeout by default."""
        limit_s = self.options.idle_timeout_s if older_than_s is None else older_than_s
        now = time.monotonic()
        stale = [c for c in self._idle if now - c.idle_since >= limit_s or not c.usable]
        self._idle = [c for c in self._idle if c not in stale]
        for connection in stale:
            connection.close()


class Relays:
    """All relays, in the order of preference."""

    def __init__(self, relays: Sequence[Relay]) -> None:
        self._relays = tuple(relays)

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    def available(self) -> list[Relay]:
        """Return the relays that can be used now, the preferred one first."""
        return [relay for relay in self._relays if relay.unavailable_for_s() == 0]

    def unavailable_for_s(self) -> float:
        """Return 0 when any relay can be used now, else how long none can."""
        return min(relay.unavailable_for_s() for relay in self._relays)

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections that nobody used for a while."""
        for relay in self._relays:
            relay.close_idle(older_than_s)


def _is_cancelled() -> bool:
    """Return whether this task was cancelled and does not know.

    Before Python 3.12 asyncio.wait_for, which aiosmtplib uses, swallows a cancellation that comes together with its
    result (python/cpython issue 86296).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
