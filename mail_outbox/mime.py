"""Message bytes without the detour over an object tree.

The standard library's EmailMessage takes 1.4 ms for a text and HTML message, this 0.1 ms (2026-11).
"""

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

from mail_outbox.envelope import Attachment, InvalidEmailError
from mail_outbox.headers import FOLD_CHARS, MAX_LINE_CHARS, header
from mail_outbox.parameters import parameter, parameters, split_parameters

MAX_FILENAME_CHARS = 255
MAX_CONTENT_TYPE_CHARS = 1000
# One call of C code holds the interpreter's lock until it is done, and with it the loop, also from
# a thread: on so much it takes some milliseconds.
CHUNK = 1024 * 1024
BASE64_CHUNK_BYTES = 57 * 16384  # whole lines of 76 characters
TEXT_HEAD = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n'
TYPE_NAME = r"[\w!#$%&'*+.^`{|}~-]{1,127}"  # RFC 2045, 5.1
MEDIA_TYPE = re.compile(rf'{TYPE_NAME}/{TYPE_NAME}', re.ASCII)
CONTENT_ID = re.compile(r'[!-;=?-~]{1,255}')  # printable ASCII without angle brackets and spaces
CONTROL_CHARACTER = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')
UNKNOWN_TYPE = 'application/octet-stream'


def body_part(text: str, subtype: str) -> bytes:
    """Return a text part: its headers, an empty line, its content.

    The content is in seven-bit form, which every relay takes.

    Raises:
        InvalidEmailError: the text has a NUL, which no relay takes (RFC 5321, 4.5.2), or half a
            character.
    """
    name = 'body_html' if subtype == 'html' else 'body_text'
    if '\0' in text:
        raise InvalidEmailError(f'{name}: must not contain NUL')
    try:
        content = _with_lf(text)
    except UnicodeEncodeError as error:
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)') from error
    encoding, chunks = b'7bit', _slices(content)
    if not text.isascii() or _has_long_line(content) or _has_many_dots(content):
        encoding, chunks = b'quoted-printable', _quoted_printable(chunks)
    return _with_crlf(chunks, TEXT_HEAD % (subtype.encode(), encoding))


def _with_lf(text: str) -> bytes:
    """Return text in UTF-8, every line with LF at its end."""
    chunks = []
    start = 0
    while start < len(text):
        end = start + CHUNK
        if text[end - 1 : end + 1] == '\r\n':
            end += 1
        chunk = text[start:end]
        chunks.append(
            (chunk.replace('\r\n', '\n').replace('\r', '\n') if '\r' in chunk else chunk).encode()
        )
        start = end
    if not (chunks and chunks[-1].endswith(b'\n')):
        chunks.append(b'\n')
    return b''.join(chunks)


def _slices(content: bytes) -> Iterable[bytes]:
    if len(content) <= CHUNK:
        return [content]
    return (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))


def _with_crlf(chunks: Iterable[bytes], head: bytes = b'') -> bytes:
    return b''.join([head, *(chunk.replace(b'\n', b'\r\n') for chunk in chunks)])


