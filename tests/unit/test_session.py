"""One open SMTP connection: replies in their order, whatever pieces they come in."""

import asyncio
from typing import Any

import pytest

from mail.outcome import Reply
from mail.session import MAX_REPLY_BYTES, RelayGoneError, Session, take_over

SOON_S = 1.0


class Transport(asyncio.Transport):
    """Keeps what was written; closes as a real one does, without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b''
        self.ended: str | None = None
        self.limits: dict[str, Any] = {}

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.ended is not None

    def close(self) -> None:
        self.ended = self.ended or 'closed'

    def abort(self) -> None:
        self.ended = 'aborted'

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = {'high': high, 'low': low}


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def session(transport: Transport) -> Session:
    return take_over(transport, {'size': '1000', 'pipelining': ''})


def test_session_takes_the_connection_over_with_what_ehlo_said(session: Session, transport: Transport) -> None:
    assert transport.protocol is session
    assert session.extensions == {'size', 'pipelining'}
    assert session.size_limit_bytes == 1000
    assert session.is_open
    assert not session.has_unread


@pytest.mark.parametrize(('size', 'limit_bytes'), [('', 0), ('0', 0), ('10', 10), ('-1', 0), ('ten', 0)])
def test_size_is_read_when_it_is_a_number(transport: Transport, size: str, limit_bytes: int) -> None:
    assert take_over(transport, {'size': size}).size_limit_bytes == limit_bytes


@pytest.mark.parametrize(
    ('data', 'reply'),
    [
        (b'250 ok\r\n', Reply(250, 'ok')),
        (b'250\r\n', Reply(250, '')),
        (b'250 \r\n', Reply(250, '')),
        (b'354 go\n', Reply(354, 'go')),
        (b'250-one\r\n250-two\r\n250 three\r\n', Reply(250, 'one\ntwo\nthree')),
        (b'550-5.1.1 no\r\n550 5.1.1 such user\r\n', Reply(550, '5.1.1 no\n5.1.1 such user')),
        ('550 unbekannt: jörg\r\n'.encode(), Reply(550, 'unbekannt: jörg')),
        (b'550 \xff\r\n', Reply(550, '\N{REPLACEMENT CHARACTER}')),
    ],
)
async def test_reply_is_read_whole_in_whatever_pieces_it_comes(session: Session, data: bytes, reply: Reply) -> None:
    for size in (1, 3, len(data)):
        for start in range(0, len(data), size):
            session.data_received(data[start : start + size])
        assert await session.reply(SOON_S) == reply
        assert not session.has_unread


async def test_replies_to_several_commands_come_in_their_order(session: Session) -> None:
    session.data_received(b'250 one\r\n250-two\r\n250 still two\r\n354 th')
    assert [await session.reply(SOON_S) for _ in range(2)] == [Reply(250, 'one'), Reply(250, 'two\nstill two')]
    waiting = asyncio.create_task(session.reply(SOON_S))
    await asyncio.sleep(0)
    session.data_received(b'ree\r\n')
    assert await waiting == Reply(354, 'three')


@pytest.mark.parametrize(
    'data',
    [
        b'what\r\n',
        b'25 ok\r\n',
        b'\r\n',
        b'HTTP/1.1 400 Bad Request\r\n',
        b'250-one\r\nwhat\r\n',
        b'x' * (MAX_REPLY_BYTES + 1),
        b'250-' + b'x' * 1000 + b'\r\n',
    ],
    ids=lambda data: repr(data[:30]),
)
async def test_what_is_no_reply_ends_the_connection(session: Session, transport: Transport, data: bytes) -> None:
    for _ in range(100):  # the last one is a reply that never ends
        session.data_received(data)
    with pytest.raises(RelayGoneError):
        await session.reply(SOON_S)
    assert transport.ended == 'aborted'
    assert not session.is_open


async def test_reply_that_does_not_come_in_time_ends_the_connection(session: Session, transport: Transport) -> None:
    with pytest.raises(RelayGoneError, match=r'no reply within 0\.01 s'):
        await session.reply(0.01)
    assert transport.ended == 'aborted'
    with pytest.raises(RelayGoneError, match='no reply within'):
        session.write(b'RSET\r\n')


@pytest.mark.parametrize('error', [None, ConnectionResetError('reset by peer')])
async def test_lost_connection_wakes_whoever_waits(session: Session, error: Exception | None) -> None:
    waiting = asyncio.create_task(session.reply(SOON_S))
    await asyncio.sleep(0)
    session.connection_lost(error)
    with pytest.raises(RelayGoneError, match='reset by peer' if error else 'closed the connection'):
        await waiting
    with pytest.raises(RelayGoneError):
        await session.flush(SOON_S)


async def test_reply_that_came_before_the_connection_was_lost_is_still_read(session: Session) -> None:
    session.data_received(b'250 queued\r\n')
    session.eof_received()
    session.connection_lost(None)
    assert await session.reply(SOON_S) == Reply(250, 'queued')
    with pytest.raises(RelayGoneError):
        await session.reply(SOON_S)


async def test_cancelled_wait_leaves_no_timer_that_ends_the_connection(session: Session, transport: Transport) -> None:
    waiting = asyncio.create_task(session.reply(0.01))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    session.data_received(b'250 late\r\n')
    assert session.has_unread
    assert await session.reply(SOON_S) == Reply(250, 'late')
    assert transport.ended is None


def test_unasked_reply_is_noticed(session: Session) -> None:
    session.data_received(b'4')
    assert session.has_unread


async def test_flush_waits_until_everything_has_left(session: Session, transport: Transport) -> None:
    assert transport.limits == {'high': 1, 'low': 0}  # high=0 stops a TLS transport for good
    await session.flush(SOON_S)
    session.pause_writing()
    waiting = asyncio.create_task(session.flush(SOON_S))
    await asyncio.sleep(0)
    assert not waiting.done()
    session.resume_writing()
    await waiting


async def test_flush_that_takes_too_long_raises(session: Session) -> None:
    session.pause_writing()
    with pytest.raises(RelayGoneError, match='did not read'):
        await session.flush(0.01)


async def test_flush_of_a_lost_connection_raises(session: Session) -> None:
    session.pause_writing()
    waiting = asyncio.create_task(session.flush(SOON_S))
    await asyncio.sleep(0)
    session.connection_lost(ConnectionResetError('reset'))
    with pytest.raises(RelayGoneError, match='reset'):
        await waiting


def test_close_says_quit_and_abort_says_nothing(transport: Transport) -> None:
    take_over(transport, {}).close()
    assert (transport.written, transport.ended) == (b'QUIT\r\n', 'closed')
    cut_off = Transport()
    session = take_over(cut_off, {})
    session.abort()
    assert (cut_off.written, cut_off.ended) == (b'', 'aborted')
    with pytest.raises(RelayGoneError):
        session.write(b'MAIL')
    session.close()
    assert cut_off.written == b''
