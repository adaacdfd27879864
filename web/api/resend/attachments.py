"""Files in JSON: text in base64, or, as the Python SDK may give them, arrays of bytes."""

import binascii
from typing import Any

BLANKS = b' \t\r\n'
# One call of C code holds the loop: so much is decoded in a millisecond.
CHUNK_CHARS = 1024 * 1024


def decoded(content: Any) -> bytes:
    """Return the bytes of a content: base64 with or without line ends, or an array of numbers.

    Bytes are returned as they are: of a large request, another process has decoded them.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(content, bytes):
        return content
    try:
        if isinstance(content, list):
            return bytes(map(as_integer, content))
        text = content.encode('ascii').translate(None, BLANKS)
        return b''.join(
            binascii.a2b_base64(text[start : start + CHUNK_CHARS], strict_mode=True)
            for start in range(0, len(text), CHUNK_CHARS)
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError('it is neither base64 nor an array of bytes') from error


def as_integer(number: Any) -> Any:
    """Return 7 for 7.0, which is an integer in JSON Schema."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def not_fetched(_: Any) -> None:
    """Refuse the address of a file.

    Raises:
        ValueError: always. Whoever may send could make this server ask others in its network.
    """
    raise ValueError('this server fetches no files: give `content` in base64')
