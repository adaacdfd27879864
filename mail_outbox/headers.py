"""Header fields: everything that becomes one passes `header`.

The standard library's folding decodes what already looks like an encoded word, and with it a line
end that is hidden there; nothing here decodes. All of it takes time in proportion to the value's
length.
"""

import base64
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from mail_outbox.envelope import InvalidEmailError, refuse_control_characters

NEEDS_QUOTES = re.compile(r'[()<>@,:;.\\"\[\]]| {2}|^ | $')  # RFC 5322, 3.2.3
# Of a name as it is; a longer one may have no space to be folded at, encoded words have.
MAX_NAME_CHARS = 300
FOLD_CHARS = 78  # RFC 5322, 2.1.1
MAX_LINE_CHARS = 998  # RFC 5322, 2.1.1: without the line end
DOTTED_WORD = r"[\w!#$%&'*+/=?^`{|}~-]++(?:\.[\w!#$%&'*+/=?^`{|}~-]++)*+"  # RFC 5322, 3.2.3
MESSAGE_ID = re.compile(r'[ -~]{1,980}')
MAX_MESSAGE_ID_CHARS = 250  # longer ones are cut on the way
GIVEN_MESSAGE_ID = re.compile(
    rf'(?=.{{1,{MAX_MESSAGE_ID_CHARS}}}\Z)<{DOTTED_WORD}@({DOTTED_WORD}|\[[!-Z^-~]+\])>',
    re.ASCII,
)
WORD_BYTES = 39  # in base64 52 characters: 'Subject: ' and the first encoded word share a line
WORD_CHARS = 54
# What may stand for itself in an encoded word in any place (RFC 2047, 5 (3)); a space is an
# underscore.
Q_SAFE = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/')
Q_ENCODED = tuple(
    chr(byte) if byte in Q_SAFE else '_' if byte == ord(' ') else f'={byte:02X}'
    for byte in range(256)
)  # fmt: skip


def unstructured(value: str) -> str:
    """Return a text that is to be read as it is, in ASCII.

    What looks like an encoded word is encoded as well: readers would decode it.
    """
    return value if value.isascii() and '=?' not in value else encoded_words(value)


def header(name: str, value: str, field: str = '', *, as_utf8: bool = False) -> bytes:
    """Return a header field with its line end, folded at spaces.

    A value that is not ASCII becomes encoded words (RFC 2047).

    Args:
        field: What an error names; the header's name by default.
        as_utf8: Leave it as it is (RFC 6532), for relays that offer SMTPUTF8.
    Raises:
        InvalidEmailError: the value would end the field, or has a word longer than a line may be.
    """
    refuse_control_characters(field or name, value)
    if not (as_utf8 or value.isascii()):
        value = encoded_words(value)
    line = f'{name}: {value}'
    if len(line) > FOLD_CHARS:
        try:
            line = _fold(line)
        except ValueError as error:
            raise InvalidEmailError(f'{field or name}: {error}') from error
    return line.encode() + b'\r\n'


def given_message_id(message_id: str) -> str:
    """Return a Message-ID of the caller's with its angle brackets, which he may leave out.

    Raises:
        InvalidEmailError: it is none (RFC 5322, 3.6.4).
    """
    bracketed = message_id if message_id.startswith('<') else f'<{message_id}>'
    if not GIVEN_MESSAGE_ID.fullmatch(bracketed):
        raise InvalidEmailError(
            f'message_id: {message_id[:80]!r} is not <something@domain> in ASCII, '
            f'of at most {MAX_MESSAGE_ID_CHARS} characters'
        )
    return bracketed


def message_id_field(message_id: str) -> bytes:
    """Return the Message-ID; nothing when there is none, then the relay gives one."""
    if message_id and not MESSAGE_ID.fullmatch(message_id):
        raise InvalidEmailError(
            f'message_id: {message_id[:80]!r} is not printable ASCII of at most 980 characters'
        )
    return header('Message-ID', message_id) if message_id else b''


@lru_cache(maxsize=16)  # the e-mails of a batch were claimed at one moment
def date_field(date: datetime) -> bytes:
    """Return the Date."""
    from email.utils import format_datetime  # noqa: PLC0415 - takes 6 ms; only workers render

    return header('Date', format_datetime(date))


def encoded_words(text: str) -> str:
    """Return text as encoded words, separated by spaces: readers drop those (RFC 2047, 6.2)."""
    data = text.encode()
    by_byte = [Q_ENCODED[byte] for byte in data]
    if sum(map(len, by_byte)) <= (len(data) + 2) // 3 * 4:
        words = [
            f'=?utf-8?q?{"".join(by_byte[start:end])}?=' for start, end in _cuts(data, by_byte)
        ]
    else:
        words = [
            f'=?utf-8?b?{base64.b64encode(data[start:end]).decode()}?='
            for start, end in _cuts(data, None)
        ]
    return ' '.join(words)


def _cuts(data: bytes, by_byte: list[str] | None) -> Iterator[tuple[int, int]]:
    """Yield where words of UTF-8 begin and end: a character is in one word (RFC 2047, 5)."""
    start = 0
    while start < len(data):
        if by_byte is None:
            end = min(start + WORD_BYTES, len(data))
        else:
            end, chars = start, 0
            while end < len(data) and (chars := chars + len(by_byte[end])) <= WORD_CHARS:
                end += 1
        while end < len(data) and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        yield start, end
        start = end


def address(name: str, spec: str) -> str:
    """Return an address as it stands in a header, in ASCII.

    The name is quoted or encoded where it has to be.
    """
    if not (name.isascii() and name.isprintable()) or '=?' in name or len(name) > MAX_NAME_CHARS:
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
    words = words or ['']
    lines = [f'{name} {words[0]}']  # an empty first line confuses old readers
    if len(lines[0]) > MAX_LINE_CHARS:
        lines = [name, f' {words[0]}']
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= FOLD_CHARS:
            lines[-1] += f' {word}'
        else:
            lines.append(f' {word}')
    if any(not part.strip() for part in lines):  # RFC 5322, 3.2.2: no line of white space only
        lines = (
            [line] if len(line) <= MAX_LINE_CHARS else _fold(' '.join(line.split())).split('\r\n')
        )
    if any(len(part) > MAX_LINE_CHARS for part in lines):
        raise ValueError(f'more than {MAX_LINE_CHARS} characters without a space')
    return '\r\n'.join(lines)
