"""The ports, and the connections that are open at them."""

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path

import structlog

from ingress.door import Door
from ingress.lmtp import LmtpSession
from ingress.session import GOODBYE, LINGER_S, IngressSession

log = structlog.get_logger()

WAITING = 512  # clients that the kernel keeps until they are accepted
SAY_FULL_EVERY_S = 60.0
FULL = b'421 4.3.2 too many connections: try again later\r\n'


class TurnedAway(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so, and hang up."""
        transport.write(FULL)  # type: ignore[attr-defined] # uvloop's is no WriteTransport
        transport.close()
        asyncio.get_running_loop().call_later(LINGER_S, transport.abort)  # type: ignore[attr-defined]


class Listener:
    """Accepts connections up to the limit."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._sessions: set[IngressSession] = set()
        self._nobody = asyncio.Event()  # is connected
        self._nobody.set()
        self._servers: list[asyncio.Server] = []
        self._socket: Path | None = None  # for LMTP
        self._said_full_at = -SAY_FULL_EVERY_S

    @property
    def open_sessions(self) -> int:
        """How many clients are connected, those that were turned away not counted."""
        return len(self._sessions)

    async def open(self, host: str, port: int) -> int:
        """Listen. Returns the port.

        Raises:
            SystemExit: somebody else does, or there is no such address here.
        """
        try:
            server = await asyncio.get_running_loop().create_server(
                partial(self._accept, IngressSession), host, port, backlog=WAITING
            )
        except OSError as error:
            raise SystemExit(
                f'ingress: cannot listen on {host}:{port}: {error}. '
                'Change INGRESS_HOST or INGRESS_PORT'
            ) from error
        self._servers.append(server)
        number: int = server.sockets[0].getsockname()[1]
        return number

    async def open_lmtp(self, place: str) -> None:
        """Listen for LMTP as well.

        Args:
            place: HOST:PORT, or the path of a Unix socket, which is made for everybody here.
        Raises:
            SystemExit: somebody else listens there, or nobody can.
        """
        loop, accept = asyncio.get_running_loop(), partial(self._accept, LmtpSession)
        host, _, port = place.rpartition(':')
        try:
            if place.startswith('/'):
                self._servers.append(await loop.create_unix_server(accept, place, backlog=WAITING))
                self._socket = Path(place)
                self._socket.chmod(0o666)  # who may connect, the directory says
            else:
                host = host.removeprefix('[').removesuffix(']')
                self._servers.append(
                    await loop.create_server(accept, host, int(port), backlog=WAITING)
                )
        except OSError as error:
            raise SystemExit(
                f'ingress: cannot listen on INGRESS_LMTP={place}: {error.strerror or error}'
            ) from error

    async def close(self, finish_s: float) -> None:
        """Accept nobody any more; let messages that are being received finish."""
        self._door.is_closing = True
        for server in self._servers:
            server.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        for session in [*self._sessions]:
            if not session.is_receiving:
                session.turn_away(GOODBYE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(finish_s):
                await self._nobody.wait()
        for session in [*self._sessions]:
            session.turn_away(GOODBYE)

    def _accept(self, kind: type[IngressSession]) -> asyncio.Protocol:
        if len(self._sessions) >= self._door.rules.max_connections:
            self._door.tally.note_refused(FULL.decode())
            if time.monotonic() - self._said_full_at >= SAY_FULL_EVERY_S:
                self._said_full_at = time.monotonic()
                log.warning('ingress.connections_refused', open=len(self._sessions))
            return TurnedAway()
        session = kind(self._door, self._forget)
        self._sessions.add(session)
        self._nobody.clear()
        return session

    def _forget(self, session: IngressSession) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._nobody.set()
