"""Header fields: everything that becomes one passes `header`.

Structured fields (RFC 5322, 3.6; RFC 2369; RFC 2919) keep what their readers look for, <...>,
commas and parameters, when a value is not ASCII; of the others, and of those nobody knows, the
whole value becomes encoded words (RFC 2047). The standard library's folding decodes what already
looks like an encoded word, and with it a line end that is hidden there; nothing here decodes. All
of it takes time in proportion to the value's length.
"""

import base64
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

from mail_outbox.envelope import (
    InvalidEmailError,
    ascii_address,
    check_headers,
    parse_addresses,
    refuse_control_characters,
)
from mail_outbox.parameters import parameters, split_parameters

NEEDS_QUOTES = re.compile(r'[()<>@,:;.\\"\[\]]| {2}|^ | $')  # RFC 5322, 3.2.3
MAX_NAME_CHARS = (
    300  # of a name as it is; a longer one may have no space to be folded at, encoded words have
)
FOLD_CHARS = 78  # RFC 5322, 2.1.1
MAX_LINE_CHARS = 998  # RFC 5322, 2.1.1: without the line end
SHORT_CHARS = 500  # fits into a line, with a name before it, even if it has no space
MAX_PIECES = (
    500  # of a structured field that is not ASCII: <...>, comments and what is between them
)
MAX_EXTRA_CHARS = 64 * 1024  # of all extra fields; relays take between 32 KB and 1 MB
MESSAGE_ID = re.compile(r'[ -~]{1,980}')
WORD_BYTES = 39  # in base64 52 characters: 'Subject: ' and the first encoded word share a line
WORD_CHARS = 54
# What may stand for itself in an encoded word in any place (RFC 2047, 5 (3)); a space is an
# underscore.
Q_SAFE = frozenset(b'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/')
Q_ENCODED = tuple(
    chr(byte) if byte in Q_SAFE else '_' if byte == ord(' ') else f'={byte:02X}' for byte in range(256)
)  # fmt: skip
URI_SAFE = ''.join(map(chr, range(33, 127)))
URI = re.compile(r'([a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?)([^/?#:@]+)(.*)', re.IGNORECASE | re.DOTALL)
MAILTO = re.compile(r'(mailto:[^?@]*@)([^?@,]+)(.*)', re.IGNORECASE | re.DOTALL)
# A comment or quoted string without its end is one all the same: to begin anew behind its start
# would take the square.
PIECE = re.compile(
    r'<([^<>]*+)>|\(((?:[^()\\]|\\.)*+)\)?|"((?:[^"\\]|\\.)*+)"?|[^<("]++|.', re.DOTALL
)
BARE_URI = re.compile(r'[^\s,]++(?:,++[^\s,]++)*+')
TOUCHING = re.compile(r'>(,?)<')


def header(name: str, value: str, field: str = '') -> bytes:
    """Return a header field with its line end, folded at spaces; a non-ASCII value becomes encoded words (RFC 2047).

    Args:
        field: What an error names; the header's name by default.
    Raises:
        InvalidEmailError: the value would end the field, or has a word longer than a line may be.
    """
    refuse_control_characters(field or name, value)
    if not value.isascii():
        value = encoded_words(value)
    line = f'{name}: {value}'
    if len(line) > FOLD_CHARS:
        try:
            line = _fold(line)
        except ValueError as error:
            raise InvalidEmailError(f'{field or name}: {error}') from error
    return line.encode() + b'\r\n'


def message_id_field(message_id: str) -> bytes:
    """Return the Message-ID; nothing when there is none, then the relay gives one."""
    if message_id and not MESSAGE_ID.fullmatch(message_id):
        raise InvalidEmailError(
            f'message_id: {message_id[:80]!r} is not printable ASCII of at most 980 characters'
        )
    return header('Message-ID', message_id) if message_id else b''


def extra_fields(headers: Mapping[str, Any]) -> dict[str, bytes]:
    """Return extra header fields such as Reply-To or List-Unsubscribe, by name.

    Raises:
        InvalidEmailError: names the field that is malformed or reserved.
    """
    check_headers(headers)
    size_chars = sum(len(name) + len(value) for name, value in headers.items())
    if size_chars > MAX_EXTRA_CHARS:
        raise InvalidEmailError(
            f'headers: {size_chars} characters, at most {MAX_EXTRA_CHARS} are allowed'
        )
    fields = {}
    for name, value in headers.items():
        field = f'headers: {name}'
        structured = STRUCTURED.get(name.lower())
        fields[name] = header(
            name, value if structured is None else structured(value, field), field
        )
    return fields


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
    """Return an address as it stands in a header: ASCII, the name quoted or encoded where it has to be."""
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


# Structured fields: from a value to the same in ASCII.


def _addresses(value: str, field: str) -> str:
    """Read an address list (RFC 5322, 3.4): only the names in it are encoded."""
    found = parse_addresses(field, value, may_be_empty=True)
    if (
        value.isascii() and len(value) <= SHORT_CHARS and not any('.' in to.name for to in found)
    ):  # an old phrase
        return value
    return ', '.join(address(to.name, to.address) for to in found) or 'undisclosed-recipients:;'


