"""The wire format: arq's pickles, read without ever resolving a name.

Loading an ordinary pickle from Redis is running whatever code its writer chose. Plain arq producers send numbers,
strings, bytes, lists, tuples, dicts, sets and None, and for these the pickle machine needs no global at all.
"""

import io
import pickle
import re
from collections.abc import Callable
from typing import Any, NoReturn

MAX_JOB_BYTES = 1024 * 1024

# What arq's worker takes for granted of a job and of a result (arq.jobs.serialize_job): function, arguments, try, and
# milliseconds since 1970, for which the platform must have a date.
FIELDS: dict[str, Callable[[Any], bool]] = {
    'f': lambda value: isinstance(value, str),
    'a': lambda value: isinstance(value, tuple | list),
    'k': lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
    't': lambda value: value is None or (type(value) is int and abs(value) < 2**31),
    'et': lambda value: type(value) is int and 0 <= value < 253_402_300_800_000,  # the year 10,000
}


class RefusedJobError(Exception):
    """A job's bytes ask for more than plain values, or are no pickle at all."""


class _PlainUnpickler:
    """What both unpicklers are restricted to."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise RefusedJobError(f'refused to load {module}.{name}: only plain values are accepted')

    def persistent_load(self, pid: Any) -> NoReturn:
        raise RefusedJobError(f'refused to load persistent id {pid!r}: only plain values are accepted')


class _FastUnpickler(_PlainUnpickler, pickle.Unpickler):
    pass


class _FrugalUnpickler(_PlainUnpickler, pickle._Unpickler):  # noqa: SLF001 - the same, in Python
    """Keeps its memo in a dict: the C one allocates as much memory as the highest index a PUT names."""


# The opcodes PUT and LONG_BINPUT with a large index, or bytes that look like it; stock producers use neither.
LARGE_PUT = re.compile(rb'p\s*[+-]?[\d_]{5}|r..(?!\0\0)', re.DOTALL)
MAX_VALUES = 10_000


def deserialize(data: bytes) -> dict[str, Any]:
    """Read a job or a result.

    Raises:
        RefusedJobError: anything but a dict of plain values. arq records the job as failed.
    """
    if len(data) > MAX_JOB_BYTES:
        raise RefusedJobError(f'refused a job of {len(data)} bytes: pass an id, not the content')
    try:
        unpickler = _FrugalUnpickler if LARGE_PUT.search(data) else _FastUnpickler
        value = unpickler(io.BytesIO(data)).load()
        _count_values(value, MAX_VALUES)
    except RefusedJobError:
        raise
    except Exception as error:
        # A broken pickle makes the machine fail in any way: EOFError, KeyError, MemoryError, UnpicklingError ...
        raise RefusedJobError(f'not a readable job: {type(error).__name__}: {error}') from error
    if not isinstance(value, dict):
        raise RefusedJobError(f'not a job: a pickled {type(value).__name__}')
    wrong = [key for key, fits in FIELDS.items() if not fits(value.get(key))]
    if wrong:
        raise RefusedJobError(f'not a job: its field {wrong[0]!r} is missing or malformed')
    return value


def _count_values(value: Any, left: int) -> int:
    """Refuse a job whose values, written out, would never end: lists may contain each other many times over."""
    if left <= 0:
        raise RefusedJobError(f'refused a job of more than {MAX_VALUES} values: pass an id, not the content')
    left -= 1
    if isinstance(value, dict):
        for key, item in value.items():
            left = _count_values(item, _count_values(key, left))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            left = _count_values(item, left)
    return left


class _NotPlainError(Exception):
    """A value that only a global could bring back."""


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, _: Any) -> NoReturn:
        """Refuse what the pickle machine cannot make by itself; it asks about nothing else."""
        raise _NotPlainError


PROTOCOL = 5  # the first that needs no global for a bytearray


def serialize(data: dict[str, Any]) -> bytes:
    """Write a job or a result with plain values only; what is not plain becomes its description."""
    written = io.BytesIO()
    try:
        _PlainPickler(written, PROTOCOL).dump(data)
    except _NotPlainError:
        return pickle.dumps(_plain(data), PROTOCOL)
    return written.getvalue()


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, BaseException):
        return {'error': type(value).__name__, 'message': str(value)}
    return repr(value)