def _quoted_printable(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Encode chunk by chunk as if they were one."""
    line = b''  # the last, that the next chunk goes on with
    for chunk in chunks:
        encoded = binascii.b2a_qp(line + chunk, istext=True)
        end = encoded.rfind(b'\n') + 1
        line = binascii.a2b_qp(encoded[end:])
        yield _without_leading_dots(encoded[:end])
    yield _without_leading_dots(binascii.b2a_qp(line, istext=True))


def _without_leading_dots(encoded: bytes) -> bytes:
    encoded = encoded.replace(b'\n.', b'\n=2E')
    return b'=2E' + encoded[1:] if encoded.startswith(b'.') else encoded


def _has_many_dots(content: bytes) -> bool:
    """Return whether dots at the beginning of lines are encoded.

    Doubling them (RFC 5321, 4.5.2) in a large body would block the loop.
    """
    return len(content) > CHUNK and b'\n.' in content


def _has_long_line(content: bytes) -> bool:
    """Return whether a line is too long to travel as it is; looks at few of the line ends only."""
    start = 0
    while len(content) - start > MAX_LINE_CHARS:
        start = content.rfind(b'\n', start, start + MAX_LINE_CHARS + 1) + 1
        if not start:
            return True
    return False


def attachment_part(attachment: Attachment, *, inline: bool = False) -> bytes:
    """Return an attachment: its headers, an empty line, its content.

    The content is in base64; a message stays as it is.

    Args:
        inline: Whether it is shown where the HTML refers to it.
    Raises:
        InvalidEmailError: file name, content type or Content-ID cannot stand in a header.
    """
    media_type, given = _media_type(attachment)
    content: Sequence[bytes] | None = None
    encoding = b'7bit'
    if media_type.lower().startswith('message/'):
        content = _seven_bit(attachment.data)
    if content is None:
        content, encoding = _base64(attachment.data), b'base64'
        # base64 is not for them (RFC 2045, 6.4).
        if media_type.lower().startswith(('message/', 'multipart/')):
            media_type, given = UNKNOWN_TYPE, []
    cid = content_id(attachment)
    return b''.join(
        [
            _with_parameters('Content-Type', media_type, given),
            b'Content-Transfer-Encoding: %b\r\n' % encoding,
            _with_parameters(
                'Content-Disposition', 'inline' if inline else 'attachment', _filename(attachment)
            ),
            header('Content-ID', f'<{cid}>') if cid else b'',
            b'\r\n',
            *content,
        ]
    )


def check_attachment(attachment: Attachment) -> None:
    """Refuse what attachment_part refuses, which does not depend on the data.

    Raises:
        InvalidEmailError: file name, content type or Content-ID cannot stand in a header.
    """
    attachment_part(replace(attachment, data=b''))


def content_id(attachment: Attachment) -> str:
    """Return the Content-ID without its angle brackets; an empty one is none."""
    cid = attachment.cid or ''
    if isinstance(cid, str) and cid[:1] + cid[-1:] == '<>':
        cid = cid[1:-1]
    if cid and not (isinstance(cid, str) and CONTENT_ID.fullmatch(cid)):
        raise InvalidEmailError(f'{_name(attachment)}: {repr(cid)[:80]} is no Content-ID')
    return cid


def _name(attachment: Attachment) -> str:
    return f'attachment {repr(attachment.filename)[:80]}'


def _media_type(attachment: Attachment) -> tuple[str, list[str]]:
    """Return the type and its parameters as they stand in the header, without malformed ones."""
    given: object = attachment.content_type
    if given is None:
        return UNKNOWN_TYPE, []
    if (
        isinstance(given, str)
        and len(given) <= MAX_CONTENT_TYPE_CHARS
        and not CONTROL_CHARACTER.search(given)
    ):
        media_type, found = split_parameters(given)
        if MEDIA_TYPE.fullmatch(media_type):
            return media_type, parameters(found)
    raise InvalidEmailError(f'{_name(attachment)}: {repr(given)[:80]} is no content type')


def _filename(attachment: Attachment) -> list[str]:
    """Return the file name as a parameter (RFC 2183; RFC 2231 where it is not ASCII)."""
    name: object = attachment.filename
    if name is None:
        return []
    if (
        not isinstance(name, str)
        or len(name) > MAX_FILENAME_CHARS
        or CONTROL_CHARACTER.search(name)
    ):
        raise InvalidEmailError(f'{_name(attachment)}: not a file name')
    return parameter('filename', name)


def _with_parameters(name: str, value: str, given: Sequence[str]) -> bytes:
    line = '; '.join([f'{name}: {value}', *given])
    return (line if len(line) <= FOLD_CHARS else line.replace('; ', ';\r\n ')).encode() + b'\r\n'


def _seven_bit(data: bytes) -> Sequence[bytes] | None:
    """Return a message as it travels; None when it has to be encoded."""
    if not data.isascii() or b'\0' in data:
        return None
    content = _with_lf(data.decode('ascii'))
    return (
        None
        if _has_long_line(content) or _has_many_dots(content)
        else [_with_crlf(_slices(content))]
    )


def _base64(data: bytes) -> Sequence[bytes]:
    chunks = []
    for start in range(0, len(data), BASE64_CHUNK_BYTES):
        encoded = binascii.b2a_base64(data[start : start + BASE64_CHUNK_BYTES], newline=False)
        lines = [encoded[start : start + 76] for start in range(0, len(encoded), 76)]
        chunks.append(b'\r\n'.join([*lines, b'']))
    return chunks


def multipart(subtype: str, parts: Sequence[bytes], seed: str, parameter: bytes = b'') -> bytes:
    """Join parts; in multipart/alternative the preferred one comes last.

    Args:
        seed: The same seed and parts give the same bytes, so that a retry repeats the message
            exactly.
        parameter: One more for the Content-Type, with the semicolon in front of it.
    """
    boundary = b''
    # At first, and when somebody who knew the seed wrote the boundary into a part.
    while any(boundary in part for part in parts):
        seed = blake2b(seed.encode(), digest_size=15).hexdigest()
        boundary = b'=_' + seed.encode()
    head = b'Content-Type: multipart/%b; boundary="%b"%b\r\n\r\n--%b\r\n' % (
        subtype.encode(), boundary, parameter, boundary,
    )  # fmt: skip
    # One join: each copy of a large message is made in one piece.
    pieces = [head]
    for part in parts:
        pieces += [part, b'\r\n--%b\r\n' % boundary]
    pieces[-1] = b'\r\n--%b--\r\n' % boundary
    return b''.join(pieces)