def _pieces(
    value: str, field: str, inside: Callable[[str], str], outside: Callable[[str], str]
) -> str:
    """Read <...>, comments, quoted strings and what is between them; each is made ASCII in its own way."""
    if value.isascii():
        return value if len(value) <= SHORT_CHARS else TOUCHING.sub(r'>\1 <', value)
    done = ['']
    for piece in PIECE.finditer(value):
        whole, angled, comment, quoted = piece[0], *piece.groups()
        if len(done) > MAX_PIECES:  # looking at a host's name takes its time
            raise InvalidEmailError(f'{field}: more than {MAX_PIECES} parts')
        if whole.isascii():
            ascii_piece = whole
        elif angled is not None:
            ascii_piece = f'<{inside(angled)}>'
        elif comment is not None:
            ascii_piece = f'({encoded_words(comment)})'
        else:
            ascii_piece = outside(whole if quoted is None else re.sub(r'\\(.)', r'\1', quoted))
        if done[-1].endswith('?=') and not ascii_piece.startswith(' '):
            done.append(' ')  # an encoded word is a word
        done.append(ascii_piece)
    return TOUCHING.sub(r'>\1 <', ''.join(done).strip())


def _phrase(text: str) -> str:
    """Write the words before <...> as encoded words, with white space around them."""
    words = text.strip()
    return f'{" " * text.startswith(" ")}{encoded_words(words)}{" " * text.endswith(" ")}'


def _list_id(value: str, field: str) -> str:
    """Read a phrase and <list-id> (RFC 2919)."""
    return _pieces(value, field, partial(_domain, field), _phrase)


def _uris(value: str, field: str) -> str:
    """Read <URI>, <URI> with comments (RFC 2369), or one without its brackets."""
    if len(value.split()) > MAX_PIECES and not value.isascii():
        raise InvalidEmailError(f'{field}: more than {MAX_PIECES} parts')
    return _pieces(
        value, field, ascii_uri, lambda text: BARE_URI.sub(lambda bare: ascii_uri(bare[0]), text)
    )


def _message_ids(value: str, field: str) -> str:
    """Read <id@domain> <id@domain>, perhaps with old phrases between them (RFC 5322, 3.6.4)."""
    return _pieces(value, field, partial(_domain, field), _phrase)


def _phrases(value: str, _: str) -> str:
    """Read a list of phrases (RFC 5322, 3.6.5)."""
    if value.isascii():
        return value
    words = (word.strip() for word in value.split(','))
    return ', '.join(word if word.isascii() else encoded_words(word) for word in words)


def _parameters(value: str, _: str) -> str:
    """Read a value; name=value; ... (RFC 2045, 5.1)."""
    if value.isascii():
        return value
    main, found = split_parameters(value)
    return '; '.join([main if main.isascii() else encoded_words(main), *parameters(found)])


def _tokens(value: str, field: str) -> str:
    """Refuse what is no word of a fixed set: there is no other way to write it."""
    if not value.isascii():
        raise InvalidEmailError(f'{field}: must be ASCII')
    return value


def _domain(field: str, text: str) -> str:
    """Return what stands in <...>, with the domain's labels in ASCII (RFC 5890)."""
    local, at, domain = text.rpartition('@')
    if not local.isascii():
        raise InvalidEmailError(f'{field}: {text[:80]!r} must be ASCII before the @')
    return local + at + _ascii_domain(field, domain)


@lru_cache(maxsize=256)
def _ascii_domain(field: str, domain: str) -> str:
    if domain.isascii():
        return domain
    return ascii_address(f'x@{domain}', field).removeprefix('x@')


def ascii_uri(uri: str) -> str:
    """Return an IRI as a URI: the host in its ASCII form, all else in percent-encoded UTF-8 (RFC 3987, 3.1)."""
    if uri.isascii():
        return uri
    if parts := URI.fullmatch(uri) or MAILTO.fullmatch(uri):
        before, host, rest = parts.groups()
        with contextlib.suppress(
            InvalidEmailError
        ):  # no host name; percent-encoded it is at least a URI
            uri = quote(before, URI_SAFE) + _ascii_domain('host', host) + rest
    return quote(uri, URI_SAFE)


def _structured(
    make: Callable[[str, str], str], *names: str
) -> dict[str, Callable[[str, str], str]]:
    return dict.fromkeys(names, make)


STRUCTURED: Mapping[str, Callable[[str, str], str]] = {
    **_structured(
        _addresses, 'reply-to', 'errors-to', 'disposition-notification-to', 'return-receipt-to', 'mail-reply-to',
        'mail-followup-to', 'resent-from', 'resent-sender', 'resent-to', 'resent-cc', 'resent-bcc', 'apparently-to',
    ),
    **_structured(_list_id, 'list-id'),
    **_structured(
        _uris, 'list-unsubscribe', 'list-subscribe', 'list-help', 'list-post', 'list-owner', 'list-archive',
        'archived-at', 'content-location', 'content-base',
    ),
    **_structured(
        _message_ids, 'references', 'in-reply-to', 'content-id', 'resent-message-id', 'original-message-id',
        'supersedes',
    ),
    **_structured(_phrases, 'keywords'),
    **_structured(_parameters, 'content-disposition'),
    **_structured(
        _tokens, 'auto-submitted', 'list-unsubscribe-post', 'precedence', 'content-language', 'resent-date',
        'content-md5', 'content-duration',
    ),
}  # fmt: skip
