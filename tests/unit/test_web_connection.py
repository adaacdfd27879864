"""Who takes a place and asks nothing loses it."""

import asyncio

import pytest
import uvicorn

from tests.conftest import DEADLINE_S
from web.__main__ import Connection, Server, listen

WHOLE = b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'


async def say_hello(_scope, _receive, send):
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'5')]})
    await send({'type': 'http.response.body', 'body': b'hello'})


@pytest.fixture
async def port():
    config = uvicorn.Config(
        say_hello, http=Connection, timeout_keep_alive=0.05, lifespan='off', ws='none', log_config=None
    )
    server = Server(config)
    with listen('127.0.0.1', 0) as listener:
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
