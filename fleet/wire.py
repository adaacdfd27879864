"""The wire format: arq's pickles, read without ever resolving a name.

Loading an ordinary pickle from Redis is running whatever code its writer chose. Plain arq producers send numbers,
strings, bytes, lists, tuples, dicts, sets and None, and for these the pickle machine needs no global at all.
"""

import io
import pickle
from typing import Any, NoReturn

MAX_JOB_BYTES = 1024 * 1024


class RefusedJobError(Exception):
    """A job's bytes ask for more than plain values, or are no pickle at all."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise RefusedJobError(f'refused to load {module}.{name}: only plain values are accepted')

    def persistent_load(self, pid: Any) -> NoReturn:
        raise RefusedJobError(f'refused to load persistent id {pid!r}: only plain values are accepted')


def deserialize(data: bytes) -> dict[str, Any]:
    """Read a job or a result.

    Raises:
        RefusedJobError: anything but a dict of plain values. arq records the job as failed.
    """
    if len(data) > MAX_JOB_BYTES:
        raise RefusedJobError(f'refused a job of {len(data)} bytes: pass an id, not the content')
    try:
        value = _PlainUnpickler(io.BytesIO(data)).load()
    except RefusedJobError:
        raise
    except Exception as error:
        # A broken pickle makes the machine fail in any way: EOFError, KeyError, MemoryError, UnpicklingError ...
        raise RefusedJobError(f'not a readable job: {type(error).__name__}: {error}') from error
    if not isinstance(value, dict):
        raise RefusedJobError(f'not a job: a pickled {type(value).__name__}')
    return value


def serialize(data: dict[str, Any]) -> bytes:
    """Write a job or a result with plain values only; what is not plain becomes its description."""
    return pickle.dumps(_plain(data))


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
