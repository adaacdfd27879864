"""Checks of single values that an application gives; each error begins with the value's name."""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mail_outbox.envelope import InvalidEmailError, refuse_control_characters

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_DATA_BYTES = 1024 * 1024
MAX_TAGS = 50
MAX_WORD_CHARS = 255
NUL_IN_JSON = re.compile(r'(?<!\\)(?:\\\\)*\\u0000')


def check_word(name: str, value: Any) -> None:
    """Refuse what is neither None nor a text of 1 to 255 characters in one line.

    Raises:
        InvalidEmailError: names the value.
    """
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidEmailError(f'{name}: must be text, not {type(value).__name__}')
    if not 0 < len(value) <= MAX_WORD_CHARS:
        raise InvalidEmailError(f'{name}: {len(value)} characters, must be 1 to {MAX_WORD_CHARS}')
    refuse_control_characters(name, value)


def check_identifier(name: str, value: Any) -> None:
    """Refuse a number or a text that no column of ids takes; PostgreSQL knows its type.

    Raises:
        InvalidEmailError: names the value.
    """
    if isinstance(value, str):
        if len(value) > MAX_WORD_CHARS:
            raise InvalidEmailError(
                f'{name}: {len(value)} characters, at most {MAX_WORD_CHARS} are allowed'
            )
        refuse_control_characters(name, value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidEmailError(f'{name}: is no number of 64 bits')


def check_text(name: str, text: str) -> None:
    """Refuse text that PostgreSQL or a message cannot hold, or of more than MAX_BODY_BYTES.

    Raises:
        InvalidEmailError: names the value.
    """
    if '\0' in text:
        raise InvalidEmailError(f'{name}: must not contain NUL')
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)') from error
    if size_bytes > MAX_BODY_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_BODY_BYTES} bytes')


def check_times(send_at: datetime | None, expires_at: datetime | None, expiry_hours: float) -> None:
    """Refuse times without a zone, and a life that is none.

    Raises:
        InvalidEmailError: names the value.
    """
    for name, moment in (('send_at', send_at), ('expires_at', expires_at)):
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidEmailError(f'{name}: must be an aware datetime, with a time zone')
    if not isinstance(expiry_hours, int | float):
        raise InvalidEmailError(
            f'expiry_hours: must be a number, not {type(expiry_hours).__name__}'
        )
    if not (
        math.isfinite(expiry_hours)
        and 0 < expiry_hours <= timedelta(days=3650) / timedelta(hours=1)
    ):
        raise InvalidEmailError(f'expiry_hours: {expiry_hours} is not between 0 and ten years')
    if expires_at is not None:
        start = send_at or datetime.now(expires_at.tzinfo)
        if expires_at <= start:
            raise InvalidEmailError('expires_at: is over before the e-mail could be sent')


def check_tags(tags: Any) -> None:
    """Refuse what is neither None nor an object of words.

    Raises:
        InvalidEmailError: names the tag.
    """
    if tags is None:
        return
    if not isinstance(tags, Mapping):
        raise InvalidEmailError(f'tags: must be a mapping, not {type(tags).__name__}')
    if len(tags) > MAX_TAGS:
        raise InvalidEmailError(f'tags: {len(tags)}, at most {MAX_TAGS} are allowed')
    for name, value in tags.items():
        check_word('tags: a name', name)
        if name is None or value is None:
            raise InvalidEmailError(f'tags: {name!r} must be text with a text')
        check_word(f'tags: {name}', value)


def check_metadata(metadata: Any) -> None:
    """Refuse what is neither None nor a mapping; json_text looks into it.

    Raises:
        InvalidEmailError: says what it is.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidEmailError(f'metadata: must be a mapping, not {type(metadata).__name__}')


def json_text(name: str, value: Any) -> str | None:
    """Encode as text: the caller's connection may have any codec for jsonb, or none.

    Raises:
        InvalidEmailError: names the value; it is not JSON, or larger than MAX_DATA_BYTES.
    """
    if value is None:
        return None
    try:
        text = json.dumps(value, allow_nan=False)
        if '\\ud' in text:  # maybe half a character, for which this fails
            json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEmailError(f'{name}: is not JSON: {error}') from error
    if len(text) > MAX_DATA_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_DATA_BYTES} bytes')
    if NUL_IN_JSON.search(text):
        raise InvalidEmailError(f'{name}: must not contain NUL')
    return text
