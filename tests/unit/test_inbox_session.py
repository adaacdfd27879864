"""A real inbox process, talked to by smtplib.

How it takes mail and what each recipient tag does.
"""

import contextlib
import shutil
import smtplib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.inbox_server import InboxLogin, InboxServer
from dev.inbox_store import StoredMessage
from dev.watchdog import Watchdog

LOGIN = InboxLogin('primary', 'secret-1', 'backup', 'secret-2')
MESSAGE = 'Subject: Test\r\nMessage-ID: <{id}@example.com>\r\n\r\nHello\r\n.leading dot\r\n'
DEADLINE_S = 30.0
NO_ANSWER_S = 0.1


@pytest.fixture(scope='module')
def inbox() -> Iterator[InboxServer]:
    directory = Path(tempfile.mkdtemp(prefix='inbox-test-'))
    with Watchdog() as watchdog:
        server = InboxServer(directory / 'inbox', watchdog, LOGIN)
        server.start()
        try:
            yield server
        finally:
            server.stop()
            shutil.rmtree(directory)


@contextlib.contextmanager
def logged_in(inbox: InboxServer, relay: str = 'primary') -> Iterator[smtplib.SMTP]:
    """A connection after STARTTLS and AUTH; its loss at the end is no error."""
    is_primary = relay == 'primary'
    client = smtplib.SMTP(
        '127.0.0.1', inbox.port if is_primary else inbox.backup_port, timeout=DEADLINE_S
    )
    try:
        client.starttls(context=ssl.create_default_context(cafile=str(inbox.certificate)))
        client.login(
            LOGIN.user if is_primary else LOGIN.backup_user,
            'secret-1' if is_primary else 'secret-2',
        )
        yield client
    finally:
        client.close()


def messages_to(inbox: InboxServer, recipient: str) -> list[StoredMessage]:
    return [message for message in inbox.messages() if recipient in message.rcpt_to]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, 'not within the deadline'
        time.sleep(0.005)


def test_accepted_message_is_recorded_with_its_envelope(inbox: InboxServer) -> None:
    with logged_in(inbox, 'backup') as client:
        client.sendmail(
            'from@example.com', ['rec1@example.com', 'rec2@example.com'], MESSAGE.format(id='r')
        )
    (message,) = messages_to(inbox, 'rec1@example.com')
    assert message.relay == 'backup'
    assert message.mail_from == 'from@example.com'
    assert message.rcpt_to == ['rec1@example.com', 'rec2@example.com']
    assert (message.message_id, message.subject) == ('<r@example.com>', 'Test')
    assert (message.tls, message.auth, message.answered) == (True, 'backup', True)
    assert inbox.content(message) == MESSAGE.format(id='r').encode()


def test_null_sender_is_recorded_as_empty(inbox: InboxServer) -> None:
    with logged_in(inbox) as client:
        client.sendmail('', ['null@example.com'], MESSAGE.format(id='n'))
    assert messages_to(inbox, 'null@example.com')[0].mail_from == ''


def test_extensions_are_offered(inbox: InboxServer) -> None:
    with logged_in(inbox) as client:
        client.ehlo()
        for extension in ('pipelining', '8bitmime', 'smtputf8', 'size', 'enhancedstatuscodes'):
            assert client.has_extn(extension)
        assert client.esmtp_features['auth'].split() == ['LOGIN', 'PLAIN']


def test_auth_is_neither_offered_nor_taken_before_starttls(inbox: InboxServer) -> None:
    with smtplib.SMTP('127.0.0.1', inbox.port, timeout=DEADLINE_S) as client:
        client.ehlo()
        assert not client.has_extn('auth')
        assert client.docmd('AUTH', 'PLAIN AHgAeA==')[0] == 538


@pytest.mark.parametrize('mechanism', ['PLAIN', 'LOGIN'])
def test_auth_takes_the_right_password_only(inbox: InboxServer, mechanism: str) -> None:
    with smtplib.SMTP('127.0.0.1', inbox.port, timeout=DEADLINE_S) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(inbox.certificate)))
        client.ehlo()
        client.esmtp_features['auth'] = mechanism
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(LOGIN.user, LOGIN.backup_password)
        assert refused.value.smtp_code == 535
        assert client.login(LOGIN.user, LOGIN.password)[0] == 235


def test_mail_without_login_is_refused(inbox: InboxServer) -> None:
    with smtplib.SMTP('127.0.0.1', inbox.port, timeout=DEADLINE_S) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(inbox.certificate)))
        client.ehlo()
        assert client.mail('from@example.com')[0] == 530


