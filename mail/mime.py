"""Message bytes without the detour over an object tree.

The standard library's EmailMessage takes 1.4 ms for a text and HTML message, this 0.1 ms (2026-11). It also decodes
what looks like an encoded word in any field, and with it a line end that is hidden there; nothing here decodes.
"""

import base64
import binascii
import re
from email.header import Header
from hashlib import blake2b
from urllib.parse import quote

from mail.envelope import Attachment

NEEDS_QUOTES = re.compile(r'[()<>@,:;.\\"\[\]]')  # RFC 5322, 3.2.3
LINE_END = re.compile(rb'\r\n|\r|\n')
ENCODED_WORD_CHARS = 66  # so that 'Subject: ' and the first word share a line
FOLD_CHARS = 78  # RFC 5322, 2.1.1
MAX_LINE_CHARS = 998  # RFC 5322, 2.1.1: without the line end
MAX_FILENAME_CHARS = 255
TEXT_HEAD = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n'
CONTENT_TYPE = re.compile(r'[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(; ?[ -~]{1,255})?', re.ASCII)
CONTENT_ID = re.compile(r'[!-;=?-~]{1,255}')  # printable ASCII without angle brackets and spaces


def header(name: str, value: str) -> bytes:
    """Return a header field with its line end, folded at spaces; a non-ASCII value becomes encoded words (RFC 2047)."""
    if not value.isascii():
        value = encoded_words(value)
    line = f'{name}: {value}'
    return (line if len(line) <= FOLD_CHARS else _fold(line)).encode() + b'\r\n'


def encoded_words(text: str) -> str:
    """Return text as encoded words, separated by spaces.

    email.policy's own folding decodes what already looks like an encoded word, and with it a line end hidden there.
    """
    return Header(text, 'utf-8', maxlinelen=ENCODED_WORD_CHARS).encode(splitchars='', linesep='\n').replace('\n', '')


def address(name: str, spec: str) -> str:
    """Return an address as it stands in a header: ASCII, the name quoted or encoded where it has to be."""
    if not name.isascii():
        return f'{encoded_words(name)} <{spec}>'
    if NEEDS_QUOTES.search(name):
        name = '"' + name.replace('\\', '\\\\').replace('"', '\\"') + '"'
    return f'{name} <{spec}>' if name else spec


def _fold(line: str) -> str:
    """Fold at spaces where there are any. A word stays whole: encoding it would break a URL.

    Raises:
        ValueError: a word is longer than a line may be.
    """
    name, *words = line.split(' ')
    lines = [f'{name} {words[0]}']  # an empty first line confuses old readers
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= FOLD_CHARS:
            lines[-1] += f' {word}'
        else:
            lines.append(f' {word}')
    if any(not part.strip() for part in lines):  # RFC 5322, 3.2.2: no line of white space only
        lines = [line] if len(line) <= MAX_LINE_CHARS else _fold(' '.join(line.split())).split('\r\n')
    if any(len(part) > MAX_LINE_CHARS for part in lines):
        raise ValueError(f'{name} has more than {MAX_LINE_CHARS} characters without a space')
    return '\r\n'.join(lines)


def body_part(text: str, subtype: str) -> bytes:
    """Return a text part: its headers, an empty line, its content in seven-bit form, which every relay takes."""
    content = text.encode()
    if b'\r' in content:
        content = LINE_END.sub(b'\n', content)
    if not content.endswith(b'\n'):
        content += b'\n'
    encoding = b'7bit'
    if not text.isascii() or _has_long_line(content):
        encoding, content = b'quoted-printable', binascii.b2a_qp(content, istext=True)
    return TEXT_HEAD % (subtype.encode(), encoding) + content.replace(b'\n', b'\r\n')


def _has_long_line(content: bytes) -> bool:
    """Return whether a line is too long to travel as it is; looks at few of the line ends only."""
    start = 0
    while len(content) - start > MAX_LINE_CHARS:
        start = content.rfind(b'\n', start, start + MAX_LINE_CHARS + 1) + 1
        if not start:
            return True
    return False


def attachment_part(attachment: Attachment) -> bytes:
    """Return an attachment: its headers, an empty line, its content in base64.

    Raises:
        ValueError: file name, content type or Content-ID cannot stand in a header.
    """
    if not CONTENT_TYPE.fullmatch(attachment.content_type):
        raise ValueError(f'attachment {attachment.filename!r}: {attachment.content_type!r} is no content type')
    if attachment.cid is not None and not CONTENT_ID.fullmatch(attachment.cid):
        raise ValueError(f'attachment {attachment.filename!r}: {attachment.cid!r} is no Content-ID')
    content_type = attachment.content_type
    if content_type.startswith(('multipart/', 'message/')):
        content_type = 'application/octet-stream'  # opaque to us, so sent as such
    disposition = 'attachment' if attachment.cid is None else 'inline'
    head = header('Content-Type', content_type) + b'Content-Transfer-Encoding: base64\r\n'
    head += f'Content-Disposition: {disposition};\r\n {_filename(attachment.filename)}\r\n'.encode()
    if attachment.cid is not None:
        head += header('Content-ID', f'<{attachment.cid}>')
    encoded = base64.b64encode(attachment.data)
    lines = [encoded[start : start + 76] for start in range(0, len(encoded), 76)]
    return head + b'\r\n' + b'\r\n'.join([*lines, b''])


def _filename(name: str) -> str:
    """Return the file name as a parameter (RFC 2183; RFC 2231 where it is not ASCII)."""
    if len(name) > MAX_FILENAME_CHARS or not name.isprintable():
        raise ValueError(f'attachment {name[:80]!r}: not a file name')
    if name.isascii():
        return 'filename="' + name.replace('\\', '\\\\').replace('"', '\\"') + '"'
    return f"filename*=utf-8''{quote(name, safe='')}"


def multipart(subtype: str, parts: list[bytes], seed: str) -> bytes:
    """Join parts; in multipart/alternative the preferred one comes last.

    Args:
        seed: The same seed and parts give the same bytes, so that a retry repeats the message exactly.
    """
    boundary, content = b'', b''.join(parts)
    while boundary in content:  # at first, and when somebody who knew the seed wrote it there
        seed = blake2b(seed.encode(), digest_size=15).hexdigest()
        boundary = b'=_' + seed.encode()
    head = b'Content-Type: multipart/%b; boundary="%b"\r\n\r\n--%b\r\n' % (subtype.encode(), boundary, boundary)
    return head + (b'\r\n--%b\r\n' % boundary).join(parts) + b'\r\n--%b--\r\n' % boundary
