"""The control socket of a real inbox process without TLS and AUTH.

Rules at every verb, ports, counts.
"""

import json
import os
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.inbox_control import ControlFailed, InboxControl, control_path
from dev.inbox_store import READY_NAME, read_index

DEADLINE_S = 30.0
MESSAGE = 'Subject: x\r\n\r\nbody\r\n'


class PlainInbox:
    """`python -m dev.inbox --no-tls` and what its inbox.json says."""

    def __init__(self, directory: Path) -> None:
        argv = [sys.executable, '-m', 'dev.inbox', '--dir', str(directory), '--no-tls']
        self.directory = directory
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith('listening ')
        self.ready: dict[str, Any] = json.loads((directory / READY_NAME).read_text())
        self.control = InboxControl(directory)

    def connect(self, relay: str = 'primary') -> smtplib.SMTP:
        return smtplib.SMTP(
            '127.0.0.1', self.ready[relay]['port'], local_hostname='test', timeout=DEADLINE_S
        )

    def send(self, relay: str = 'primary') -> None:
        with self.connect(relay) as client:
            client.sendmail('f@example.com', ['t@example.com'], MESSAGE)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(DEADLINE_S)
        if self.process.stdout:
            self.process.stdout.close()
        return code


@pytest.fixture(scope='module')
def running() -> Iterator[PlainInbox]:
    directory = Path(tempfile.mkdtemp(prefix='inbox-test-'))
    inbox = PlainInbox(directory)
    try:
        yield inbox
    finally:
        inbox.stop()
        shutil.rmtree(directory)


@pytest.fixture
def inbox(running: PlainInbox) -> Iterator[PlainInbox]:
    yield running
    running.control.behave()
    for relay in ('primary', 'backup'):
        running.control.command({'listen': {'relay': relay, 'on': True}})


VERBS_OF_A_SESSION = {
    'ehlo': lambda client: client.ehlo(),
    'mail': lambda client: (client.ehlo(), client.mail('f@example.com'))[-1],
    'rcpt': lambda client: (
        client.ehlo(),
        client.mail('f@example.com'),
        client.rcpt('t@example.com'),
    )[-1],
    'data': lambda client: (
        client.ehlo(),
        client.mail('f@example.com'),
        client.rcpt('t@example.com'),
        client.docmd('DATA'),
    )[-1],
    'rset': lambda client: client.rset(),
    'quit': lambda client: client.docmd('QUIT'),
}


@pytest.mark.parametrize('verb', VERBS_OF_A_SESSION)
def test_refusal_at_a_verb_is_the_given_reply(inbox: PlainInbox, verb: str) -> None:
    inbox.control.misbehave(verb, 'refuse', code=454, text='4.3.0 Not now')
    client = inbox.connect()
    assert VERBS_OF_A_SESSION[verb](client) == (454, b'4.3.0 Not now')
    client.close()


@pytest.mark.parametrize('verb', VERBS_OF_A_SESSION)
def test_drop_at_a_verb_closes_without_reply(inbox: PlainInbox, verb: str) -> None:
    inbox.control.misbehave(verb, 'drop')
    client = inbox.connect()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        VERBS_OF_A_SESSION[verb](client)
    client.close()


def test_refusal_at_connect_replaces_the_greeting_and_closes(inbox: PlainInbox) -> None:
    inbox.control.misbehave('connect', 'refuse', code=554, text='5.3.2 No mail here')
    with socket.create_connection(
        ('127.0.0.1', inbox.ready['primary']['port']), DEADLINE_S
    ) as connection:
        assert connection.makefile('rb').read() == b'554 5.3.2 No mail here\r\n'


def test_421_at_any_verb_closes_the_connection(inbox: PlainInbox) -> None:
    inbox.control.misbehave('mail', 'refuse', code=421, text='4.3.2 Closing')
    client = inbox.connect()
    client.ehlo()
    assert client.mail('f@example.com')[0] == 421
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()


