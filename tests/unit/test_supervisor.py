"""What systemd hears of a worker, on a socket like its own, and what a health check reads."""

import asyncio
import os
import subprocess
import time

import pytest
from structlog.testing import capture_logs

from process.supervisor import FEEDS_PER_WATCHDOG, STOP_MARGIN_S, Supervisor
from tests.conftest import ROOT, wait_until
from tests.unit.conftest import DEADLINE_S

CHECK = ROOT / 'deploy/email-worker-health'


@pytest.fixture
def health_file(tmp_path, monkeypatch):
    """Where a process says how it is, beside no systemd."""
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    monkeypatch.delenv('WATCHDOG_USEC', raising=False)
    return tmp_path / 'health'


def check(health_file, *options):
    """The exit status of a health check, and all it says."""
    ran = subprocess.run(
        [CHECK, *options],
        env=os.environ | {'HEALTH_FILE': str(health_file)},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def let_time_pass(health_file, seconds):
    """Make the file older, as if nothing had been said since."""
    said_at = time.time() - seconds
    os.utime(health_file, (said_at, said_at))


def drain(systemd):
    """Forget what has been said so far."""
    systemd.setblocking(False)
    try:
        while systemd.recv(4096):
            pass
    except BlockingIOError:
        systemd.settimeout(DEADLINE_S)


async def hear(systemd):
    return (await asyncio.to_thread(systemd.recv, 4096)).decode().splitlines()


async def test_watchdog_is_fed_by_the_loop_and_starves_when_it_is_blocked(systemd, monkeypatch):
    silence_s = 0.15
    monkeypatch.setenv('WATCHDOG_USEC', str(int(silence_s * 1e6)))
    informing = asyncio.create_task(
        Supervisor().keep_informed(asyncio.Event(), 20, 'Serving arq:queue')
    )
    assert await hear(systemd) == ['READY=1', 'STATUS=Serving arq:queue']
    for _ in range(FEEDS_PER_WATCHDOG):
        assert await hear(systemd) == ['WATCHDOG=1']
    drain(systemd)
    systemd.settimeout(2 * silence_s)
    with pytest.raises(TimeoutError):
        systemd.recv(4096)  # blocks this loop: nobody feeds
    systemd.settimeout(DEADLINE_S)
    assert await hear(systemd) == ['WATCHDOG=1']
    informing.cancel()


async def test_stopping_is_told_at_once_with_the_time_it_may_take_and_the_watchdog_fed_on(
    systemd, monkeypatch
):
    monkeypatch.setenv('WATCHDOG_USEC', '300000')
    stopping = asyncio.Event()
    informing = asyncio.create_task(Supervisor().keep_informed(stopping, 300, 'Serving arq:queue'))
    assert 'READY=1' in await hear(systemd)
    stopping.set()
    while (told := await hear(systemd)) == ['WATCHDOG=1']:
        pass
    assert told[:2] == ['STOPPING=1', f'EXTEND_TIMEOUT_USEC={(300 + STOP_MARGIN_S) * 1_000_000}']
    assert await hear(systemd) == ['WATCHDOG=1']
    assert await hear(systemd) == ['WATCHDOG=1']
    informing.cancel()


async def test_without_a_watchdog_the_task_says_ready_and_stopping_and_ends(systemd, monkeypatch):
    monkeypatch.delenv('WATCHDOG_USEC', raising=False)
    stopping = asyncio.Event()
    informing = asyncio.create_task(Supervisor().keep_informed(stopping, 20, 's'))
    assert 'READY=1' in await hear(systemd)
    stopping.set()
    assert 'STOPPING=1' in await hear(systemd)
    await informing


async def test_worker_that_waits_lives_and_is_not_ready(health_file):
    supervisor = Supervisor(health_file)
    assert check(health_file) == (0, 'starting\n')
    supervisor.tell('STATUS=Waiting for PostgreSQL at db:5432')
    assert check(health_file) == (0, 'starting: Waiting for PostgreSQL at db:5432\n')
    status, said = check(health_file, '--ready')
    assert (status, said.splitlines()[-1]) == (1, 'email-worker-health: not ready')


async def test_worker_that_serves_is_ready_until_it_is_told_to_stop(health_file):
    stopping = asyncio.Event()
    informing = asyncio.create_task(Supervisor(health_file).keep_informed(stopping, 20, 'Serving'))
    await wait_until(lambda: check(health_file, '--ready') == (0, 'ready: Serving\n'))
    stopping.set()
    told = 'stopping: Finishing what is being sent\n'
    await wait_until(lambda: check(health_file) == (0, told))
    assert check(health_file, '--ready')[0] == 1
    informing.cancel()


async def test_health_file_is_written_again_and_again(health_file, monkeypatch):
    monkeypatch.setattr('process.supervisor.HEALTH_FEED_S', 0.01)
    informing = asyncio.create_task(
        Supervisor(health_file).keep_informed(asyncio.Event(), 20, 'Serving')
    )
    await wait_until(lambda: check(health_file, '--ready')[0] == 0)
    let_time_pass(health_file, 61)
    await wait_until(lambda: check(health_file)[0] == 0)
    health_file.unlink()
    await wait_until(lambda: check(health_file)[0] == 0)
    informing.cancel()


def test_loop_that_is_held_is_not_alive(health_file):
    Supervisor(health_file).tell('READY=1', 'STATUS=Serving')
    let_time_pass(health_file, 55)
    assert check(health_file) == (0, 'ready: Serving\n')
    let_time_pass(health_file, 75)
    status, said = check(health_file)
    assert status == 1
    assert 'the event loop has said nothing for 7' in said


def test_process_that_never_began_is_not_alive(health_file):
    status, said = check(health_file)
    assert status == 1
    assert f'there is no {health_file}' in said


def test_health_check_without_a_file_names_the_variable():
    assert check('') == (1, 'email-worker-health: HEALTH_FILE is not set\n')


def test_file_that_cannot_be_written_is_an_error_told_once(tmp_path, monkeypatch):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    place = tmp_path / 'absent' / 'health'
    with capture_logs() as lines:
        supervisor = Supervisor(place)
        supervisor.tell('READY=1')
        place.parent.mkdir()
        supervisor.tell('STATUS=Serving')
    assert [(line['event'], line['file']) for line in lines] == [
        ('health_file.not_written', str(place))
    ]
    assert check(place, '--ready') == (0, 'ready: Serving\n')
