"""A reader of pickles that makes plain values only, and counts them before it makes them.

Loading an ordinary pickle is running whatever code its writer chose; and even without any global,
the pickle machine makes of 60 bytes a value that takes 2^n steps to hash, compare, copy or write
out. This reader is linear in what it reads. Plain values are None, booleans, numbers, strings,
bytes, lists, tuples, and dicts whose keys are scalars; what is referred to twice counts twice.
Opcodes are those that Python 3 writes for them in protocols 0 to 5, see pickletools of the standard
library.
"""

import struct
from collections.abc import Callable
from typing import Any, NoReturn

MAX_VALUES = 10_000
MAX_OPCODES = 5 * MAX_VALUES  # protocol 0 takes four for a tuple in a list; 20 ms
MAX_DEPTH = 100
MAX_INT_BYTES = 512  # some 1,200 digits
MAX_LINE = 4096  # of a number in protocol 0
# A larger int may share its hash with any number of others; an int's hash below is itself.
MAX_KEY = 2**60


class NotPlainError(Exception):
    """It asks for more than plain values, or for too many; the message says what."""


def read_plain(data: bytes) -> Any:
    """Read a pickle of plain values.

    Raises:
        NotPlainError: it has others, or too many, or nests them too deep.
        Exception: it is no pickle: IndexError, KeyError, ValueError, struct.error ...
    """
    return _Reader(data).read()


