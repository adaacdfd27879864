"""Header and body in the form that is signed: both "relaxed" (RFC 6376, 3.4.2 and 3.4.4).

White space that relays change on the way does not break such a signature.
"""

import base64
import hashlib
import re
from collections.abc import Iterator

# One call of C code holds the interpreter's lock, and with it the loop, also from a thread: on so
# much it takes 2 ms at worst (2026-11).
CHUNK_BYTES = 64 * 1024
WHITE_SPACE = re.compile(rb'[\t ]{2,}+|\t')  # what is not a single space already
FIELD_ENDS = re.compile(rb'\r\n(?![\t ])')
CRLF = b'\r\n'


def split_fields(head: bytes) -> list[tuple[str, bytes]]:
    """Return the fields of a header as they stand, each with its name in lower case."""
    fields = []
    for field in FIELD_ENDS.split(head):
        name, colon, _ = field.partition(b':')
        if colon:
            fields.append((name.strip().lower().decode('ascii', 'replace'), field))
    return fields


def relaxed_field(field: bytes) -> bytes:
    """Return a field in relaxed form, without the line end."""
    name, _, value = field.partition(b':')
    value = WHITE_SPACE.sub(b' ', value.replace(CRLF, b'')).strip(b' ')
    return name.strip().lower() + b':' + value


def body_hash(message: bytes, start: int) -> bytes:
    """Return the SHA-256 of a body in relaxed form, in base64.

    Args:
        message: With CRLF line ends.
        start: Where the body begins.
    """
    digest = hashlib.sha256()
    has_content, line_ends = False, 0  # those behind the content so far: the last ones do not count
    for chunk in _chunks(message, start):
        relaxed = _relaxed(chunk)
        content = relaxed.rstrip(CRLF)
        if content:
            digest.update(CRLF * line_ends)
            digest.update(content)
            has_content, line_ends = True, 0
        line_ends += (len(relaxed) - len(content)) // 2
    if has_content:
        digest.update(CRLF)
    return base64.b64encode(digest.digest())


def _relaxed(chunk: bytes) -> bytes:
    if b'  ' in chunk or b'\t' in chunk:
        chunk = WHITE_SPACE.sub(b' ', chunk)
    if b' \r\n' in chunk:
        chunk = chunk.replace(b' \r\n', CRLF)
    return chunk.removesuffix(b' ')


def _chunks(message: bytes, start: int) -> Iterator[bytes]:
    """Yield the body in pieces that end where a line does."""
    while start < len(message):
        end = message.rfind(CRLF, start, start + CHUNK_BYTES)
        if end < 0:
            end = message.find(CRLF, start)
        next_at = len(message) if end < 0 else end + 2
        yield message[start:next_at]
        start = next_at
