"""What strangers and broken clients send to the API: each gets a 4xx with a reason, none a 500."""

import asyncio
import re
import socket

import httpx
import pytest

from actions.tokens import new_token
from tests.conftest import DEADLINE_S
from tests.services.api_desk import open_desk
from tests.services.ops_desk import insert, ops, statuses
from tests.services.test_web_process import place_of, start_web

__all__ = ['start_web']  # a fixture

PROBLEM = 'application/problem+json'


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def client(desk):
    return await desk.client(await desk.token(), raise_app_exceptions=False)


def deep(levels):
    return b'{"filter":' + b'[' * levels + b']' * levels + b'}'


BODIES = {
    'empty': b'',
    'no JSON': b'{',
    'no text': b'\xff\xfe\x00',
    'deep': deep(20_000),
    'deep and closed': b'{"reason":' * 5000 + b'1' + b'}' * 5000,
    'number of many digits': b'{"status": "failed", "limit": ' + b'9' * 5000 + b'}',
    'infinite': b'{"status": "failed", "limit": Infinity}',
    'no number': b'{"status": "failed", "limit": NaN}',
    'exponent': b'{"status": "failed", "limit": 1e400}',
    'NUL': b'{"status": "failed", "reason": "a\\u0000b"}',
    'half a character': b'{"status": "failed", "reason": "\\ud800"}',
    'half a name': b'{"status": "failed", "\\ud800": 1}',
    'NUL in a name': b'{"status": "failed", "a\\u0000": 1}',
    'twice': b'{"status": "failed", "status": "gone"}',
    'a word': b'"failed"',
    'a list': b'[{"status": "failed"}]',
    'nothing': b'null',
    'unknown field': b'{"status": "failed", "filtre": {}}',
    'unknown condition': b'{"status": "failed", "filter": {"recipent": "x"}}',
    'wrong type': b'{"status": ["failed"]}',
    'a word for a truth': b'{"status": "failed", "dry_run": "yes"}',
    'text for a number': b'{"status": "failed", "limit": "10"}',
    'empty condition': b'{"status": "failed", "filter": {"recipient": ""}}',
    'long reason': b'{"status": "failed", "reason": "' + b'x' * 501 + b'"}',
    'large': b'{"status": "failed", "reason": "' + b'x' * 70_000 + b'"}',
}