class _Reader:
    """One pass over the opcodes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # Containers with a second reference: one that grew would grow everywhere.
        self.shared: set[int] = set()
        self.values_left = MAX_VALUES
        self.bytes_left = len(data) + 1024  # what is written once always fits

    def read(self) -> Any:
        data, stack = self.data, self.stack
        for _ in range(MAX_OPCODES):
            code = data[self.at]
            self.at += 1
            if (make := MAKES[code]) is not None:
                stack.append(make(self))
                self.values_left -= 1
                if self.values_left < 0:
                    raise NotPlainError(
                        f'refused more than {MAX_VALUES} values: pass an id, not the content'
                    )
            elif code == STOP:
                break
            elif (act := ACTS[code]) is not None:
                act(self)
            else:
                raise ValueError(f'opcode {bytes([code])!r}')
        else:
            raise NotPlainError(
                f'refused more than {MAX_OPCODES} opcodes: pass an id, not the content'
            )
        (value,) = self.stack
        if MAX_VALUES - self.values_left > MAX_DEPTH:  # else it cannot be too deep
            self.walk(value, 0)
        return value

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise ValueError('it was cut off')
        at, self.at = self.at, end
        return self.data[at:end]

    def line(self, most: int) -> bytes:
        end = self.data.index(b'\n', self.at)
        if end - self.at > most:
            raise NotPlainError('refused a number that is too long')
        taken = self.data[self.at : end]
        self.at = end + 1
        return taken

    def to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        container = self.stack[-1]
        if type(container) is not kind or (self.marks and self.marks[-1] >= len(self.stack)):
            raise ValueError(f'no {kind.__name__} to add to')
        if id(container) in self.shared:
            raise NotPlainError('refused a value that contains itself, or grows after it was used')
        return container

    def get(self, index: int) -> Any:
        value = self.memo[index]
        if isinstance(value, list | dict | tuple):
            self.shared.add(id(value))  # the memo keeps it, and so its id
            self.walk(value, 0, charge=True)
        elif isinstance(value, str | bytes | bytearray):
            self.charge(value)
        return value

    def charge(self, value: Any) -> None:
        """Take a value off what is left, as if it was written once more."""
        self.values_left -= 1
        self.bytes_left -= len(value) if isinstance(value, str | bytes | bytearray) else 8
        if self.values_left < 0 or self.bytes_left < 0:
            raise NotPlainError('refused values that contain each other many times over')

    def walk(self, value: Any, depth: int, *, charge: bool = False) -> None:
        if depth > MAX_DEPTH:
            raise NotPlainError(f'refused values nested more than {MAX_DEPTH} deep')
        if charge:
            self.charge(value)
        if isinstance(value, dict):
            for key, item in value.items():
                if charge:
                    self.charge(key)
                self.walk(item, depth + 1, charge=charge)
        elif isinstance(value, list | tuple):
            for item in value:
                self.walk(item, depth + 1, charge=charge)

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            kind = type(key)
            if kind is int:
                if not -MAX_KEY < key < MAX_KEY:
                    raise NotPlainError('refused a number that is too long for a key')
            elif kind not in SCALARS:
                raise NotPlainError(
                    f'refused a {kind.__name__} as a key: only scalars are accepted'
                )
            target[key] = value


SCALARS = frozenset({str, bool, float, bytes, type(None)})


def _refused(what: str) -> NoReturn:
    shown = ''.join(c if c.isprintable() else '?' for c in what[:100])
    raise NotPlainError(f'refused to load {shown}: only plain values are accepted')


def _constant(value: Any) -> Callable[[_Reader], Any]:
    return lambda _: value


def _number(layout: str) -> Callable[[_Reader], Any]:
    packed = struct.Struct(layout)
    return lambda reader: packed.unpack(reader.take(packed.size))[0]


def _sized(layout: str, make: Callable[[bytes], Any]) -> Callable[[_Reader], Any]:
    length = struct.Struct(layout)
    return lambda reader: make(reader.take(length.unpack(reader.take(length.size))[0]))


def _text(data: bytes) -> str:
    return str(data, 'utf-8', 'surrogatepass')


def _int(data: bytes) -> int:
    if len(data) > MAX_INT_BYTES:
        raise NotPlainError('refused a number that is too long')
    return int.from_bytes(data, 'little', signed=True)


def _int_line(reader: _Reader) -> int:
    line = reader.line(MAX_LINE)
    return {b'00': False, b'01': True}[line] if line in (b'00', b'01') else _int_of(line)


def _int_of(line: bytes) -> int:
    number = int(line.removesuffix(b'L'))
    if number.bit_length() > MAX_INT_BYTES * 8:
        raise NotPlainError('refused a number that is too long')
    return number


def _tuple(length: int) -> Callable[[_Reader], Any]:
    def read(reader: _Reader) -> Any:
        if len(reader.stack) < length:
            raise IndexError('nothing to make a tuple of')
        values = tuple(reader.stack[-length:])
        del reader.stack[-length:]
        return values

    return read


def _append(reader: _Reader) -> None:
    value = reader.stack.pop()
    reader.top(list).append(value)


def _appends(reader: _Reader) -> None:
    values = reader.to_mark()
    reader.top(list).extend(values)


def _set_item(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.set_items(reader.top(dict), [key, value])


def _set_items(reader: _Reader) -> None:
    items = reader.to_mark()
    reader.set_items(reader.top(dict), items)


def _dict(reader: _Reader) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    reader.set_items(made, reader.to_mark())
    return made


def _put(index: Callable[[_Reader], int]) -> Callable[[_Reader], None]:
    def read(reader: _Reader) -> None:
        reader.memo[index(reader)] = reader.stack[-1]

    return read


def _index(layout: str) -> Callable[[_Reader], int]:
    packed = struct.Struct(layout)
    return lambda reader: int(packed.unpack(reader.take(packed.size))[0])


def _protocol(reader: _Reader) -> None:
    if (protocol := reader.take(1)[0]) > 5:
        raise ValueError(f'unknown protocol {protocol}')


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    _refused(f'{module!s:.80}.{name!s:.80}' if type(name) is type(module) is str else 'an object')


STOP = ord('.')
Table = list[Callable[[_Reader], Any] | None]


def _table(opcodes: dict[str, Callable[[_Reader], Any]]) -> Table:
    return [opcodes.get(chr(code)) for code in range(256)]


# What puts a value on the stack.
MAKES = _table({
    'N': _constant(None), '\x88': _constant(True), '\x89': _constant(False),
    'K': _number('<B'), 'M': _number('<H'), 'J': _number('<i'), 'G': _number('>d'),
    '\x8a': _sized('<B', _int), '\x8b': _sized('<I', _int),
    'I': _int_line, 'L': lambda reader: _int_of(reader.line(MAX_LINE)),
    'F': lambda reader: float(reader.line(MAX_LINE)),
    'V': lambda reader: str(reader.line(len(reader.data)), 'raw-unicode-escape'),
    '\x8c': _sized('<B', _text), 'X': _sized('<I', _text), '\x8d': _sized('<Q', _text),
    'C': _sized('<B', bytes), 'B': _sized('<I', bytes), '\x8e': _sized('<Q', bytes),
    '\x96': _sized('<Q', bytearray),
    ']': lambda _: [], 'l': _Reader.to_mark, '}': lambda _: {}, 'd': _dict,
    ')': _constant(()), 't': lambda reader: tuple(reader.to_mark()),
    '\x85': _tuple(1), '\x86': _tuple(2), '\x87': _tuple(3),
    'h': lambda reader: reader.get(reader.take(1)[0]),
    'j': lambda reader: reader.get(_index('<I')(reader)),
    'g': lambda reader: reader.get(int(reader.line(20))),
})  # fmt: skip
# What does something with those that are there, and what is refused by its name.
ACTS = _table({
    '(': lambda reader: reader.marks.append(len(reader.stack)),
    '\x80': _protocol,
    '\x95': lambda reader: reader.take(8),  # a frame
    'a': _append, 'e': _appends, 's': _set_item, 'u': _set_items,
    '\x94': _put(lambda reader: len(reader.memo)), 'q': _put(_index('<B')), 'r': _put(_index('<I')),
    'p': _put(lambda reader: int(reader.line(20))),
    'c': lambda reader: _refused(f'{_name(reader)}.{_name(reader)}'),
    'i': lambda reader: _refused(f'{_name(reader)}.{_name(reader)}'),
    '\x93': _stack_global,
    'P': lambda reader: _refused(f'persistent id {_name(reader)!r}'),
    'Q': lambda reader: _refused(f'persistent id {str(reader.stack.pop())[:80]!r}'),
    '\x8f': lambda _: _refused('a set'), '\x91': lambda _: _refused('a set'),
})  # fmt: skip


def _name(reader: _Reader) -> str:
    return str(reader.line(MAX_LINE), 'utf-8', 'replace')
