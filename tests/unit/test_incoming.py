"""ingress/incoming.py: whatever comes in whatever pieces, the message is what RFC 5321 says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.incoming import BARE_LINE_END, LONG_LINE, NO_ROOM, BytesHeld, IncomingMessage

LINES = st.lists(st.binary(max_size=30).filter(lambda b: b'\r' not in b and b'\n' not in b))
PIECES = st.lists(st.integers(1, 40), min_size=1)


def fed(data, sizes, max_bytes=1_000_000):
    """A message, fed in pieces of these sizes over and over; what comes behind its end too."""
    message, place, turn = IncomingMessage(max_bytes), 0, 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        if message.feed(data[place : place + size]):
            message.rest += data[place + size :]
            return message
        place, turn = place + size, turn + 1
    return None


@given(LINES, PIECES, st.binary(max_size=20))
def test_lines_come_out_as_they_were_and_what_follows_is_left(lines, sizes, behind):
    sent = b''.join((b'.' if line[:1] == b'.' else b'') + line + b'\r\n' for line in lines)
    message = fed(sent + b'.\r\n' + behind, sizes)
    assert message.refusal is None
    assert message.content() == b''.join(line + b'\r\n' for line in lines)
    assert message.rest == behind


@given(st.lists(st.sampled_from([b'\r', b'\n', b'.', b'a', b'\r\n'])).map(b''.join), PIECES)
def test_only_crlf_dot_crlf_ends_it_and_bare_line_ends_are_refused(noise, sizes):
    whole = b'\r\n' + noise + b'\r\n.\r\n'
    end = whole.find(b'\r\n.\r\n')
    message = fed(whole[2:], sizes)
    taken = whole[: end + 2]
    assert message.rest == whole[end + 5 :]
    is_bare = taken.count(b'\r\n') != taken.count(b'\r') or taken.count(b'\r\n') != taken.count(
        b'\n'
    )
    assert (message.refusal == BARE_LINE_END) == is_bare


@pytest.mark.parametrize('sizes', [[1], [7], [5000], [1_000_000]])
def test_line_without_an_end_is_not_kept(sizes):
    message = IncomingMessage(10_000_000)
    data, held = b'x' * 200_000, 0
    for start in range(0, len(data), sizes[0]):
        message.feed(data[start : start + sizes[0]])
        held = max(held, message.size_bytes)
    assert (message.refusal, held <= 0) == (LONG_LINE, True)
    assert message.feed(b'\r\n.\r\nQUIT\r\n')
    assert message.rest == b'QUIT\r\n'


def test_what_is_too_much_for_all_together_is_refused_and_its_bytes_given_back():
    held = BytesHeld(1000)
    first, second = IncomingMessage(10_000), IncomingMessage(10_000)
    for message in (first, second):
        for _ in range(6):
            message.feed(b'x' * 98 + b'\r\n')
            held.note(message)
    assert (first.refusal, second.refusal) == (None, NO_ROOM)
    assert held.bytes == first.size_bytes
    held.note_gone(first)
    held.note_gone(first)
    assert held.bytes == 0
