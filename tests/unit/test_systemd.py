"""What systemd hears of a worker, on a socket like its own."""

import os
import socket

import pytest

from process.systemd import notify_systemd, watchdog_s
from tests.unit.conftest import DEADLINE_S


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
