"""What a record in Redis may hold: whoever may write there can write anything, of any size."""

import itertools
import sys
from typing import Any, get_args, get_origin

MAX_LISTED = 200  # of anything in a record
LARGEST = (
    2**53
)  # of no use beyond, and no number at all: whoever may write to Redis can write anything
MOST_TEXT = 500  # characters of a text in a list of a record
LISTS = frozenset({'emails', 'jobs', 'relays', 'duties', 'refused_jobs'})
# Of the lists in a record: what each part must be; it is left out otherwise.
PARTS: dict[str, Any] = {
    'id': int, 'phase': str, 'relay': str, 'started_at': int | float, 'job_id': str, 'name': str, 'place': str,
    'tls': str, 'state': str, 'retry_in_s': int | float, 'most_per_s': int | float, 'last_error': str,
    'every_s': int | float, 'missed': str, 'at': int | float, 'reason': str, 'why': str, 'function': str,
    'email_id': int,
}  # fmt: skip


def _with_parts(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: part for name, part in item.items() if _is_part(name, part)}
        for item in items[:MAX_LISTED]
    ]


def bounded(name: str, value: Any) -> Any:
    """Return a part of a record without what is too much of it, or is not what its parts must be."""
    if name in LISTS:
        return _with_parts(value)
    match value:
        case list():
            return [text[:MOST_TEXT] for text in value[:MAX_LISTED]]
        case dict():
            return dict(itertools.islice(value.items(), MAX_LISTED))
        case str():
            return value[:MOST_TEXT]
        case _:
            return value


def _is_part(name: str, value: Any) -> bool:
    if (
        isinstance(value, int | float) and not -sys.float_info.max <= value <= sys.float_info.max
    ):  # NaN neither
        return False
    return value is None or isinstance(value, PARTS.get(name, str | int | float))


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a field's type."""
    kind = get_origin(wanted) or wanted
    if kind is list:
        inner = get_origin(get_args(wanted)[0]) or get_args(wanted)[0]
        return isinstance(value, list) and all(isinstance(item, inner) for item in value)
    if kind in (int, float):
        return type(value) in (int, kind) and abs(value) < LARGEST
    return isinstance(value, kind)


def is_name(text: str) -> bool:
    """Whether Redis may be asked for this name: JSON can tell half characters, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