def test_certificate_is_not_trusted_without_being_given(inbox: InboxServer) -> None:
    with (
        smtplib.SMTP('127.0.0.1', inbox.port, timeout=DEADLINE_S) as client,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        client.starttls(context=ssl.create_default_context())


def test_pipelined_commands_are_answered_in_order(inbox: InboxServer) -> None:
    with logged_in(inbox) as client:
        client.ehlo()
        client.send(
            'MAIL FROM:<a@example.com>\r\nRCPT TO:<pipe@example.com>\r\nRCPT '
            'TO:<p+5xx-rcpt@example.com>\r\nDATA\r\n'
        )
        assert [client.getreply()[0] for _ in range(4)] == [250, 250, 550, 354]
        client.send('Subject: x\r\n\r\n.\r\nRSET\r\nQUIT\r\n')
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 221]
    assert len(messages_to(inbox, 'pipe@example.com')) == 1


@pytest.mark.parametrize(
    ('tag', 'codes'),
    [
        ('5xx-rcpt', [250, 550]),
        ('5xx-data', [250, 250, 354, 554]),
        ('4xx-data', [250, 250, 354, 452]),
        ('drop-rcpt', [250, None]),
        ('drop-data', [250, 250, None]),
        ('drop-dot', [250, 250, 354, None]),
        ('drop-dot-lost', [250, 250, 354, None]),
        ('421-rcpt', [250, 421, None]),
    ],
)
def test_tag_decides_the_replies(inbox: InboxServer, tag: str, codes: list[int | None]) -> None:
    with logged_in(inbox) as client:
        assert dialogue(client, f'tag+{tag}@example.com') == codes


def dialogue(client: smtplib.SMTP, recipient: str) -> list[int | None]:
    """Send one message step by step.

    The replies' codes up to the first failure, None for a lost connection.
    """
    steps = [
        lambda: client.mail('from@example.com'),
        lambda: client.rcpt(recipient),
        lambda: client.docmd('DATA'),
        lambda: (client.send('Subject: x\r\n\r\nbody\r\n.\r\n'), client.getreply())[-1],
    ]
    codes: list[int | None] = []
    for step in steps:
        try:
            codes.append(step()[0])
            if codes[-1] == 421:
                client.noop()
        except smtplib.SMTPServerDisconnected:
            return [*codes, None]
        if codes[-1] not in (250, 354):
            break
    return codes


def test_4xx_twice_refuses_twice_at_each_relay(inbox: InboxServer) -> None:
    for relay in ('primary', 'backup'):
        with logged_in(inbox, relay) as client:
            client.ehlo()
            client.mail('from@example.com')
            assert [client.rcpt('grey+4xx-twice@example.com')[0] for _ in range(3)] == [
                451,
                451,
                250,
            ]


def test_drop_dot_keeps_the_message_then_behaves(inbox: InboxServer) -> None:
    recipient = 'once+drop-dot@example.com'
    with logged_in(inbox) as client:
        assert dialogue(client, recipient)[-1] is None
    with logged_in(inbox, 'backup') as client:
        assert dialogue(client, recipient)[-1] == 250
    assert [message.answered for message in messages_to(inbox, recipient)] == [False, True]


def test_drop_dot_lost_keeps_nothing_then_behaves(inbox: InboxServer) -> None:
    recipient = 'once+drop-dot-lost@example.com'
    with logged_in(inbox) as client:
        assert dialogue(client, recipient)[-1] is None
    assert messages_to(inbox, recipient) == []
    with logged_in(inbox) as client:
        assert dialogue(client, recipient)[-1] == 250


@pytest.mark.parametrize('tag', ['stall-rcpt', 'stall-dot'])
def test_stall_gives_no_answer_and_ends_when_the_client_goes(inbox: InboxServer, tag: str) -> None:
    with logged_in(inbox) as client:
        assert client.sock is not None
        client.sock.settimeout(NO_ANSWER_S)
        with pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
            dialogue_until_timeout(client, f'slow+{tag}@example.com')
    eventually(lambda: inbox.control.stats()['primary']['open'] == 0)
    assert messages_to(inbox, f'slow+{tag}@example.com') == []


def dialogue_until_timeout(client: smtplib.SMTP, recipient: str) -> None:
    for line in (
        'MAIL FROM:<f@example.com>',
        f'RCPT TO:<{recipient}>',
        'DATA',
        'Subject: x\r\n\r\n.',
    ):
        assert client.sock is not None
        client.sock.sendall(f'{line}\r\n'.encode())
        if not client.sock.recv(1000):
            raise smtplib.SMTPServerDisconnected


def test_killed_inbox_goes_on_on_the_same_ports_with_its_mail(inbox: InboxServer) -> None:
    ports = (inbox.port, inbox.backup_port)
    with logged_in(inbox) as client:
        client.sendmail('f@example.com', ['before@example.com'], MESSAGE.format(id='b'))
        inbox.kill()
        assert len(messages_to(inbox, 'before@example.com')) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(('127.0.0.1', inbox.port), DEADLINE_S).close()
    inbox.start()
    assert (inbox.port, inbox.backup_port) == ports
    with logged_in(inbox) as client:
        client.sendmail('f@example.com', ['after@example.com'], MESSAGE.format(id='a'))
    numbers = [message.n for message in inbox.messages()]
    assert numbers == sorted(set(numbers))
