import base64
import bz2
import gzip
import json
import lzma
import pickle
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ops.celery.bodies import MAX_BODY_BYTES
from ops.celery.messages import Meaning, is_envelope, read_message

# What Celery 5.7 with kombu 5.7 wrote into Redis, and under which key: each name says how the task
# was called.
CAPTURED = {
    line['name']: line['message'].encode()
    for line in map(
        json.loads,
        Path(__file__).parents[1].joinpath('celery_messages.jsonl').read_text().splitlines(),
    )
}
NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
NO_TASKS: dict[str, Meaning] = {}


def message(
    task='app.send_email_task',
    args=(7,),
    kwargs=None,
    *,
    protocol=2,
    encoding='base64',
    headers=None,
    **more,
):
    """A message in kombu's JSON, as Celery makes it."""
    if protocol == 1:
        told = {
            'task': task,
            'id': 'x',
            'args': list(args),
            'kwargs': kwargs or {},
            'eta': None,
            'utc': True,
        }
        body, own = told | (headers or {}), {}
    else:
        body, own = (
            [list(args), kwargs or {}, {'callbacks': None}],
            {'task': task, 'eta': None} | (headers or {}),
        )
    text = json.dumps(body)
    return json.dumps({
        'body': base64.b64encode(text.encode()).decode() if encoding == 'base64' else text,
        'content-encoding': 'utf-8', 'content-type': 'application/json', 'headers': own,
        'properties': {'body_encoding': encoding, 'delivery_tag': 'x'},
    } | more).encode()  # fmt: skip


def read(raw, tasks=NO_TASKS, **options):
    return read_message(raw, tasks, **options)


def packed(task, body, **headers):
    """A message whose body stands in the form that its content type and compression say."""
    return message(
        task, headers={'argsrepr': '()', 'kwargsrepr': '{}'} | headers,
        body=base64.b64encode(body).decode(),
    )  # fmt: skip


@pytest.mark.parametrize('name', CAPTURED)
def test_a_message_of_a_real_celery_is_known_for_one(name):
    assert is_envelope(CAPTURED[name])
    assert is_envelope(CAPTURED[name][-4096:])


@pytest.mark.parametrize(
    'name',
    [
        'args', 'kwargs', 'eta', 'eta_naive', 'expires', 'compressed_gzip', 'compressed_bzip2',
        'compressed_lzma',
        'queue', 'chain', 'link', 'text_id', 'protocol1', 'protocol1_countdown', 'protocol1_gzip',
        'priority', 'sep_prefix',
    ],
)  # fmt: skip
def test_a_message_of_a_real_celery_in_json_is_understood(name):
    for raw, unacked in (
        (CAPTURED[name], False),
        (b'[' + CAPTURED[name] + b', "", "celery"]', True),
    ):
        told = read(raw, unacked=unacked)
        assert (told.task, told.meaning, told.email_id) == (
            'app.tasks.email.send_email_task',
            Meaning.SEND,
            123,
        )
        assert (told.problem, told.by_header) == (None, False)
        assert told.goes_on == (name in ('chain', 'link'))
        assert told.expires == (NOON if name == 'expires' else None)
        if name != 'protocol1_countdown':
            etas = {'eta': NOON - timedelta(hours=2), 'eta_naive': NOON}
            assert told.not_before == etas.get(name)
        else:
            assert told.not_before is not None


@pytest.mark.parametrize('name', ['body_pickle', 'body_kw_pickle', 'body_pickle_gzip'])
def test_a_pickled_message_is_known_by_what_its_headers_show(name):
    told = read(CAPTURED[name])
    assert (told.meaning, told.email_id, told.by_header, told.problem) == (
        Meaning.SEND,
        123,
        True,
        None,
    )
    assert told.not_before == (NOON if name == 'body_pickle_gzip' else None)


def test_a_pickled_message_without_a_clear_header_says_what_there_is():
    hidden = read(CAPTURED['body_pickle_hidden'])
    assert hidden.task == 'app.tasks.email.send_email_task'
    assert hidden.email_id is None
    assert "'(***)'" in hidden.problem
    assert (
        read(CAPTURED['protocol1_pickle']).problem
        == "its body is 'application/x-python-serialize', not JSON"
    )
    assert (
        read(CAPTURED['other_pickle']).problem is None
    )  # another application's task may have any form


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ('unpickled',))


@pytest.mark.parametrize(
    'content_type',
    ['application/x-python-serialize', 'application/x-yaml', 'application/x-msgpack', None, ['x']],
)
def test_no_body_but_json_is_ever_loaded(content_type):
    body = base64.b64encode(pickle.dumps(Bomb())).decode()
    shows = {'argsrepr': '(7,)', 'kwargsrepr': '{}'}
    told = read(message(headers=shows, body=body, **{'content-type': content_type}))
    assert (told.email_id, told.by_header) == (7, True)


