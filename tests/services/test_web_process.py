"""`python -m web` as its user starts it."""

import asyncio
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import DEADLINE_S, ROOT, wait_until
from tests.services.gate import Gate, Way
from tests.services.ops_desk import closed_port, ops
from tests.services.test_ops_status import register
from web.api.servers import DEADLINE_S as API_DEADLINE_S


class WebProcess:
    def __init__(self, env, directory, words=('-m', 'web')):
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(directory / 'notify'))
        self.notified.settimeout(DEADLINE_S)
        self.log_path = directory / 'web.log'
        with self.log_path.open('wb') as log:
            env = env | {'NOTIFY_SOCKET': self.notified.getsockname(), 'WATCHDOG_USEC': '300000'}
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=env, stdout=log, stderr=log
            )

    async def hears(self, words):
        """Wait until systemd is told these words."""
        while words not in (told := (await asyncio.to_thread(self.notified.recv, 4096)).decode()):
            pass
        return told

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.notified.close()


@pytest.fixture
def start_web(env, tmp_path_factory):
    started = []

    def start(**variables):
        started.append(WebProcess(env | variables, tmp_path_factory.mktemp('web')))
        return started[-1]

    yield start
    for web in started:
        web.stop()


def place_of(told):
    """Where it says it listens."""
    return told.partition('STATUS=Serving ')[2]


async def test_page_starts_while_everything_is_away_serves_and_ends_with_0_on_sigterm(start_web):
    nobody = closed_port()
    web = start_web(WEB_PORT='0', DATABASE_URL=f'postgresql://x:geheim@127.0.0.1:{nobody}/x',
                    ARQ_REDIS_URL=f'redis://:geheim@127.0.0.1:{nobody}/1')  # fmt: skip
    place = place_of(await web.hears('READY=1'))
    assert place.startswith('http://127.0.0.1:')
    async with httpx.AsyncClient(base_url=place, timeout=DEADLINE_S) as client:
        assert 'email_source_up{source="redis"} 0.0' in (await client.get('/metrics')).text
        got, head = await client.get('/'), await client.head('/')
        assert (got.status_code, head.status_code, head.content) == (200, 200, b'')
        assert (
            head.headers['content-type']
            == got.headers['content-type']
            == 'text/html; charset=utf-8'
        )
        assert 'server' not in got.headers
        assert (await client.get('/health/ready')).status_code == 503
        await web.hears('WATCHDOG=1')
        web.process.send_signal(signal.SIGTERM)  # with a connection that is kept open
        assert 'Finishing what is asked' in await web.hears('STOPPING=1')
        assert await asyncio.to_thread(web.process.wait, DEADLINE_S) == 0
    log = web.log_path.read_text()
    assert 'web.started' in log
    assert 'web.stopped' in log
    assert 'geheim' not in log
    assert 'Traceback' not in log


async def test_open_page_ends_in_order_when_the_stop_comes(start_web):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    async with (
        httpx.AsyncClient(base_url=place, timeout=DEADLINE_S) as client,
        client.stream('GET', '/live') as page,
    ):
        told = page.aiter_lines()
        while not (await anext(told)).startswith('data: <div'):
            pass
        web.process.send_signal(signal.SIGTERM)
        async for _ in told:  # to its end: the browser asks again by itself
            pass
        assert await asyncio.to_thread(web.process.wait, DEADLINE_S) == 0
    assert 'Traceback' not in web.log_path.read_text()


async def test_page_with_a_token_shows_a_worker_to_who_has_it(start_web, redis, tmp_path):
    await register(redis)
    (tmp_path / 'token').write_text('a token of sixteen\n')
    web = start_web(WEB_PORT='0', WEB_HOST='0.0.0.0', WEB_TOKEN_FILE=str(tmp_path / 'token'))
    place = place_of(await web.hears('READY=1')).replace('0.0.0.0', '127.0.0.1')
    async with httpx.AsyncClient(base_url=place, timeout=DEADLINE_S) as client:
        assert (await client.get('/metrics')).status_code == 401

        async def shown():
            answer = await client.get(
                '/metrics', headers={'Authorization': 'Bearer a token of sixteen'}
            )
            return (
                'email_worker_up{queue="arq:queue",version="",worker="mail-7@host:42"} 1.0'
                in answer.text
            )

        await wait_until(shown)
        assert (await client.get('/api/status', auth=('anna', 'a token of sixteen'))).json()[
            'outbox'
        ]['due'] == 0
    assert 'a token of sixteen' not in web.log_path.read_text()


def count_descriptors(pid):
    return len(list(Path(f'/proc/{pid}/fd').iterdir()))


async def test_page_answers_beside_fifteen_hundred_silent_connections_with_512_descriptors(
    start_web, redis
):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE, (512, 512))
    port = int(place.rpartition(':')[2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    silent = []
    client = httpx.AsyncClient(
        base_url=place, timeout=DEADLINE_S, verify=False, headers={'Connection': 'close'}
    )
    try:
        for n in range(1500):
            silent.append(socket.create_connection(('127.0.0.1', port), timeout=DEADLINE_S))
            if n % 3 == 0:
                silent[-1].send(b'GET / HTTP/1.1\r\nHost: local')
            if n % 100 == 99:
                assert (await client.get('/health/live')).status_code == 200, n
                assert await asyncio.to_thread(count_descriptors, web.process.pid) < 450
        assert [
            (await client.get(path)).status_code for path in ('/', '/metrics', '/api/status')
        ] == [200] * 3
        await client.aclose()
    finally:
        for connection in silent:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # Nobody reads what this test's systemd is told.
    log = [
        line for line in web.log_path.read_text().splitlines() if 'systemd.not_notified' not in line
    ]
    assert len(log) == 1, log[:20]


@pytest.mark.parametrize('way', [Way.AWAY, Way.SILENT])
async def test_api_without_its_servers_answers_503_in_time_and_a_stop_is_not_held_up(
    env, start_web, way
):
    created = await ops(env, 'token', 'create', 'me', '--scope', 'read,operate', '--json')
    headers = {'Authorization': f'Bearer {created.document["token"]}'}
    async with Gate(env['DATABASE_URL']) as postgres, Gate(env['ARQ_REDIS_URL']) as redis:
        web = start_web(WEB_PORT='0', DATABASE_URL=postgres.url, ARQ_REDIS_URL=redis.url)
        place = place_of(await web.hears('READY=1'))
        async with httpx.AsyncClient(base_url=place, timeout=DEADLINE_S, headers=headers) as client:
            assert (await client.get('/api/emails')).status_code == 200
            assert (await client.get('/api/workers')).status_code == 200
            postgres.turn(way)
            redis.turn(way)
            began = time.monotonic()
            answers = await asyncio.gather(
                *(client.get(f'/api/{path}') for path in ('emails', 'emails/1', 'workers')),
                *(client.post(f'/admin/emails/{n}/retry') for n in range(1, 21)),
            )
            assert {answer.status_code for answer in answers} == {503}
            assert time.monotonic() - began < 3 * API_DEADLINE_S
            assert all(answer.json()['remedy'] for answer in answers)
            assert (await client.get('/health/live')).status_code == 200
            web.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert await asyncio.to_thread(web.process.wait, DEADLINE_S) == 0
            assert time.monotonic() - began < 10  # TimeoutStopSec of deploy/email-web.service
    assert 'Traceback' not in web.log_path.read_text()
