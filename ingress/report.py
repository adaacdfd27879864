"""What the ingress tells of itself: its record in the registry, for status, metrics and alerts."""

import asyncio
import socket
from typing import Any

from arq.connections import ArqRedis

from db.identity import read_identity
from fleet.ingresses import INGRESSES
from fleet.registrar import Registrar, keep_registered
from ingress.door import Door
from ingress.listener import Listener
from reporting.problems import ProblemError
from reporting.servers import Servers

ASK_AGAIN_S = 5.0


class IngressReport:
    """Keeps the record of one ingress; mail is taken with or without it."""

    def __init__(self, door: Door, listener: Listener, place: str, version: str) -> None:
        self._door, self._listener = door, listener
        self._place, self._version = place, version
        self._database = ''  # until PostgreSQL has told
        self._name = f'{socket.gethostname()}:{place.rpartition(":")[2]}'

    async def keep(self, redis: ArqRedis, servers: Servers) -> None:
        """Keep the record until cancelled, then remove it."""
        asking = asyncio.create_task(self._learn_database(servers))
        try:
            await keep_registered(redis, Registrar(self._name, self.describe, INGRESSES))
        finally:
            asking.cancel()

    def describe(self) -> dict[str, Any]:
        """Return what Registrar does not know, see fleet.ingresses.IngressRecord."""
        door, certificate = self._door, self._door.rules.certificate
        return {
            'version': self._version,
            'database': self._database,
            'place': self._place,
            'outcomes': dict(door.tally.outcomes),
            'accepted_bytes': door.tally.accepted_bytes,
            'held_bytes': door.held.bytes,
            'connections': self._listener.open_sessions,
            'max_connections': door.rules.max_connections,
            'reply_s': door.tally.waits_s(),
            'certificate_expires_at': 0.0 if certificate is None else certificate.expires_at,
        }

    async def _learn_database(self, servers: Servers) -> None:
        while not self._database:
            try:
                self._database = await servers.ask_postgres(read_identity)
            except ProblemError:
                await asyncio.sleep(ASK_AGAIN_S)
