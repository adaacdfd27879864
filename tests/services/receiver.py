"""A receiver of webhooks: it verifies with the library and answers as the test says."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest
from standardwebhooks import Webhook

SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'


def answer(status, body=b'', *headers):
    lines = [f'HTTP/1.1 {status} Answer', f'Content-Length: {len(body)}', *headers]
    return '\r\n'.join(lines).encode() + b'\r\n\r\n' + body


@dataclass
class Receiver:
    """What came, verified; what is answered: bytes, None to hang, or a function of the event."""

    port: int = 0
    answers: object = OK
    secret: str = SECRET
    events: list = field(default_factory=list)  # (webhook-id, payload), of every try
    paths: list = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    server: object = None

    @property
    def url(self):
        return f'http://127.0.0.1:{self.port}/hook'

    async def start(self):
        self.server = await asyncio.start_server(self._serve, '127.0.0.1', self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self):
        self.server.close()

    async def _serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b'\r\n\r\n'):
                await self._request(head, reader, writer)
        writer.close()

    async def _request(self, head, reader, writer):
        request, *lines = head.decode().split('\r\n')
        headers = dict(line.lower().split(': ', 1) for line in lines if line)
        cased = dict(line.split(': ', 1) for line in lines if line)
        signed = {name: value for name, value in cased.items() if name.startswith('webhook-')}
        body = await reader.readexactly(int(headers['content-length']))
        payload = Webhook(self.secret).verify(body, signed)
        self.paths.append(request.split()[1])
        self.events.append((signed['webhook-id'], payload))
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            said = self.answers(payload) if callable(self.answers) else self.answers
            if asyncio.iscoroutine(said):
                said = await said
            if said is None:
                await asyncio.sleep(3600)
            if not said:
                raise ConnectionResetError
            writer.write(said)
            await writer.drain()
        finally:
            self.open_now -= 1


@pytest.fixture
async def receiver():
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()
