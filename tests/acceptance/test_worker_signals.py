"""Signals that end a worker, and `arq --watch`."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mail_outbox.outbox import queue_email
from mail_outbox.wake import notify
from tests.conftest import ROOT, wait_until


@pytest.fixture
def queue(pool):
    async def queue():
        async with pool.acquire() as conn, conn.transaction():
            email_id = await queue_email(
                conn, recipient='anna@example.com', subject='Hello', body_text='Hello.'
            )
            await notify(conn)
        return email_id

    return queue


@pytest.fixture(autouse=True)
def not_under_nohup():
    """What the tests were started by may ignore SIGHUP, and workers inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def command(env, log, *words):
    with log.open('wb') as out:
        process = subprocess.Popen(
            words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    return process, log


def arq(env, log, *options, before=()):
    program = Path(sys.executable).with_name('arq')
    return command(env, log, *before, program, 'worker.WorkerSettings', *options)


@pytest.mark.parametrize('number', [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_a_running_transaction_finish(start_worker, queue, inbox, pool, number):
    worker = await start_worker().started()
    inbox.control.misbehave('dot', 'stall', relay='primary', times=1, seconds=1)
    await queue()
    begun = "SELECT count(*) = 1 FROM outbound_emails WHERE status IN ('sending', 'sent')"
    await wait_until(lambda: pool.fetchval(begun))
    worker.process.send_signal(number)
    assert await worker.ended() == 0, worker.log
    assert tuple(await pool.fetchrow('SELECT status, attempts FROM outbound_emails')) == ('sent', 1)
    assert len(inbox.accepted()) == 1
    assert 'Traceback' not in worker.log


async def test_command_becomes_the_worker_which_ends_with_its_status(env, queue, pool, tmp_path):
    variables = env | {'EMAIL_WORKER_PYTHON': sys.executable}
    worker, log = command(variables, tmp_path / 'worker.log', ROOT / 'deploy/email-worker', 'run')
    try:
        await queue()
        sent = "SELECT count(*) = 1 FROM outbound_emails WHERE status = 'sent'"
        await wait_until(lambda: pool.fetchval(sent))
        # No shell is left between.
        process = Path(f'/proc/{worker.pid}')
        assert b'python' in (process / 'cmdline').read_bytes().split(b'\0')[0]
        assert not (process / f'task/{worker.pid}/children').read_text().split()
    finally:
        worker.terminate()
    await wait_until(lambda: worker.poll() is not None)
    assert worker.returncode == 0, log.read_text()


async def test_hangup_is_ignored_where_the_worker_was_started_to_stay(env, queue, inbox, tmp_path):
    """As nohup does it."""
    worker, log = arq(env, tmp_path / 'nohup.log', before=['nohup'])
    try:
        await wait_until(lambda: 'worker.started' in log.read_text())
        worker.send_signal(signal.SIGHUP)
        await queue()
        await wait_until(inbox.accepted)
        assert worker.poll() is None
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


WATCHFILES = """
import asyncio, os

async def awatch(path, stop_event):
    changed = False
    while not stop_event.is_set():
        await asyncio.sleep(0.02)
        if os.path.exists(os.environ['CHANGED']) and not changed:
            changed = True
            yield set()
"""


def watching(env, tmp_path, **variables):
    return arq(env | variables, tmp_path / 'watch.log', '--watch', str(tmp_path))


async def test_watching_worker_goes_on_after_a_change_and_ends_without_a_traceback(
    env, queue, inbox, tmp_path
):
    (tmp_path / 'watchfiles.py').write_text(WATCHFILES)
    changed = tmp_path / 'changed'
    process, log = watching(env, tmp_path, PYTHONPATH=str(tmp_path), CHANGED=str(changed))
    try:
        await wait_until(lambda: log.read_text().count('worker.started') == 1)
        changed.touch()
        await wait_until(lambda: log.read_text().count('worker.started') == 2, what=log.read_text())
        await queue()
        await wait_until(inbox.accepted)
    finally:
        process.terminate()
        status = process.wait(30)
    assert (status, 'Traceback' in log.read_text()) == (0, False), log.read_text()


async def test_watching_without_the_package_for_it_is_refused_in_a_line(env, tmp_path):
    process, log = watching(env, tmp_path)
    assert process.wait(30) == 1
    assert (
        log.read_text() == 'worker: --watch needs the package watchfiles: pip install watchfiles\n'
    )
