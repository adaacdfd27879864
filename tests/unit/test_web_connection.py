"""Who takes a place and asks nothing loses it."""

import asyncio
import contextlib
import errno

import pytest
import structlog
import uvicorn

from tests.conftest import DEADLINE_S
from web.__main__ import Server, open_listener
from web.connection import PageConnection, most_open, quieten

WHOLE = b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'


async def say_hello(_scope, _receive, send):
    await send(
        {'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'5')]}
    )
    await send({'type': 'http.response.body', 'body': b'hello'})


@pytest.fixture
async def open_port():
    """Serve an application; returns the port."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_port(app, **more):
            config = uvicorn.Config(
                app, http=PageConnection, lifespan='off', ws='none', log_config=None, **more
            )
            server = Server(config)
            listener = stack.enter_context(open_listener('127.0.0.1', 0))
            serving = asyncio.create_task(server.serve([listener]))

            async def end():
                server.should_exit = server.force_exit = True
                await serving

            stack.push_async_callback(end)
            await server.ready.wait()
            return listener.getsockname()[1]

        yield open_port


@pytest.fixture
async def port(open_port):
    return await open_port(say_hello, timeout_keep_alive=0.05)


@pytest.mark.parametrize('said', [b'', WHOLE[:9], WHOLE, WHOLE + WHOLE[:9]])
async def test_connection_that_asks_nothing_or_half_of_it_is_ended(port, said):
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(said)
    async with asyncio.timeout(DEADLINE_S):  # which passes when the server does not hang up
        await reader.read()
    assert reader.at_eof()
    writer.close()


def test_missing_descriptors_are_told_once_a_minute_and_other_errors_as_ever():
    loop = asyncio.new_event_loop()
    others = []
    loop.default_exception_handler = others.append
    quieten(loop)
    with structlog.testing.capture_logs() as told:
        for _ in range(3000):
            loop.call_exception_handler(
                {'message': 'accept', 'exception': OSError(errno.EMFILE, 'too many open files')}
            )
        loop.call_exception_handler({'message': 'other', 'exception': KeyError('x')})
        loop.call_exception_handler({'message': 'without an exception'})
    loop.close()
    assert [line['event'] for line in told] == ['web.connections_refused']
    assert [context['message'] for context in others] == ['other', 'without an exception']


@pytest.mark.parametrize(('allowed', 'most'), [(512, 400), (1_000_000, 1000), (128, 16), (64, 4)])
def test_there_are_fewer_connections_than_descriptors(monkeypatch, allowed, most):
    monkeypatch.setattr('web.connection.resource.getrlimit', lambda _: (allowed, allowed))
    assert most_open() == most


async def echo(_scope, receive, send):
    """Answer the body."""
    body, more = b'', True
    while more:
        message = await receive()
        body, more = body + message.get('body', b''), message.get('more_body', False)
    length = str(len(body)).encode()
    await send(
        {'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', length)]}
    )
    await send({'type': 'http.response.body', 'body': body})


OFFER = (
    b'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n'
)
OFFERING = b'POST / HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: 5\r\n\r\nhello' % OFFER


@pytest.mark.parametrize('piece_bytes', [1, 100, 100_000])
async def test_request_that_offers_another_protocol_is_answered_with_its_body(
    open_port, piece_bytes
):
    port = await open_port(echo)
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    requests = OFFERING * 3
    for start in range(0, len(requests), piece_bytes):
        writer.write(requests[start : start + piece_bytes])
        await writer.drain()
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(3):
            assert (await reader.readuntil(b'\r\n\r\n')).startswith(b'HTTP/1.1 200 ')
            assert await reader.readexactly(5) == b'hello'
    writer.close()


@pytest.mark.parametrize(
    'request_bytes',
    [
        b'CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n',
        b'CONNECT / HTTP/1.1\r\nHost: localhost\r\n%b\r\n' % OFFER,
        OFFERING.replace(b'Content-Length', b'Transfer-Encoding: chunked\r\nContent-Length'),
    ],
)
async def test_offer_with_what_makes_no_sense_is_refused(open_port, request_bytes):
    port = await open_port(echo)
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    writer.write(request_bytes)
    async with asyncio.timeout(DEADLINE_S):
        assert (await reader.read()).startswith(b'HTTP/1.1 400 ')
    writer.close()


async def test_who_reads_no_answers_loses_his_connection_when_they_grow_too_large(
    open_port, monkeypatch
):
    size_bytes = 16 * 1024 * 1024  # more than the kernel's buffers take

    async def say_much(_scope, _receive, send):
        length = str(size_bytes).encode()
        await send(
            {'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', length)]}
        )
        await send({'type': 'http.response.body', 'body': bytes(size_bytes)})

    monkeypatch.setattr('web.connection.MOST_UNREAD_BYTES', 2.5 * size_bytes)
    port = await open_port(say_much)
    clients = []
    for _ in range(4):
        reader, writer = await asyncio.open_connection('127.0.0.1', port, limit=1024)
        writer.write(WHOLE)
        async with asyncio.timeout(DEADLINE_S):
            await reader.readuntil(b'\r\n')  # and no more
        clients.append((reader, writer))
    reader, writer = clients[-1]
    async with asyncio.timeout(DEADLINE_S):
        await reader.readuntil(b'\r\n\r\n')
        await reader.readexactly(size_bytes)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await clients[0][0].readexactly(size_bytes)
    for _, writer in clients:
        writer.close()
