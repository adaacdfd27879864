"""What systemd hears of a worker, on a socket like its own."""

import asyncio
import os
import socket

import pytest

from process.systemd import (
    FEEDS_PER_WATCHDOG,
    STOP_MARGIN_S,
    keep_systemd_informed,
    notify_systemd,
    watchdog_s,
)

DEADLINE_S = 30.0


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """The other end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / 'notify'))
        heard.settimeout(DEADLINE_S)
        monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'notify'))
        yield heard


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


def test_nothing_is_said_without_systemd(monkeypatch):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    notify_systemd('READY=1')


def test_several_states_go_in_one_datagram(systemd):
    notify_systemd('READY=1', 'STATUS=Serving arq:queue')
    assert systemd.recv(4096) == b'READY=1\nSTATUS=Serving arq:queue'


def test_abstract_socket_is_reached(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(DEADLINE_S)
        name = f'email-worker-test-{os.getpid()}'
        heard.bind(f'\0{name}')
        monkeypatch.setenv('NOTIFY_SOCKET', f'@{name}')
        notify_systemd('READY=1')
        assert heard.recv(4096) == b'READY=1'


def test_socket_that_is_gone_does_not_disturb(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('NOTIFY_SOCKET', str(tmp_path / 'nobody'))
    notify_systemd('READY=1')


@pytest.mark.parametrize(
    ('usec', 'pid', 'expected_s'),
    [
        ('60000000', None, 60.0),
        pytest.param('60000000', os.getpid(), 60.0, id='ours'),
        ('60000000', 1, None),  # inherited from a parent that is watched
        ('', None, None),
        ('0', None, None),
        ('soon', None, None),
    ],
)
def test_watchdog_interval_is_read_when_it_is_ours(monkeypatch, usec, pid, expected_s):
    monkeypatch.setenv('WATCHDOG_USEC', usec)
    monkeypatch.delenv('WATCHDOG_PID', raising=False)
    if pid is not None:
        monkeypatch.setenv('WATCHDOG_PID', str(pid))
    assert watchdog_s() == expected_s


async def test_watchdog_is_fed_by_the_loop_and_starves_when_it_is_blocked(systemd, monkeypatch):
    silence_s = 0.15
    monkeypatch.setenv('WATCHDOG_USEC', str(int(silence_s * 1e6)))
    informing = asyncio.create_task(keep_systemd_informed(asyncio.Event(), 20, 'Serving arq:queue'))
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
    informing = asyncio.create_task(keep_systemd_informed(stopping, 300, 'Serving arq:queue'))
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
    informing = asyncio.create_task(keep_systemd_informed(stopping, 20, 's'))
    assert 'READY=1' in await hear(systemd)
    stopping.set()
    assert 'STOPPING=1' in await hear(systemd)
    await informing
