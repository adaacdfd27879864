"""Single values that an application gives: each is checked by itself, and returned as it is stored.

Each function takes the value's name and the value, which is not None; its errors begin with the
name.
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from mail_outbox.envelope import Attachment, InvalidEmailError, refuse_control_characters
from mail_outbox.headers import given_message_id

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_DATA_BYTES = 1024 * 1024
MAX_WORD_CHARS = 255
MAX_TAGS = 50
MAX_ATTEMPTS = 100
MAX_EXPIRY_HOURS = 3650 * 24
AS_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False)
AS_ASCII = json.JSONEncoder(allow_nan=False)
NUL_IN_JSON = re.compile(r'(?<!\\)(?:\\\\)*\\u0000')
Priority = Literal['high', 'normal', 'low']
PRIORITIES = {word: number for number, word in enumerate(get_args(Priority))}


def _must_be(name: str, wanted: str, value: Any) -> InvalidEmailError:
    return InvalidEmailError(f'{name}: must be {wanted}, not {type(value).__name__}')


def plain(text: str) -> str:
    """Return a text without the class it has: drivers have ways of their own for some, as enums."""
    return str.__str__(text)


def checked_id(name: str, value: Any) -> Any:
    """Return an id: a number, a text or a UUID. PostgreSQL judges it by its column's type."""
    if isinstance(value, str):
        return checked_word(name, value) if value else ''
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise InvalidEmailError(f'{name}: is no number of 64 bits')
        return int(value)
    if not (uuid := sys.modules.get('uuid')) or not isinstance(value, uuid.UUID):
        raise _must_be(name, 'an id (a number, a text or a UUID)', value)
    return value


def checked_word(name: str, value: Any) -> str:
    """Return a text of 1 to 255 characters in one line."""
    if not isinstance(value, str):
        raise _must_be(name, 'text', value)
    if not 0 < len(value) <= MAX_WORD_CHARS:
        raise InvalidEmailError(f'{name}: {len(value)} characters, must be 1 to {MAX_WORD_CHARS}')
    refuse_control_characters(name, value)
    return plain(value)


def checked_message_id(name: str, value: Any) -> str:
    """Return a Message-ID with its angle brackets."""
    return given_message_id(checked_word(name, value))


def checked_text(name: str, value: Any) -> str:
    """Return a text that PostgreSQL and a message can hold, of at most MAX_BODY_BYTES."""
    if not isinstance(value, str):
        raise _must_be(name, 'text', value)
    if '\0' in value:
        raise InvalidEmailError(f'{name}: must not contain NUL')
    try:
        size_bytes = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)') from error
    if size_bytes > MAX_BODY_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_BODY_BYTES} bytes')
    return plain(value)


def checked_address(name: str, value: Any) -> str:
    """Return a text; what it says is read with the other addresses."""
    if not isinstance(value, str):
        raise _must_be(name, 'text', value)
    return plain(value)


def checked_address_list(name: str, value: Any) -> str:
    """Return the text of an address list, which may be given in pieces."""
    if isinstance(value, str):
        return plain(value)
    if not isinstance(value, list | tuple):
        raise _must_be(name, 'text, or a list of texts', value)
    for address in value:
        if not isinstance(address, str):
            raise InvalidEmailError(f'{name}: has a {type(address).__name__}, must be text')
    return ', '.join(value)


def checked_flag(name: str, value: Any) -> bool | None:
    """Return True; None for False, which is stored as nothing."""
    if not isinstance(value, bool):
        raise _must_be(name, 'True or False', value)
    return value or None


def checked_bytes(name: str, value: Any) -> bytes:
    """Return bytes."""
    if not isinstance(value, bytes):
        raise _must_be(name, 'bytes', value)
    return value


def checked_files(name: str, value: Any) -> tuple[Attachment, ...]:
    """Return attachments, which are looked at later."""
    if not isinstance(value, list | tuple):
        raise _must_be(name, 'a list', value)
    return tuple(value)


def checked_headers(name: str, value: Any) -> Any:
    """Return extra header fields, which are read with the other fields."""
    if not isinstance(value, Mapping | list | tuple):
        raise _must_be(name, 'a mapping, or pairs', value)
    return value


def checked_moment(name: str, value: Any) -> datetime:
    """Return a time that has a zone."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidEmailError(f'{name}: must be an aware datetime, with a time zone')
    return value


def checked_hours(name: str, value: Any) -> float:
    """Return how long an e-mail lives."""
    if not isinstance(value, int | float):
        raise _must_be(name, 'a number', value)
    if not (math.isfinite(value) and 0 < value <= MAX_EXPIRY_HOURS):
        raise InvalidEmailError(f'{name}: {value} is not between 0 and ten years')
    return value


def checked_size(name: str, value: Any) -> int:
    """Return a number of bytes."""
    if type(value) is not int:
        raise _must_be(name, 'a number of bytes', value)
    return value


def checked_version(name: str, value: Any) -> int:
    """Return the number of a template's version."""
    if type(value) is not int or not 0 < value < 2**31:
        raise InvalidEmailError(f'{name}: {value!r} is no number of a version')
    return value


def checked_attempts(name: str, value: Any) -> int:
    """Return how many attempts are made."""
    if type(value) is not int or not 1 <= value <= MAX_ATTEMPTS:
        raise InvalidEmailError(f'{name}: {value!r} is not a number between 1 and {MAX_ATTEMPTS}')
    return value


def checked_priority(name: str, value: Any) -> int:
    """Return the number of a priority's word."""
    if not isinstance(value, str):
        raise _must_be(name, 'text', value)
    if value not in PRIORITIES:
        raise InvalidEmailError(f'{name}: {value!r} is none of {", ".join(PRIORITIES)}')
    return PRIORITIES[value]


def checked_tags(name: str, value: Any) -> str:
    """Return the JSON of words with their words."""
    if not isinstance(value, Mapping):
        raise _must_be(name, 'a mapping', value)
    if len(value) > MAX_TAGS:
        raise InvalidEmailError(f'{name}: {len(value)}, at most {MAX_TAGS} are allowed')
    for tag, tagged in value.items():
        if tag is None or tagged is None:
            raise InvalidEmailError(f'{name}: {tag!r} must be text with a text')
        checked_word(f'{name}: a name', tag)
        checked_word(f'{name}: {tag}', tagged)
    return json_text(name, value)


def checked_object(name: str, value: Any) -> str:
    """Return the JSON of a mapping."""
    if not isinstance(value, Mapping):
        raise _must_be(name, 'a mapping', value)
    return json_text(name, value)


def json_text(name: str, value: Any) -> str:
    """Return JSON as text: the caller's connection may have any codec for jsonb, or none."""
    try:
        encoded = AS_JSON.encode(value)
        if not encoded.isascii():
            encoded.encode()  # fails for half a character
            encoded = AS_ASCII.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEmailError(f'{name}: is not JSON: {error}') from error
    if len(encoded) > MAX_DATA_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_DATA_BYTES} bytes')
    if NUL_IN_JSON.search(encoded):
        raise InvalidEmailError(f'{name}: must not contain NUL')
    return encoded
