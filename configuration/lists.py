"""Settings that are a list of entries: JSON in the environment, or a file that holds it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Entry = TypeVar('Entry', bound=BaseModel)

LARGEST_BYTES = 4 * 1024 * 1024


def named_once(parts: Iterable[tuple[str, str, str]], must_be: str) -> dict[str, str]:
    """Return what names stand for, of parts as str.partition gives them.

    Raises:
        ValueError: a name is missing, or stands there twice; it says what the value must be.
    """
    named: dict[str, str] = {}
    for name, _, value in parts:
        if not name.strip() or name.strip() in named:
            raise ValueError(f'must be {must_be}')
        named[name.strip()] = value.strip()
    return named


def read_entries(
    value: Any, entry: type[Entry], example: str, more_keys: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Read a list of entries.

    Args:
        value: JSON, the name of a file with JSON, or what JSON gives.
        example: A list as it should be, for people.
        more_keys: Keys that the entry's class reads itself.
    Raises:
        ValueError: it is none, or says which entry is wrong, and what of it; never a value.
    """
    if isinstance(value, str):
        value = _parsed(value if value.lstrip().startswith(('[', '{')) else _read_file(value))
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be a list: {example}')  # noqa: TRY004 - pydantic reports no other
    return tuple(
        _read_entry(number, part, entry, more_keys) for number, part in enumerate(value, start=1)
    )


def _read_file(name: str) -> str:
    """Return what a file holds; its name may be a secret that stands in the wrong place."""
    try:
        with Path(name.strip()).open('rb') as opened:
            content = opened.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise ValueError(f'the file has more than {LARGEST_BYTES} bytes')  # noqa: TRY301
        return content.decode('utf-8-sig')
    except UnicodeDecodeError:
        raise ValueError('the file is not in UTF-8') from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f'neither a JSON list nor a file that can be read: {why}') from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'no JSON: {error.msg} (character {error.pos + 1})') from None
    except (RecursionError, ValueError):  # a number of more digits than Python reads
        raise ValueError('no JSON that can be read') from None


def _read_entry(number: int, part: Any, entry: type[Entry], more_keys: Sequence[str]) -> Entry:
    if isinstance(part, entry):
        return part
    try:
        return entry.model_validate(part)
    except ValidationError as error:
        first = error.errors()[0]
        key = '.'.join(map(str, first['loc']))
        keys = ', '.join((*entry.model_fields, *more_keys))
        unknown = first['type'] == 'extra_forbidden'
        reason = f'no such key; there are {keys}' if unknown else first['msg']
        raise ValueError(
            f'entry {number}{_called(part)}: {key[:80] + ": " if key else ""}'
            f'{reason.removeprefix("Value error, ")}'
        ) from None


def _called(part: Any) -> str:
    name = part.get('name') if isinstance(part, dict) else None
    return f' ({name[:63]})' if isinstance(name, str) and name.isprintable() else ''