@pytest.mark.parametrize('body', BODIES.values(), ids=BODIES)
async def test_body_that_makes_no_sense_changes_nothing_and_says_what_is_wrong(client, pool, body):
    email_id = await insert(pool, status='failed', attempts=5)
    answer = await client.post(
        '/api/emails/retry', content=body, headers={'Content-Type': 'application/json'}
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers['content-type'] == PROBLEM
    problem = answer.json()
    assert problem['status'] == answer.status_code
    assert problem['detail']
    assert problem['remedy']
    assert await statuses(pool) == {email_id: 'failed'}
    assert await pool.fetchval("SELECT count(*) FROM mail_audit WHERE action LIKE 'email%'") == 0


async def test_what_is_wrong_is_said_in_words_of_the_request(client):
    for body, status, told in (
        ({'content': b'{"a":'}, 400, 'the body is no JSON: Expecting value at character 5'),
        ({'json': {'status': 'failed', 'filtre': 1}}, 422, 'body.filtre: there is no such field'),
        ({'json': {}}, 422, 'body.status: it is missing'),
        (
            {'content': 'status=failed', 'headers': {}},
            422,
            'body: must be an object, sent with Content-Type: ',
        ),
        ({'json': {'status': 'gone'}}, 422, "body.status: Input should be 'failed', 'uncertain'"),
    ):
        more = {'headers': {'Content-Type': 'application/json'}} | body
        answer = await client.post('/api/emails/retry', **more)
        assert (answer.status_code, answer.json()['detail'][: len(told)]) == (status, told)


@pytest.mark.parametrize('content_type', [None, 'text/plain', 'multipart/form-data', 'x' * 300, ''])
async def test_body_that_is_not_called_json_is_refused(client, content_type):
    headers = {} if content_type is None else {'Content-Type': content_type}
    answer = await client.post(
        '/api/emails/retry', content=b'{"status": "failed"}', headers=headers
    )
    assert (answer.status_code, answer.headers['content-type']) == (422, PROBLEM)


async def test_body_without_a_length_is_cut_off_at_the_limit(client):
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(10_000):
            sent += 1024
            yield b' ' * 1024

    answer = await client.post('/api/emails/retry', content=endless())
    assert (answer.status_code, answer.headers['content-type']) == (413, PROBLEM)
    assert sent < 1_000_000


@pytest.mark.parametrize('token_wanted', [True, False])
async def test_body_that_does_not_come_is_not_waited_for(desk, monkeypatch, token_wanted):
    monkeypatch.setattr('web.api.application.BODY_WITHIN_S', 0.1)
    client = await desk.client(await desk.token() if token_wanted else None)
    never = asyncio.Event()

    async def body():
        yield b'{"status": '
        await never.wait()

    for method, path in (('POST', '/api/emails/retry'), ('PATCH', '/emails/1')):
        json = {'Content-Type': 'application/json'}
        answer = await client.request(method, path, content=body(), headers=json)
        if token_wanted or method == 'POST':
            assert answer.status_code == 408, answer.text
        else:
            assert answer.status_code == 401


@pytest.mark.parametrize(
    'path',
    [
        '/api/emails/' + '9' * 5000, '/api/emails/' + '9' * 19, '/api/emails/%E2%80%AE1',
        '/api/emails/1%00', '/api/emails/\u0661', '/api/emails/1/retry/2', '/api/nothing',
        '/api/emails/..%2F..%2Fmetrics', '/admin/', '/api/inspect/%00',
        '/api/emails?cursor=' + '9' * 19 + '&limit=' + '9' * 5000, '/api/emails?%00=1',
        '/api/emails?recipient=%ff%fe%00', '/api/emails?' + '&a=1' * 5000,
        '/api/emails?created_since=0001-01-01T00:00:00%2B23:59x',
    ],
    ids=range(15),
)  # fmt: skip
@pytest.mark.parametrize('method', ['GET', 'POST'])
async def test_odd_paths_are_refused(client, path, method):
    answer = await client.request(method, path)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers['content-type'] == PROBLEM


@pytest.mark.parametrize(
    'text', ['\u202e', '\x1b[2J', "'; DROP TABLE x", '_' * 200, '(' * 200, '[[:', '\\']
)
async def test_odd_text_is_only_text(client, pool, text):
    await insert(pool, recipient='anna@example.com')
    for name in ('recipient', 'email_type', 'tag', 'relay', 'error_like', 'message_id'):
        answer = await client.get('/api/emails', params={name: text})
        assert (answer.status_code, answer.json()['emails']) == (200, []), name
        body = {'status': 'pending', 'filter': {name: text}, 'reason': text}
        answer = await client.post('/api/emails/cancel', json=body)
        assert (answer.status_code, answer.json()['changed']) == (200, []), name


async def test_times_at_the_ends_of_the_calendar_are_taken(client):
    for time in ('0001-01-01T00:00:00+23:59', '9999-12-31T23:59:59.999999999-23:59'):
        answer = await client.get('/api/emails', params={'created_since': time})
        assert answer.status_code == 200, answer.text


async def test_row_that_anybody_may_have_written_is_shown(client, pool):
    email_id = await insert(
        pool,
        recipient='\u202eanna@example.com, <', subject='\x1b[2J', tags=[1, {'a': None}],
        headers=['no object'], status='failed', attempts=1, last_error='\x07' * 10,
        next_retry_at="sql:'infinity'", created_at="sql:'20260-01-01'",
    )  # fmt: skip
    for path in ('/api/emails', f'/api/emails/{email_id}'):
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        assert '\x1b' not in answer.text
    answer = await client.post(f'/api/emails/{email_id}/retry')
    assert answer.status_code == 202, answer.text


async def test_row_of_many_megabytes_is_shown_in_part_and_holds_nobody_up(client, pool):
    large = {str(n): 'x' * 100 for n in range(200_000)}
    hostile = '(' * 16_000 + '<"' * 8000
    ids = [
        await insert(
            pool, recipient=hostile, cc='y' * 3_000_000, subject='s' * 5_000_000,
            headers=large, tags=large, metadata=large, status='failed', attempts=1,
            last_error='e' * 5_000_000,
        )
        for _ in range(3)
    ]  # fmt: skip
    loop, held = asyncio.get_running_loop(), []

    async def watch():
        while True:
            began = loop.time()
            await asyncio.sleep(0.001)
            held.append(loop.time() - began)

    watching = asyncio.create_task(watch())
    for path in ('/api/emails', *(f'/api/emails/{email_id}' for email_id in ids)):
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text[:500]
        assert len(answer.content) < 1_000_000
    watching.cancel()
    assert answer.json()['email']['tags'].endswith(' bytes: too large to be shown')
    assert max(held) < 0.5  # 0.02 alone on the machine; seconds before


async def test_every_path_wants_a_token_before_it_looks_at_anything_else(desk):
    nobody = await desk.client()
    for path, operations in desk.app._app.openapi()['paths'].items():
        for method in operations:
            place = re.sub(r'\{\w+\}', '1', path.replace('{word}', 'active'))
            answer = await nobody.request(method, place)
            assert answer.status_code in {401, 429}, (method, path)


# A front server may end the first request elsewhere.
SMUGGLED = (
    'Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n',
    'Content-Length: 0\r\nContent-Length: 5\r\n\r\n',
    'Content-Length: +5\r\n\r\n{"a":',
    'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
    'Transfer-Encoding: chunked\r\n\r\n1\n{\n0\n\n',
    'X: a\r\n b\r\n\r\n',
    'X: a\rb\r\n\r\n',
    'X: a\nContent-Length: 5\r\n\r\n',
)


async def send(port, request):
    """Send bytes to the server, and return the head of its answer."""
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return (await reader.read(65536)).decode('latin-1')
    finally:
        writer.close()


async def test_real_server_refuses_what_is_large_or_malformed_and_goes_on(env, pool, start_web):
    token = (await ops(env, 'token', 'create', 'a', '--scope', 'operate', '--json')).document[
        'token'
    ]
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    port = int(place.rpartition(':')[2])
    line = 'POST /api/emails/retry HTTP/1.1\r\nHost: '
    head = f'{line}localhost\r\nAuthorization: Bearer {token}\r\n'
    json_head = f'{head}Content-Type: application/json\r\n'
    for request, status in (
        (f'{json_head}Content-Length: 99999999999\r\n\r\n'.encode(), 413),
        (f'{json_head}Content-Length: -1\r\n\r\n'.encode(), 400),
        (f'{json_head}Transfer-Encoding: chunked\r\n\r\nzz\r\n'.encode(), 400),
        (f'{head}X: {"x" * 2_000_000}\r\n\r\n'.encode(), 400),
        (f'{line}localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n'.encode('latin-1'), 401),
        (b'POST /api/emails/retry HTTP/1.1\r\nHost: evil.example\r\n\r\n', 421),
        (b'\x16\x03\x01\x00\x00', 400),
        *((f'{json_head}{more}'.encode(), 400) for more in SMUGGLED),
    ):
        assert (await send(port, request)).startswith(f'HTTP/1.1 {status} '), request[:200]
    # A body that never comes, and one that nobody waits for.
    slow = socket.create_connection(('127.0.0.1', port))
    slow.sendall(f'{json_head}Content-Length: 100\r\n\r\n{{'.encode())
    gone = socket.create_connection(('127.0.0.1', port))
    gone.sendall(f'{json_head}Content-Length: 20\r\n\r\n{{"status": "failed"}}'.encode())
    gone.close()
    async with httpx.AsyncClient(base_url=place, timeout=DEADLINE_S) as client:
        headers = {'Authorization': f'Bearer {token}'}
        answer = await client.post('/api/emails/retry', json={'status': 'failed'}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers['x-content-type-options'] == 'nosniff'
        assert answer.headers['cache-control'] == 'no-store'
        bad = {'Authorization': f'Bearer {new_token()}'}
        assert (await client.get('/api/emails', headers=bad)).status_code == 401
    slow.close()
    assert 'Traceback' not in web.log_path.read_text()
    assert token not in web.log_path.read_text()
