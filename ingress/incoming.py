"""What follows DATA: found, freed of its dots, and bounded, chunk by chunk.

Only CR LF . CR LF ends a message (RFC 5321, 2.3.8 and 4.1.1.4). Servers that take another end for
one can be made to see several messages where the next one sees a single one: SMTP smuggling. So a
message with a CR or an LF by itself is read to its end, and refused.
"""

END = b'\r\n.\r\n'
# RFC 5321, 4.5.3.1.6: 998, a dot before it, the CRLF before that, and a CR behind it.
MAX_LINE_BYTES = 998 + 1 + 2 + 1
# What is read of a message that is refused already, before the connection ends.
MAX_DISCARDED_BYTES = 1024 * 1024

BARE_LINE_END = '550 5.6.0 the message has a CR or an LF by itself: end lines by CR LF'
LONG_LINE = '550 5.6.0 the message has a line of more than 998 bytes: encode it (RFC 5322, 2.1.1)'
NO_ROOM = '452 4.3.1 too much mail is being submitted at once: try again later'


class IncomingMessage:
    """A message that is being received.

    Attributes:
        refusal: The reply, once it is known that the message cannot be taken; its bytes are
            dropped.
        size_bytes: What is held of it.
        rest: What came behind its end.
    """

    def __init__(self, max_bytes: int) -> None:
        self.refusal: str | None = None
        self.rest = b''
        self._max_bytes = max_bytes
        # As if it stood behind a line: then one pattern finds the end, and each dot.
        self._tail = b'\r\n'
        self._pieces: list[bytes] = []
        self.size_bytes = -2
        self._seen_bytes = 0

    def feed(self, chunk: bytes) -> bool:
        """Take what was received. Returns whether the message has ended."""
        self._seen_bytes += len(chunk)
        data = self._tail + chunk
        end = data.find(END)
        if end >= 0:
            self._keep(data[: end + 2])
            self.rest, self._tail = data[end + len(END) :], b''
            return True
        # Up to the last line end, so that neither the end nor a dot is ever divided.
        cut = data.rfind(b'\r\n')
        if cut < 0 or len(data) - cut > MAX_LINE_BYTES:
            self.refuse(LONG_LINE)
            cut = max(0, len(data) - len(END))
        self._keep(data[:cut])
        self._tail = data[cut:]
        return False

    def refuse(self, reply: str) -> None:
        """Drop what is held, and what is still to come. The first reason is the one that counts."""
        if self.refusal is None:
            self.refusal = reply
        self._pieces.clear()
        self.size_bytes = 0

    @property
    def is_endless(self) -> bool:
        """Whether a client goes on and on with what is refused anyway."""
        return self._seen_bytes > self._max_bytes + MAX_DISCARDED_BYTES

    def content(self) -> bytes:
        """Return the message, line ends CRLF; once."""
        pieces, self._pieces = self._pieces, []
        return b''.join(pieces)[2:]

    def _keep(self, piece: bytes) -> None:
        if self.refusal is None and not self._has_whole_line_ends(piece):
            self.refuse(BARE_LINE_END)
        if self.refusal is not None:
            return
        text = piece.replace(b'\r\n.', b'\r\n')
        self.size_bytes += len(text)
        if self.size_bytes > self._max_bytes:
            self.refuse(too_large(self._max_bytes))
        else:
            self._pieces.append(text)

    @staticmethod
    def _has_whole_line_ends(piece: bytes) -> bool:
        pairs = piece.count(b'\r\n')
        return piece.count(b'\r') == pairs and piece.count(b'\n') == pairs


def too_large(max_bytes: int) -> str:
    """Return the reply to a message that is too large."""
    return f'552 5.3.4 the message is larger than {max_bytes} bytes (EMAIL_MAX_BYTES)'


class BytesHeld:
    """How much of all messages that are being received is in memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shares: dict[IncomingMessage, int] = {}
        self._held = 0

    @property
    def bytes(self) -> int:
        """How much it is."""
        return self._held

    def note(self, message: IncomingMessage) -> None:
        """Count what is held of a message; refuse it where all together are too much."""
        self._held += message.size_bytes - self._shares.get(message, 0)
        self._shares[message] = message.size_bytes
        if self._held > self._most:
            message.refuse(NO_ROOM)
            self.note_gone(message)

    def note_gone(self, message: IncomingMessage) -> None:
        """Forget a message that is stored, refused or cut off."""
        self._held -= self._shares.pop(message, 0)
