"""The wire format: plain values pass, everything else is refused before anything of it runs."""

import builtins
import datetime as dt
import io
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.wire import MAX_JOB_BYTES, RefusedJobError, deserialize, serialize

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def job(argument: Any) -> dict[str, Any]:
    """Return what arq pickles for `enqueue_job('send_email', argument)`."""
    return {'t': None, 'f': 'send_email', 'a': (argument,), 'k': {}, 'et': 1_700_000_000_000}


# Plain values.


@pytest.mark.parametrize(
    'value',
    [
        123,
        -1,
        2**200,
        0.5,
        float('inf'),
        True,
        False,
        None,
        '',
        'Grüße \N{GRINNING FACE}',
        'x' * 100_000,
        [],
        [1, 'a', None],
        (),
        (1,),
        (1, (2, [3])),
        {},
        {'a': {'b': [1, (2,)]}, 1: None},
    ],
    ids=lambda value: repr(value)[:30].encode('ascii', 'replace').decode(),
)
def test_plain_value_passes_in_every_protocol(value: Any) -> None:
    for protocol in PROTOCOLS:
        assert deserialize(pickle.dumps(job(value), protocol)) == job(value)


# Before these protocols pickle writes them as calls of a global, which is what is refused.
@pytest.mark.parametrize(
    ('value', 'first_protocol'), [(b'', 3), (b'\0bytes', 3), (bytearray(b'a'), 5)]
)
def test_bytes_pass_where_they_need_no_global(value: Any, first_protocol: int) -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps(job(value), protocol)
        if protocol >= first_protocol:
            assert deserialize(data) == job(value)
        else:
            with pytest.raises(RefusedJobError, match='refused to load'):
                deserialize(data)


def test_protocol_of_a_stock_producer_carries_every_plain_value() -> None:
    value = [1, 0.5, 'a', b'a', (1,), {'a': None}]
    assert deserialize(pickle.dumps(job(value))) == job(value)


# Hostile ones.


