"""Extra header fields that an e-mail brings, such as Reply-To or List-Unsubscribe.

Structured fields (RFC 5322, 3.6; RFC 2369; RFC 2919) keep what their readers look for, <...>,
commas and parameters, when a value is not ASCII; of the others, and of those nobody knows, the
whole value becomes encoded words (RFC 2047).
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote

from mail_outbox.envelope import (
    InvalidEmailError,
    ascii_address,
    parse_addresses,
    refuse_control_characters,
)
from mail_outbox.headers import address, encoded_words, header, unstructured
from mail_outbox.parameters import parameters, split_parameters

SHORT_CHARS = 500  # fits into a line, with a name before it, even if it has no space
# Of a structured field that is not ASCII: <...>, comments and what is between them.
MAX_PIECES = 500
MAX_EXTRA_CHARS = 64 * 1024  # of all extra fields; relays take between 32 KB and 1 MB
JSON_CHARS_PER_CHAR = 12  # "\\ud83d\\ude00" is one
URI_SAFE = ''.join(map(chr, range(33, 127)))
URI = re.compile(r'([a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?)([^/?#:@]+)(.*)', re.IGNORECASE | re.DOTALL)
MAILTO = re.compile(r'(mailto:[^?@]*@)([^?@,]+)(.*)', re.IGNORECASE | re.DOTALL)
# A comment or quoted string without its end is one all the same: to look again from behind its
# start would take the square of the length.
PIECE = re.compile(
    r'<([^<>]*+)>|\(((?:[^()\\]|\\.)*+)\)?|"((?:[^"\\]|\\.)*+)"?|[^<("]++|.', re.DOTALL
)
BARE_URI = re.compile(r'[^\s,]++(?:,++[^\s,]++)*+')
TOUCHING = re.compile(r'>(,?)<')


HEADER_NAME = re.compile(r'[!-9;-~]{1,255}')  # RFC 5322, 2.2

# Header fields that this program makes itself; an extra header must not contradict them. Some are
# made of a value of their own.
OWN_HEADERS: Mapping[str, str | None] = {
    'from': 'from_address', 'sender': 'sender_address', 'to': 'recipient', 'cc': 'cc', 'bcc': 'bcc',
    'subject': 'subject', 'message-id': 'message_id',
    **dict.fromkeys((
        'date', 'mime-version', 'content-type', 'content-transfer-encoding', 'return-path',
        'received', 'dkim-signature',
    )),
}  # fmt: skip
# Of those that may be given, those that an e-mail has once at most: RFC 5322, 3.6; RFC 2045;
# RFC 2369; RFC 2919; RFC 3834; RFC 8058.
ONCE = frozenset({
    'reply-to', 'in-reply-to', 'references', 'auto-submitted', 'list-id', 'list-help',
    'list-unsubscribe', 'list-unsubscribe-post', 'list-subscribe', 'list-post', 'list-owner',
    'list-archive', 'content-id', 'content-description', 'content-disposition', 'content-language',
    'content-location',
})  # fmt: skip

Headers = Mapping[str, Any] | Sequence[Any]  # name -> text, or pairs of both


def header_pairs(headers: Headers) -> list[tuple[str, str]]:
    """Return extra header fields, such as Reply-To or List-Unsubscribe, as pairs, checked.

    Raises:
        InvalidEmailError: names the field that is malformed, reserved, or given once too often.
    """
    pairs = list(headers.items()) if isinstance(headers, Mapping) else [*map(_pair, headers)]
    seen: set[str] = set()
    for name, value in pairs:
        if not (isinstance(name, str) and HEADER_NAME.fullmatch(name)):
            raise InvalidEmailError(f'headers: {repr(name)[:80]} is not a header field name')
        lower = name.lower()
        if lower in OWN_HEADERS:
            instead = f', but by {OWN_HEADERS[lower]}' if OWN_HEADERS[lower] else ''
            raise InvalidEmailError(
                f'headers: {name} is made by the worker and cannot be set{instead}'
            )
        if lower in seen and (lower in ONCE or isinstance(headers, Mapping)):
            raise InvalidEmailError(f'headers: {name}: a field is given twice')
        seen.add(lower)
        if not isinstance(value, str):
            raise InvalidEmailError(f'headers: the value of {name} must be text')
        refuse_control_characters(f'headers: {name}', value)
    return pairs


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise InvalidEmailError(f'headers: {repr(item)[:80]} is no pair of a name and a text')
    return item[0], item[1]


def extra_fields(headers: Headers) -> list[tuple[str, bytes]]:
    """Return extra header fields such as Reply-To or List-Unsubscribe, with their names, in order.

    Raises:
        InvalidEmailError: names the field that is malformed, reserved, or given once too often.
    """
    pairs = header_pairs(headers)
    size_chars = sum(len(name) + len(value) for name, value in pairs)
    if size_chars > MAX_EXTRA_CHARS:
        raise InvalidEmailError(
            f'headers: {size_chars} characters, at most {MAX_EXTRA_CHARS} are allowed'
        )
    fields = []
    for name, value in pairs:
        field = f'headers: {name}'
        fields.append((name, header(name, _written(name, value, field), field)))
    return fields


def stored_fields(text: str) -> list[tuple[str, bytes]]:
    """Return the extra header fields of a row, whose column has them as JSON.

    Raises:
        InvalidEmailError: see extra_fields; or it is no JSON.
    """
    if len(text) > JSON_CHARS_PER_CHAR * MAX_EXTRA_CHARS:
        raise InvalidEmailError(
            f'headers: {len(text)} characters, at most {MAX_EXTRA_CHARS} are allowed'
        )
    try:
        value = json.loads(text)
        if isinstance(value, str):  # adopted tables hold JSON inside JSON strings
            value = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidEmailError(f'headers: is not JSON: {error}') from error
    if value is not None and not isinstance(value, dict | list):
        raise InvalidEmailError(
            f'headers: must be a JSON object, or pairs, not {type(value).__name__}'
        )
    return extra_fields(value or {})


def _written(name: str, value: str, field: str) -> str:
    structured = STRUCTURED.get(name.lower())
    return unstructured(value) if structured is None else structured(value, field)


# Structured fields: from a value to the same in ASCII.


def _addresses(value: str, field: str) -> str:
    """Read an address list (RFC 5322, 3.4): only the names in it are encoded."""
    found = parse_addresses(field, value, may_be_empty=True, ascii_only=True)
    has_old_phrase = any('.' in to.name for to in found)  # RFC 5322, 4.1: must not be generated
    if value.isascii() and len(value) <= SHORT_CHARS and not has_old_phrase:
        return value
    return ', '.join(address(to.name, to.address) for to in found) or 'undisclosed-recipients:;'


def _pieces(
    value: str, field: str, inside: Callable[[str], str], outside: Callable[[str], str]
) -> str:
    """Read <...>, comments, quoted strings and what is between them.

    Each is made ASCII in its own way.
    """
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
    """Return an IRI as a URI (RFC 3987, 3.1).

    The host is in its ASCII form, all else in percent-encoded UTF-8.
    """
    if uri.isascii():
        return uri
    if parts := URI.fullmatch(uri) or MAILTO.fullmatch(uri):
        before, host, rest = parts.groups()
        # What is no host name is at least a URI when it is percent-encoded.
        with contextlib.suppress(InvalidEmailError):
            uri = quote(before, URI_SAFE) + _ascii_domain('host', host) + rest
    return quote(uri, URI_SAFE)


def _structured(
    make: Callable[[str, str], str], *names: str
) -> dict[str, Callable[[str, str], str]]:
    return dict.fromkeys(names, make)


STRUCTURED: Mapping[str, Callable[[str, str], str]] = {
    **_structured(
        _addresses, 'reply-to', 'errors-to', 'disposition-notification-to', 'return-receipt-to',
        'mail-reply-to', 'mail-followup-to', 'resent-from', 'resent-sender', 'resent-to',
        'resent-cc', 'resent-bcc', 'apparently-to',
    ),
    **_structured(_list_id, 'list-id'),
    **_structured(
        _uris, 'list-unsubscribe', 'list-subscribe', 'list-help', 'list-post', 'list-owner',
        'list-archive', 'archived-at', 'content-location', 'content-base',
    ),
    **_structured(
        _message_ids, 'references', 'in-reply-to', 'content-id', 'resent-message-id',
        'original-message-id', 'supersedes',
    ),
    **_structured(_phrases, 'keywords'),
    **_structured(_parameters, 'content-disposition'),
    **_structured(
        _tokens, 'auto-submitted', 'list-unsubscribe-post', 'precedence', 'content-language',
        'resent-date', 'content-md5', 'content-duration',
    ),
}  # fmt: skip