@pytest.mark.parametrize(
    ('args', 'kwargs', 'email_id'),
    [
        ('(7,)', '{}', 7), ('[7]', None, 7), ("('7',)", '{}', 7), ('(7, 8)', '{}', 7),
        ("(7, 'x...", '{}', 7),
        ('()', "{'email_id': 7}", 7), ('()', "{'email_id': '7', 'x': 1}", 7),
        ('()', "{'x': 1, 'email_id': 7, ...}", 7),
        ('[]', '{"email_id": 7}', 7),
        ('(7', '{}', None), ('(7...', '{}', None), ('...', '{}', None), ('(***)', '{}', None),
        ("('7", '{}', None),
        ('()', "{'email_id': 7", None), ('()', "{'email_id': 7...", None),
        ('()', "{'other_email_id': 7}", None),
        ('(0,)', '{}', None), ('(-7,)', '{}', None), ('(7.5,)', '{}', None),
        ('(True,)', '{}', None), (7, '{}', None),
        (None, None, None), ('(' * 100_000, '{}', None), ('(99999999999999999999,)', '{}', None),
        ('()', ['x'], None),
        ("({'email_id': 7},)", '{}', None), ('(9223372036854775808,)', '{}', None),
        ('(\u0667,)', '{}', None),
    ],
)  # fmt: skip
def test_the_text_of_headers_counts_only_when_it_leaves_no_doubt(args, kwargs, email_id):
    told = read(
        message(
            headers={'argsrepr': args, 'kwargsrepr': kwargs},
            **{'content-type': 'application/x-msgpack'},
        )
    )
    assert told.email_id == email_id
    assert (told.problem is None) == (email_id is not None)


BODY = json.dumps([[7], {}, {}]).encode()


