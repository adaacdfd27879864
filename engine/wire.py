"""The wire format: arq's pickles, of plain values only.

They are read by a reader of our own (engine/plain_pickle.py): who may write to Redis can neither
have the worker run code, nor have it make a value that never ends.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

from engine.plain_pickle import NotPlainError, read_plain

MAX_JOB_BYTES = 1024 * 1024
MAX_NAME_CHARS = 200  # it is written into logs, records and results

# What arq's worker expects of a job and of a result (arq.jobs.serialize_job): function,
# arguments, try, and milliseconds since 1970, for which the platform must have a date.
FIELDS: dict[str, Callable[[Any], bool]] = {
    'f': lambda value: isinstance(value, str) and len(value) <= MAX_NAME_CHARS,
    'a': lambda value: isinstance(value, tuple | list),
    'k': lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
    't': lambda value: value is None or (type(value) is int and abs(value) < 2**31),
    'et': lambda value: type(value) is int and 0 <= value < 253_402_300_800_000,  # the year 10,000
}


class RefusedJobError(Exception):
    """A job's bytes ask for more than plain values, or are no pickle at all."""


def deserialize(data: bytes) -> dict[str, Any]:
    """Read a job or a result.

    Raises:
        RefusedJobError: anything but a dict of plain values. arq records the job as failed.
    """
    if len(data) > MAX_JOB_BYTES:
        raise RefusedJobError(f'refused a job of {len(data)} bytes: pass an id, not the content')
    try:
        value = read_plain(data)
    except NotPlainError as error:
        raise RefusedJobError(str(error)) from None
    except Exception as error:
        # A broken pickle makes the reader fail in any way: IndexError, KeyError, ValueError ...
        why = other_serializer(data) or f'{type(error).__name__}: {error}'
        raise RefusedJobError(f'not a readable job: {why}') from error
    if not isinstance(value, dict):
        raise RefusedJobError(f'not a job: a pickled {type(value).__name__}')
    wrong = [key for key, fits in FIELDS.items() if not fits(value.get(key))]
    if wrong:
        raise RefusedJobError(f'not a job: its field {wrong[0]!r} is missing or malformed')
    return value


def other_serializer(data: bytes) -> str | None:
    """Say which serializer a producer seems to use instead of arq's own; no pickle begins so."""
    if data[:1] in (b'{', b'['):
        return "it is JSON; its producer must enqueue with arq's default serializer"
    if data[:1] and (0x81 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        return "it looks like msgpack; its producer must enqueue with arq's default serializer"
    return None


class _NotPlainError(Exception):
    """A value that only a global could bring back."""


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, _: Any) -> NoReturn:
        """Refuse what the pickle machine cannot make by itself; it asks about nothing else."""
        raise _NotPlainError


PROTOCOL = 5  # the first that needs no global for a bytearray
SCALARS = (type(None), bool, int, float, str, bytes)
SET_OPCODES = (b'\x8f', b'\x91')


def serialize(data: dict[str, Any]) -> bytes:
    """Write a job or a result with plain values only.

    A value that is not plain becomes its description, a set becomes a list.
    """
    written = io.BytesIO()
    try:
        _PlainPickler(written, PROTOCOL).dump(data)
    except _NotPlainError:
        return pickle.dumps(_plain(data), PROTOCOL)
    pickled = written.getvalue()
    if any(opcode in pickled for opcode in SET_OPCODES):  # or it only looks so
        return pickle.dumps(_plain(data), PROTOCOL)
    return pickled


def _plain(value: Any) -> Any:
    if type(value) in SCALARS or type(value) is bytearray:
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if type(value) in (set, frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {
            key if type(key) in SCALARS else repr(key): _plain(item) for key, item in value.items()
        }
    if isinstance(value, BaseException):
        return {'error': type(value).__name__, 'message': str(value)}
    return repr(value)
