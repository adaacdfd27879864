"""Who takes a place and asks nothing loses it."""

import asyncio
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
async def port():
    config = uvicorn.Config(
        say_hello,
        http=PageConnection,
        timeout_keep_alive=0.05,
        lifespan='off',
        ws='none',
        log_config=None,
    )
    server = Server(config)
    with open_listener('127.0.0.1', 0) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await server.ready.wait()
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


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