@pytest.mark.parametrize(
    ('compression', 'pack'),
    [
        ('application/x-gzip', zlib.compress), ('application/x-gzip', gzip.compress),
        ('gzip', gzip.compress),
        ('application/x-bz2', bz2.compress), ('application/x-lzma', lzma.compress),
        ('xz', lzma.compress),
    ],
)  # fmt: skip
def test_packed_bodies_are_unpacked_up_to_a_limit(compression, pack):
    assert read(packed('send_email', pack(BODY), compression=compression)).email_id == 7
    whole = pack(json.dumps([[7], {}, {'x': 'y' * 2000}]).encode())
    assert (
        'cannot be unpacked'
        in read(packed('send_email', whole[: len(whole) // 2], compression=compression)).problem
    )
    bomb = pack(b'[' * (MAX_BODY_BYTES + 1))
    told = read(packed('send_email', bomb, compression=compression))
    assert 'unpacks to more than' in told.problem
    assert read(packed('send_email', bomb, compression=compression, argsrepr='(7,)')).email_id == 7


@pytest.mark.parametrize(
    'compression', ['application/x-brotli', 'application/zstd', 'x' * 1000, ['gzip'], 7]
)
def test_an_unknown_compression_says_so(compression):
    assert (
        'its compression is unknown'
        in read(packed('send_email', BODY, compression=compression)).problem
    )


def test_of_a_message_that_is_too_large_its_end_is_read():
    told = read(
        message(body='x', headers={'argsrepr': '(7,)', 'kwargsrepr': '{}'})[10:], whole=False
    )
    assert (told.meaning, told.email_id, told.by_header) == (Meaning.SEND, 7, True)
    assert read(message('app.report', body='x')[10:], whole=False).problem is None
    for end in (
        b'',
        b'junk',
        b'"headers": {',
        b'"headers": {"task": "\xff"}',
        b'"headers": {"task": 7}',
    ):
        assert read(end, whole=False).problem == 'it is too large'


@pytest.mark.parametrize('protocol', [1, 2])
@pytest.mark.parametrize('encoding', ['base64', None])
def test_both_protocols_and_body_encodings_are_read(protocol, encoding):
    for args, kwargs in (
        ([7], {}),
        ([], {'email_id': 7}),
        (['7'], {}),
        ([7, 'more'], {'email_id': 8}),
    ):
        told = read(
            message('t.retry_failed_email', args, kwargs, protocol=protocol, encoding=encoding)
        )
        assert (told.meaning, told.email_id, told.problem) == (Meaning.RETRY, 7, None)


@pytest.mark.parametrize('protocol', [1, 2])
def test_an_eta_without_a_zone_is_utc(protocol):
    for eta, expected in (
        ('2026-08-01T12:00:00', datetime(2026, 8, 1, 12, tzinfo=UTC)),
        ('2026-08-01T14:00:00+02:00', datetime(2026, 8, 1, 12, tzinfo=UTC)),
        ('2026-08-01T12:00:00Z', NOON),
        ('0001-01-01T00:00:00+14:00', datetime.min.replace(tzinfo=UTC)),
        ('9999-12-31T23:59:59-14:00', datetime.max.replace(tzinfo=UTC)),
        (1785585600, NOON),
        ('soon', None),
        (1e300, None),
        (True, None),
        ([], None),
    ):
        assert read(message(protocol=protocol, headers={'eta': eta})).not_before == expected


def test_tasks_are_known_by_the_last_part_of_their_name_or_by_mapping():
    known = {
        'app.mail.process_pending_emails_task': Meaning.DUTY,
        'send_email': Meaning.SEND,
        'app.report': None,
    }
    assert {name: read(message(name)).meaning for name in known} == known
    assert read(message('app.deliver'), {'app.deliver': Meaning.SEND}).email_id == 7


@pytest.mark.parametrize(
    'raw',
    [
        b'', b'junk', b'\xff\xfe', b'null', b'[]', b'7', b'{}', b'[' * 100_000, b'{"headers": 7}',
        b'1' * 5000, b'{"a":NaN}',
        message(args=[]), message(args=[True]), message(args=[0]), message(args=[2**63]),
        message(args=[{'id': 7}]),
        message(args=['7; DROP']), message(kwargs=None, args=[None]), message(args=[7.0]),
        message(args=['\ud800']),
        message(**{'content-type': 'application/x-python-serialize'}),
        message(**{'content-type': ['x']}),
        message(body='!not base64!'), message(body=7), message(properties=None),
        message(body='\ud800', properties={}),
        *(message(body=base64.b64encode(b'[[' + b'[' * n + b']' * n + b'], {}]').decode())
            for n in range(880, 999, 3)),
        message(headers={'compression': 'gzip'}), message(headers={'task': None}),
        message(headers={'task': ['x']}),
        message(body=base64.b64encode(b'[' * 100_000).decode()),
        message(body=base64.b64encode(b'9' * 5000).decode()),
    ],
)  # fmt: skip
def test_what_is_no_message_says_so_and_never_raises(raw):
    for unacked in (False, True):
        for whole in (True, False):
            told = read(raw, unacked=unacked, whole=whole)
            assert told.problem or not whole
            assert told.email_id is None
            str(told.task).encode()


FORMS_OF_UNKNOWN = {
    'first argument': message('shop.mail.deliver', [7]),
    'as text': message('shop.mail.deliver', ['7', 'more']),
    'email_id': message('shop.mail.deliver', [], {'email_id': 7}),
    'id': message('shop.mail.deliver', [], {'id': '7'}),
    'id after something else': message('shop.mail.deliver', ['urgent'], {'email_id': 7}),
    'protocol 1': message('shop.mail.deliver', [7], protocol=1),
    'another body': message(
        'shop.mail.deliver',
        headers={'argsrepr': '(7,)', 'kwargsrepr': '{}'},
        **{'content-type': 'x-pickle'},
    ),
    'packed in a form that nobody here unpacks': message(
        'shop.mail.deliver',
        headers={'argsrepr': '(7,)', 'kwargsrepr': '{}', 'compression': 'application/zstd'},
    ),
    'another body, by name': message(
        'shop.mail.deliver',
        headers={'argsrepr': '()', 'kwargsrepr': "{'id': 7}"},
        **{'content-type': 'x-pickle'},
    ),
}


@pytest.mark.parametrize('form', FORMS_OF_UNKNOWN)
def test_of_an_unknown_task_the_id_that_it_may_be_about_is_read_and_nothing_is_asked_of_it(form):
    told = read(FORMS_OF_UNKNOWN[form])
    assert (told.task, told.meaning, told.may_mean) == ('shop.mail.deliver', None, 7)
    assert (told.email_id, told.problem) == (None, None)
    known = read(FORMS_OF_UNKNOWN[form], {'shop.mail.deliver': Meaning.SEND})
    assert (known.email_id, known.problem) == (7, None)
    other = read(FORMS_OF_UNKNOWN[form], {'shop.mail.deliver': Meaning.OTHER})
    assert (other.meaning, other.may_mean, other.problem) == (Meaning.OTHER, None, None)


@pytest.mark.parametrize('protocol', [1, 2])
def test_of_an_unknown_task_the_eta_is_read(protocol):
    told = read(message('t.deliver', [7], headers={'eta': NOON.isoformat()}, protocol=protocol))
    assert (told.may_mean, told.not_before) == (7, NOON)


@pytest.mark.parametrize(
    'raw',
    [
        message('t.report', ['x']), message('t.report', []), message('t.report', [True]),
        message('t.report', [0]),
        message('t.report', [2**63]), message('t.report', [[7]]), message('t.report', body='%'),
        message('t.report', [], {'day': 7}), message('t.report', body='W10='),
        message('t.report', [7.0]),
        message('t.report', headers={'argsrepr': '(***)', 'kwargsrepr': "{'a': {'id': 7}}"},
            **{'content-type': 'y'}),
    ],
)  # fmt: skip
def test_an_unknown_task_of_any_other_form_is_about_no_e_mail_and_no_problem(raw):
    assert read(raw).may_mean is None
    assert read(raw).problem is None
