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

from fleet.wire import MAX_JOB_BYTES, RefusedJobError, deserialize, serialize

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
    ('value', 'first_protocol'), [(b'', 3), (b'\0bytes', 3), ({1, 'a'}, 4), (frozenset({1}), 4), (bytearray(b'a'), 5)]
)
def test_bytes_and_sets_pass_where_they_need_no_global(value: Any, first_protocol: int) -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps(job(value), protocol)
        if protocol >= first_protocol:
            assert deserialize(data) == job(value)
        else:
            with pytest.raises(RefusedJobError, match='refused to load'):
                deserialize(data)


def test_protocol_of_a_stock_producer_carries_every_plain_value() -> None:
    value = [1, 0.5, 'a', b'a', (1,), {1}, {'a': None}]
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
        with pytest.raises(RefusedJobError, match=r'refused to load \w+(\.\w+)*: only plain values are accepted'):
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
    [b'', b'.', b'N', b'{"f": "send_email"}', b'\xff' * 100, b'\x80\xff.', b'0.', b'h\x05.', b'I12x\n.', b'L1\n.']
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
    """Numbers a thousand times larger would end it, and after it the worker that takes the job over."""
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


# Results.


@pytest.mark.parametrize(
    'value',
    [{'email_id': 1, 'status': 'sent', 'attempts': 1}, None, [1, (2, b'x')], True, 0.5, {1, 2}, bytearray(b'x'), 2**70],
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
        ({1: {dt.timedelta(1)}}, {1: '{datetime.timedelta(days=1)}'}),
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