class Calls:
    """Pickles as a call, which an ordinary unpickler makes."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Harmless:
    def __repr__(self) -> str:
        return 'Harmless()'


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_call_is_refused_and_not_made(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / 'was here'
    calls = [
        Calls(os.system, f'touch "{trace}"'),
        Calls(builtins.eval, f'open({str(trace)!r}, "w")'),
        Calls(Path.touch, trace),
        Calls(getattr, trace, 'touch'),
    ]
    for call in calls:
        data = pickle.dumps(job(call), protocol)
        with pytest.raises(RefusedJobError, match='refused to load'):
            deserialize(data)
    assert not trace.exists()
    pickle.loads(pickle.dumps(job(calls[0]), protocol))
    assert trace.exists(), 'the pickle was not hostile'


@pytest.mark.parametrize(
    'value',
    [
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.timedelta(1),
        Decimal(1),
        UUID(int=1),
        1 + 2j,
        Harmless(),
        Harmless,
        len,
        OrderedDict(a=1),
        ValueError('x'),
        range(3),
        Path('/'),
    ],
    ids=repr,
)
def test_object_is_refused_by_its_name(value: Any) -> None:
    for protocol in PROTOCOLS:
        with pytest.raises(
            RefusedJobError, match=r'refused to load \w+(\.\w+)*: only plain values are accepted'
        ):
            deserialize(pickle.dumps(job(value), protocol))


@pytest.mark.parametrize(
    'data',
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b'\x80\x04\x8c\x02os\x8c\x06system\x93.',
        b'\x80\x02cbuiltins\nobject\n)\x81.',
        b'\x80\x02\x82\x01.',
        b'\x80\x02\x84\xff\xff\xff\x7f.',
        b'\x80\x04\x8c\x01a\x97.',
        b"}S'x'\nb.",
        b'\x80\x05\x97.',
    ],
)
def test_opcode_that_makes_objects_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedJobError):
        deserialize(data)


@pytest.mark.parametrize('protocol', [0, 1, 4])
def test_persistent_id_is_refused(protocol: int) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> str | None:
            return 'the row' if value == 'object' else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(job('object'))
    with pytest.raises(RefusedJobError, match='persistent id'):
        deserialize(buffer.getvalue())


def test_truncated_job_is_refused_wherever_it_was_cut() -> None:
    data = pickle.dumps(job([1, 'text', b'bytes', {'a': (1, 2)}]))
    for length in range(len(data)):
        with pytest.raises(RefusedJobError):
            deserialize(data[:length])


@pytest.mark.parametrize(
    'data',
    [b'', b'.', b'N', b'{"f": "send_email"}', b'\xff' * 100, b'\x80\xff.', b'0.', b'h\x05.',
        b'I12x\n.', b'L1\n.']
)  # fmt: skip
def test_what_is_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedJobError, match=r'not a (readable )?job'):
        deserialize(data)


@pytest.mark.parametrize('value', [None, 1, 'send_email', ['send_email'], ('send_email', 1)])
def test_job_that_is_no_dict_is_refused(value: Any) -> None:
    with pytest.raises(RefusedJobError, match=f'not a job: a pickled {type(value).__name__}'):
        deserialize(pickle.dumps(value))


def test_huge_job_is_refused_unread() -> None:
    with pytest.raises(RefusedJobError, match='pass an id, not the content'):
        deserialize(pickle.dumps(job('x' * MAX_JOB_BYTES)))


@pytest.mark.parametrize(
    'data',
    [
        b'Nr' + struct.pack('<I', 1 << 23) + b'.',
        b'Np' + str(1 << 23).encode() + b'\n.',
        b'Np  +8_388_608\n.',
        b'\x80\x04\x95' + struct.pack('<Q', 1 << 26) + b'N.',
    ],
    ids=['memo', 'memo as text', 'memo as odd text', 'frame'],
)
def test_tiny_job_cannot_make_the_worker_allocate_much_memory(data: bytes) -> None:
    """Numbers a thousand times larger would end it, and after it the worker that takes the job
    over.
    """
    tracemalloc.start()
    try:
        with pytest.raises(RefusedJobError):
            deserialize(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 1024 * 1024


def test_job_that_doubles_itself_is_refused() -> None:
    """Its repr(), which arq logs before the job runs, would never end."""
    doubled: Any = 'x'
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(RefusedJobError):
        deserialize(pickle.dumps(job(doubled)))


# Small ones that never end.


def nested(levels: int) -> bytes:
    """Return opcodes that leave a tuple whose hash takes 2**levels steps."""
    return b')' + b''.join(b'q%ch%c\x86' % (n, n) for n in range(levels))


def hostile(argument: bytes) -> bytes:
    """Return a job with an argument given as opcodes."""
    head = (
        b'\x80\x02}(X\x01\0\0\0tNX\x01\0\0\0fX\x04\0\0\0echo'
        b'X\x01\0\0\0k}X\x02\0\0\0etK\x01X\x01\0\0\0a'
    )
    return head + argument + b'\x85u.'


HOSTILE = {
    'a set of a nested tuple': b'\x8f(' + nested(40) + b'\x90',
    'a frozenset of a nested tuple': b'(' + nested(40) + b'\x91',
    'a key that is a nested tuple': b'}' + nested(40) + b'Ns',
    'keys that are nested tuples': b'}(' + nested(40) + b'Nu',
    'a dict of a mark with a nested tuple': b'(' + nested(40) + b'Nd',
    'a key that is a small tuple': b'}' + b'K\x01\x85' + b'Ns',
    'a nested tuple as a value': nested(40),
    'tuples of three': b')' + b''.join(b'q%ch%ch%c\x87' % (n, n, n) for n in range(30)),
    'DUP': b')' + b'2\x86' * 40,
    'lists': b']' + b''.join(b'q%c0](h%ch%ce' % (n, n, n) for n in range(40)),
    'lists without POP': b''.join(b']q%c(' % n + (b'h%ch%c' % (n - 1,
        n - 1) if n else b'N') + b'e' for n in range(40)),
    'dicts': b'}q\x00' + b''.join(b'}q%c(K\x00h%cK\x01h%cu' % (n + 1, n, n) for n in range(40)),
    'a list that contains itself': b']q\x00h\x00a',
    'a dict that contains itself': b'}q\x00K\x01h\x00s',
    (
            'a list that grows '
            'after it was used'
    ): b'](]q\x00' + b'h\x00' * 9 + b'e' + b'h\x00(' + b'N' * 999 + b'e\x86',
    'a long text many times': b'(X' + struct.pack('<I',
        100_000) + b'x' * 100_000 + b'q\x00' + b'h\x00' * 9000 + b't',
    'many values': b'(' + b'N' * 20_000 + b't',
    'many marks': b'(' * 500_000 + b't' * 500_000,
    'deep tuples': b')' + b'\x85' * 5_000,
    'very deep tuples': b')' + b'\x85' * 500_000,
    'deep lists': b']' * 5_000 + b'a' * 4_999,
    'a deep key': b'}' + b')' + b'\x85' * 9_000 + b'Ns',
    'a number of a megabyte': b'\x8b' + struct.pack('<I', 1_000_000) + b'\x01' * 1_000_000,
    'a number of a kilobyte': b'\x8b' + struct.pack('<I', 1_000) + b'\x01' * 1_000,
    'a number without its bytes': b'\x8b' + struct.pack('<I', 0xFFFF_FFFF),
    'a number of negative length': b'\x8b\xff\xff\xff\xff',
    'digits': b'I' + b'9' * 900_000 + b'\n',
    'long digits': b'L' + b'9' * 3_000 + b'L\n',
    'a float of many digits': b'F' + b'9' * 900_000 + b'\n',
    'keys of one hash': b'}(' + b''.join(b'\x8a\x14' + (n * (2**61 - 1)).to_bytes(20,
        'little') + b'N' for n in range(2000)) + b'u',
    'a text without its bytes': b'\x8d' + struct.pack('<Q', 2**62),
    'a bytearray without its bytes': b'\x96' + struct.pack('<Q', 2**40),
    'a buffer': b'\x97',
    'an index without a value': b'h\x63',
    'a tuple of nothing': b'0' * 3 + b'\x87',
    'text of Python 2': b'U\x01a',
}  # fmt: skip


@pytest.mark.parametrize('argument', HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_job_is_refused_before_it_is_built(argument: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RefusedJobError):
            deserialize(hostile(argument))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024 * 1024


def test_harness_makes_a_job_that_can_be_read() -> None:
    assert deserialize(hostile(b'K\x07')) == {'t': None, 'f': 'echo', 'a': (7,), 'k': {}, 'et': 1}


def test_value_that_is_used_twice_passes_in_every_protocol() -> None:
    """Stock producers write the second as a reference to the first."""
    text, values, pair = 'a long text' * 9, [1, [2, 3]], (1, 'two')
    value = [text, values, {'a': values, 'b': [text, pair]}, values, pair, text]
    for protocol in PROTOCOLS:
        assert deserialize(pickle.dumps(job(value), protocol)) == job(value)


def test_long_lists_and_dicts_pass_in_every_protocol() -> None:
    """Written in pieces of a thousand."""
    value = [list(range(3_000)), {f'key {n}': n for n in range(2_500)}]
    for protocol in PROTOCOLS:
        assert deserialize(pickle.dumps(job(value), protocol)) == job(value)


@pytest.mark.parametrize(
    'value',
    [
        'Grüße\n\\ \N{GRINNING FACE}',
        '\ud800',
        'a\rb\x1a\0',
        -(2**31),
        2**31,
        -(2**300),
        1e308,
        -0.0,
    ],
)
def test_awkward_value_passes_in_every_protocol(value: Any) -> None:
    for protocol in PROTOCOLS:
        assert deserialize(pickle.dumps(job(value), protocol)) == job(value)


def test_stock_unpickler_in_python_writes_what_is_read() -> None:
    """Producers without the C module write other opcodes: BINPUT, LONG_BINPUT."""
    value = [[n, str(n), (n,)] for n in range(300)]
    for protocol in PROTOCOLS:
        written = io.BytesIO()
        pickle._Pickler(written, protocol).dump(job(value))
        assert deserialize(written.getvalue()) == job(value)


def test_job_of_another_serializer_is_told_as_such() -> None:
    for data, name in (
        (b'{"t": null, "f": "send_email", "a": [1]}', 'JSON'),
        (b'\x85\xa1t\xc0\xa1f\xa4echo', 'msgpack'),
    ):
        with pytest.raises(RefusedJobError, match=f'{name}.*default serializer'):
            deserialize(data)


# Results.


@pytest.mark.parametrize(
    'value',
    [
        {'email_id': 1, 'status': 'sent', 'attempts': 1},
        None,
        [1, (2, b'x')],
        True,
        0.5,
        bytearray(b'x'),
        2**70,
    ],
    ids=str,
)
def test_result_is_read_back_as_it_was(value: Any) -> None:
    result = job(1) | {'s': True, 'r': value, 'st': 0, 'ft': 1, 'q': 'arq:queue', 'id': 'j1'}
    assert deserialize(serialize(result)) == result


@pytest.mark.parametrize(
    ('value', 'plain'),
    [
        (ValueError('wrong'), {'error': 'ValueError', 'message': 'wrong'}),
        (Decimal('1.5'), "Decimal('1.5')"),
        ({1: {dt.timedelta(1)}}, {1: ['datetime.timedelta(days=1)']}),
        ({1}, [1]),
        ([frozenset({1})], [[1]]),
        ({frozenset({1}): Decimal(1), None: {2}}, {'frozenset({1})': "Decimal('1')", None: [2]}),
        (['\x8f', b'\x91'], ['\x8f', b'\x91']),
        (OrderedDict(a=Decimal(1)), {'a': "Decimal('1')"}),
        ((Decimal(1), [Decimal(2)]), ("Decimal('1')", ["Decimal('2')"])),
    ],
)
def test_result_that_is_not_plain_becomes_its_description(value: Any, plain: Any) -> None:
    assert pickle.loads(serialize({'r': value})) == {'r': plain}


def test_subclass_of_a_plain_type_is_written_without_its_class() -> None:
    class Word(str):
        __slots__ = ()

    class Number(int):
        pass

    written = pickle.loads(serialize({'r': [Word('a'), Number(1)]}))
    assert all(type(item) in (str, int) for item in written['r'])


def test_result_of_any_depth_is_written_or_refused_but_never_fatal() -> None:
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises(Exception, match='recursion'):
        serialize({'r': deep})
