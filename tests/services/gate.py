"""A way to a server that can be closed, or lead nowhere, without stopping a server that other tests
use.
"""

import asyncio
import contextlib
from enum import Enum
from urllib.parse import urlsplit, urlunsplit


class Way(Enum):
    OPEN = 1
    AWAY = 2  # every connection ends at once
    SILENT = 3  # connections stay, and nothing comes: a frozen server


class Gate:
    """Forwards TCP connections from a port of ours."""

    def __init__(self, url):
        place = urlsplit(url)
        self._host, self._port = place.hostname, place.port
        self._credentials = place.netloc.rpartition('@')[0]
        self._place = place
        self.way = Way.OPEN
        self._writers = set()
        self._server = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, '127.0.0.1', 0)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self._cut()

    @property
    def url(self):
        port = self._server.sockets[0].getsockname()[1]
        credentials = f'{self._credentials}@' if self._credentials else ''
        return urlunsplit(self._place._replace(netloc=f'{credentials}127.0.0.1:{port}'))

    def turn(self, way):
        """What is connected when the server goes away is cut; when it freezes, it stays."""
        self.way = way
        if way is Way.AWAY:
            self._cut()

    def lead_to(self, host, port):
        """Lead elsewhere from now on, as a name that moves: connections that are open stay."""
        self._host, self._port = host, port

    def _cut(self):
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader, writer):
        if self.way is Way.AWAY:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._forward(reader, back), self._forward(there, writer))
        finally:
            self._writers -= {writer, back}
            writer.close()
            back.close()

    async def _forward(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.way is Way.OPEN:
                    writer.write(data)
        writer.transport.abort()
