"""A relay's replies out of the bytes of its connection (RFC 5321, 4.2.1)."""

import functools
from collections.abc import Iterator

from mail.outcome import Reply
from mail.relay.errors import RelayGoneError

MAX_REPLY_BYTES = 64 * 1024
CODE_CHARS = 3


class ReplyReader:
    """Collects whole replies, whatever pieces they come in."""

    def __init__(self) -> None:
        self._rest = b''
        self._lines: list[bytes] = []  # of a reply that is not complete yet
        self._unread = 0  # lines that came, and are not yielded yet

    @property
    def is_between_replies(self) -> bool:
        """Whether everything that came so far belongs to a whole reply."""
        return not (self._unread or self._rest or self._lines)

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield the replies that are complete with this data, in their order.

        Raises:
            RelayGoneError: what follows them is no SMTP, or a reply without end.
        """
        lines = (self._rest + data).split(b'\n')
        self._rest = lines.pop()
        self._unread = len(lines)
        for line in lines:
            self._unread -= 1
            reply = _last_line(line)
            if reply is None:
                self._lines.append(line)
            elif not self._lines:
                yield reply
            else:
                texts = [_text(earlier) for earlier in self._lines]
                self._lines.clear()
                yield Reply(reply.code, '\n'.join([*texts, reply.text]))
        if len(self._rest) + sum(map(len, self._lines)) > MAX_REPLY_BYTES:
            raise RelayGoneError(f'an SMTP reply of more than {MAX_REPLY_BYTES} bytes')


@functools.lru_cache(maxsize=64)  # relays say the same to every e-mail, but for the last reply
def _last_line(line: bytes) -> Reply | None:
    """Read a line that ends a reply; None when more of them follow."""
    code, dash = line[:CODE_CHARS], line[CODE_CHARS : CODE_CHARS + 1]
    if not (len(code) == CODE_CHARS and code.isdigit() and dash in b' -\r'):
        raise RelayGoneError(f'not an SMTP reply: {line[:80].decode("utf-8", "replace")!r}')
    return None if dash == b'-' else Reply(int(code), _text(line))


def _text(line: bytes) -> str:
    return line[CODE_CHARS + 1 :].strip().decode('utf-8', 'replace')