def test_stall_with_seconds_goes_on_afterwards(inbox: PlainInbox) -> None:
    inbox.control.misbehave('mail', 'stall', seconds=0.1, times=1)
    started_at = time.monotonic()
    inbox.send()
    assert time.monotonic() - started_at >= 0.1


@pytest.mark.parametrize(('deed', 'kept'), [('drop', 0), ('store-then-drop', 1)])
def test_drop_at_the_dot_keeps_the_message_or_not(inbox: PlainInbox, deed: str, kept: int) -> None:
    before = len(read_index(inbox.directory))
    inbox.control.misbehave('dot', deed, times=1)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        inbox.send()
    assert len(read_index(inbox.directory)) == before + kept


def test_rule_for_one_relay_leaves_the_other_alone(inbox: PlainInbox) -> None:
    inbox.control.misbehave('mail', 'refuse', relay='primary', code=450, text='4.2.0 Busy')
    with pytest.raises(smtplib.SMTPSenderRefused):
        inbox.send('primary')
    inbox.send('backup')


def test_rule_with_times_wears_off_and_clear_removes_the_rest(inbox: PlainInbox) -> None:
    inbox.control.misbehave('mail', 'refuse', times=1)
    with pytest.raises(smtplib.SMTPSenderRefused):
        inbox.send()
    inbox.send()
    inbox.control.misbehave('mail', 'refuse')
    inbox.control.behave()
    inbox.send()


def test_relay_that_is_switched_off_refuses_and_cuts_connections(inbox: PlainInbox) -> None:
    client = inbox.connect()
    client.ehlo()
    inbox.control.listen('primary', on=False)
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        client.noop()
    with pytest.raises(ConnectionRefusedError):
        inbox.connect()
    inbox.send('backup')
    inbox.control.listen('primary', on=True)
    inbox.send('primary')


def test_stats_count_connections_transactions_and_messages(inbox: PlainInbox) -> None:
    before = inbox.control.stats()['backup']
    with inbox.connect('backup') as client:
        for _ in range(2):
            client.sendmail('f@example.com', ['t@example.com'], MESSAGE)
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            client.sendmail('f@example.com', ['t+5xx-rcpt@example.com'], MESSAGE)
        during = inbox.control.stats()['backup']
    assert {name: during[name] - before[name] for name in before} == {
        'connections': 1,
        'transactions': 3,
        'accepted': 2,
        'open': 1,
    }


@pytest.mark.parametrize(
    'command',
    [
        {},
        {'dance': True},
        {'set': {'verb': 'mail', 'do': 'dance'}},
        {'set': 'mail'},
        {'listen': {'relay': 'third', 'on': True}},
        {'listen': {'relay': 'primary', 'on': 'yes'}},
        {'listen': {}},
        {'clear': True, 'stats': True},
    ],
)
def test_bad_command_is_answered_with_an_error(inbox: PlainInbox, command: dict[str, Any]) -> None:
    with pytest.raises(ControlFailed):
        inbox.control.command(command)
    inbox.send()


def test_control_path_stays_short_enough_for_a_unix_socket(tmp_path: Path) -> None:
    deep = tmp_path / ('d' * 90)
    assert len(os.fsencode(control_path(deep))) <= 100
    assert control_path(deep) == control_path(deep)
    assert control_path(deep) != control_path(tmp_path / ('e' * 90))


def test_sigterm_ends_it_and_frees_the_socket(tmp_path: Path) -> None:
    inbox = PlainInbox(tmp_path / ('long' * 25))
    inbox.send()
    assert inbox.stop() == 0
    assert not control_path(inbox.directory).exists()


def test_taken_port_is_reported_by_status_and_message(inbox: PlainInbox, tmp_path: Path) -> None:
    port = str(inbox.ready['primary']['port'])
    argv = [
        sys.executable,
        '-m',
        'dev.inbox',
        '--dir',
        str(tmp_path),
        '--no-tls',
        '--primary-port',
        port,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S * 2, check=False)
    assert done.returncode == 1
    assert 'address already in use' in done.stderr.lower()
