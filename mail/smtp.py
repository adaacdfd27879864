"""Kept SMTP connections to the relays, and which relay can be used now."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import aiosmtplib

from mail.outcome import Reply

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
    password: str | None = None
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


class RelayRefusedError(RelayError):
    """The relay wants nothing from us now: 421, or it does not accept our credentials."""

    counts = False

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


class Connection:
    """One connection to a relay, ready for MAIL."""

    def __init__(self, client: aiosmtplib.SMTP) -> None:
        self.client = client
        self.messages = 0
        self.idle_since = time.monotonic()
        self.reusable = False  # set by the transaction that left it in a known state

    @property
    def fresh(self) -> bool:
        """Whether this connection has carried no message yet."""
        return self.messages == 0

    def close(self) -> None:
        """Close without QUIT: nothing is owed to the relay, and waiting for its 221 would cost time."""
        self.client.close()


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
        self._failures += 1
        # 2**64 is far beyond the cap and still a float.
        pause_s = min(COOL_DOWN_MAX_S, COOL_DOWN_BASE_S * 2.0 ** min(self._failures - 1, 64))
        self._cool_until = time.monotonic() + pause_s
        self.last_error = reason
        self.close_idle(older_than_s=0)

    def recovered(self) -> None:
        """Note that the relay answered as it should."""
        self._failures = 0
        self.last_error = None

    @contextlib.asynccontextmanager
    async def connection(self, *, reuse: bool = True) -> AsyncIterator[Connection]:
        """Lend a connection; kept afterwards when the borrower marks it reusable, closed otherwise.

        Raises:
            RelayError: no connection; RelayRefusedError when the relay sends us away.
        """
        probe = self._failures > 0
        self._probing = self._probing or probe
        try:
            async with self._slots:
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
            if connection.client.is_connected:
                connection.reusable = False
                return connection
        return None

    def _give_back(self, connection: Connection) -> None:
        connection.messages += 1
        usable = connection.reusable and connection.client.is_connected
        if usable and connection.messages < MAX_MESSAGES_PER_CONNECTION:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self) -> Connection:
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
        try:
            await client.connect()
            await client.ehlo()
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            reply = Reply(error.code, error.message)
            if reply.code == 421:
                raise RelayRefusedError(f'{self.name} sends us away: {reply}', reply) from error
            raise RelayError(f'{self.name} refused the connection: {reply}') from error
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise RelayError(f'{self.name} ({options.host}:{options.port}): {error}') from error
        except BaseException:
            client.close()
            raise
        await self._log_in(client)
        return Connection(client)

    async def _log_in(self, client: aiosmtplib.SMTP) -> None:
        if self.options.username is None:
            return
        try:
            await client.login(self.options.username, self.options.password or '')
        except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError, OSError) as error:
            client.close()
            raise RelayError(f'{self.name} went away during AUTH: {error}') from error
        except aiosmtplib.SMTPException as error:
            client.close()
            reply = Reply(error.code, error.message) if isinstance(error, aiosmtplib.SMTPResponseException) else None
            raise RelayRefusedError(
                f'{self.name} does not accept our user name and password: {reply or error}', reply
            ) from error
        except BaseException:
            client.close()
            raise

    def close_idle(self, older_than_s: float | None = None) -> None:
        """Close connections unused for longer than this, the relay's idle timeout by default."""
        limit_s = self.options.idle_timeout_s if older_than_s is None else older_than_s
        now = time.monotonic()
        stale = [c for c in self._idle if now - c.idle_since >= limit_s or not c.client.is_connected]
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
