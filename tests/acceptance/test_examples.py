"""Each example is started as its first lines say, and a mail of it arrives."""

import asyncio
import email
import email.policy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.ports import free_port
from tests.conftest import ROOT, WorkerProcess, wait_until

BIN = Path(sys.executable).parent
EXAMPLES = ROOT / 'examples'


@pytest.fixture
async def worker(start_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    return await start_worker().started()


@pytest.fixture
def started(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start a program beside the test; its output is in the file that is returned."""
    running = []

    def start(*command: str, cwd: Path = ROOT) -> Path:
        output = tmp_path / f'program-{len(running)}.log'
        with output.open('w') as log:
            running.append(
                subprocess.Popen(command, cwd=cwd, env=example_env(env), stdout=log, stderr=log)
            )
        return output

    yield start
    for process in running:
        process.terminate()
        process.wait(10)


def example_env(env: dict[str, str]) -> dict[str, str]:
    """As with mail_outbox installed: the checkout stands for the package."""
    return env | {'PYTHONPATH': str(ROOT)}


async def run(env: dict[str, str], *command: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=example_env(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def listening(base_url: str, log: Path) -> None:
    async def answers() -> bool:
        async with httpx.AsyncClient(base_url=base_url) as client:
            try:
                await client.get('/')
            except httpx.TransportError:
                return False
        return True

    await wait_until(answers, 20, f'an answer; {log} says why')


@pytest.mark.usefixtures('worker')
async def test_fastapi_signs_up_once_and_the_welcome_arrives(
    started: Any, inbox: Any, pool: Any
) -> None:
    port = free_port()
    base_url = f'http://127.0.0.1:{port}'
    uvicorn = [str(BIN / 'uvicorn'), '--app-dir', 'examples', '--port', str(port)]
    log = started(*uvicorn, 'fastapi_sign_up:app')
    await listening(base_url, log)
    async with httpx.AsyncClient(base_url=base_url, timeout=20) as client:
        address = {'address': 'anna@example.com'}
        signed_up = await client.post('/sign-ups', params=address)
        assert signed_up.status_code == 201, signed_up.text + log.read_text()
        await wait_until(lambda: inbox.accepted('anna@example.com'))
        path = f'/emails/{signed_up.json()["email_id"]}'

        async def sent() -> bool:
            return bool((await client.get(path)).json()['status'] == 'sent')

        await wait_until(sent)
        assert (await client.post('/sign-ups', params=address)).status_code == 409
        mistyped = await client.post('/sign-ups', params={'address': 'anna@'})
        assert (mistyped.status_code, 'recipient' in mistyped.text) == (422, True)
        assert (await client.get('/emails/999')).status_code == 404
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 1
    assert await pool.fetchval('SELECT count(*) FROM users') == 1


@pytest.mark.usefixtures('worker')
@pytest.mark.parametrize('woken_by', ['arq', 'notify'])
async def test_plain_sqlalchemy_orders_and_the_receipt_arrives(
    env: Any, inbox: Any, pool: Any, woken_by: str
) -> None:
    if woken_by == 'notify':
        env = {name: value for name, value in env.items() if name != 'ARQ_REDIS_URL'}
    script = [sys.executable, 'examples/sqlalchemy_receipt.py']
    code, out, err = await run(env, *script, 'anna@example.com')
    assert (code, out) == (0, '1\n'), err
    [entry] = await wait_until(lambda: inbox.accepted('anna@example.com'))
    assert entry['subject'] == 'Receipt for order 1'
    code, out, err = await run(env, *script, 'nobody')
    assert (code, out) == (1, '')
    assert err.startswith("recipient: 'nobody' is not an e-mail address")
    assert await pool.fetchval('SELECT count(*) FROM orders') == 1


@pytest.mark.usefixtures('worker')
async def test_django_sends_every_mail_of_a_project_through_the_outbox(
    env: Any, started: Any, inbox: Any, pool: Any
) -> None:
    shop = EXAMPLES / 'django_shop'
    manage = [sys.executable, 'manage.py']
    code, _, err = await run(env, *manage, 'sendtestemail', 'bert@example.com', cwd=shop)
    assert code == 0, err
    await wait_until(lambda: inbox.accepted('bert@example.com'))
    port = free_port()
    base_url = f'http://127.0.0.1:{port}'
    log = started(
        *manage, 'runserver', '--noreload', '--nothreading', f'127.0.0.1:{port}', cwd=shop
    )
    await listening(base_url, log)
    async with httpx.AsyncClient(base_url=base_url, timeout=20) as client:
        ordered = await client.post('/orders', params={'address': 'anna@example.com'})
        assert ordered.status_code == 201, ordered.text
        mistyped = await client.post('/orders', params={'address': 'anna@'})
        assert (mistyped.status_code, 'recipient' in mistyped.text) == (422, True)
    [entry] = await wait_until(lambda: inbox.accepted('anna@example.com'))
    message = email.message_from_bytes(inbox.message(entry), policy=email.policy.default)
    assert [part.get_content_type() for part in message.walk()] == [
        'multipart/mixed', 'multipart/alternative', 'text/plain', 'text/html', 'text/csv',
    ]  # fmt: skip
    assert message['List-Unsubscribe'] == '<https://shop.example/unsubscribe>'
    row = await pool.fetchrow(
        'SELECT * FROM outbound_emails WHERE id = $1', ordered.json()['email_id']
    )
    assert (row['priority'], row['email_type']) == (0, 'receipt')
