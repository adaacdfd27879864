"""Replies out of bytes, whatever pieces they come in."""

import pytest

from mail.outcome import Reply
from mail.relay.errors import RelayGoneError
from mail.relay.replies import MAX_REPLY_BYTES, ReplyReader


@pytest.mark.parametrize(
    ('data', 'replies'),
    [
        (b'250 ok\r\n', [Reply(250, 'ok')]),
        (b'250\r\n', [Reply(250, '')]),
        (b'250 \r\n', [Reply(250, '')]),
        (b'354 go\n', [Reply(354, 'go')]),
        (b'250-one\r\n250-two\r\n250 three\r\n', [Reply(250, 'one\ntwo\nthree')]),
        (b'550-5.1.1 no\r\n550 5.1.1 such user\r\n', [Reply(550, '5.1.1 no\n5.1.1 such user')]),
        ('550 unbekannt: jörg\r\n'.encode(), [Reply(550, 'unbekannt: jörg')]),
        (b'550 \xff\r\n', [Reply(550, '\N{REPLACEMENT CHARACTER}')]),
        (
            b'250 one\r\n250-two\r\n250 still two\r\n354 three\r\n',
            [Reply(250, 'one'), Reply(250, 'two\nstill two'), Reply(354, 'three')],
        ),
    ],
)
def test_replies_are_read_whole_in_their_order_in_whatever_pieces_they_come(
    data: bytes, replies: list[Reply]
) -> None:
    for size in (1, 3, len(data)):
        reader = ReplyReader()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [reply for piece in pieces for reply in reader.feed(piece)] == replies
        assert reader.is_between_replies


def test_incomplete_reply_is_kept() -> None:
    reader = ReplyReader()
    assert list(reader.feed(b'250 one\r\n354 th')) == [Reply(250, 'one')]
    assert not reader.is_between_replies
    assert list(reader.feed(b'ree\r\n')) == [Reply(354, 'three')]


@pytest.mark.parametrize(
    'data',
    [
        b'what\r\n',
        b'25 ok\r\n',
        b'\r\n',
        b'2500 ok\r\n',
        b'HTTP/1.1 400 Bad Request\r\n',
        b'250-one\r\nwhat\r\n',
        b'x' * (MAX_REPLY_BYTES + 1),
        (b'250-' + b'x' * 1000 + b'\r\n') * 100,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(RelayGoneError):
        list(ReplyReader().feed(data))
