import base64
import json
from datetime import UTC, datetime

import pytest

from fleet.celery_messages import Meaning, read_message

# What Celery 5.7 with kombu 5.7 wrote, shortened by the parts that nobody reads.
CAPTURED = (
    b'{"body": "W1tdLCB7ImVtYWlsX2lkIjogMTIzfSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW'
    b'4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=", "content-encoding": "utf-8", "content-type": "application/json"'
    b', "headers": {"lang": "py", "task": "app.tasks.email.send_email_task", "id": "e2b5b2d4-cb2c-4be7-89d'
    b'a-eef84bcb085f", "shadow": null, "eta": null, "expires": null, "retries": 0, "timelimit": [null, nul'
    b'l], "argsrepr": "()", "kwargsrepr": "{\'email_id\': 123}", "origin": "gen3700@vm", "stamps": {}}, "pro'
    b'perties": {"correlation_id": "e2b5b2d4-cb2c-4be7-89da-eef84bcb085f", "delivery_mode": 2, "delivery_i'
    b'nfo": {"exchange": "", "routing_key": "celery"}, "priority": 0, "body_encoding": "base64", "delivery'
    b'_tag": "47396912-7eba-40c8-9d76-332b78cbdbe7"}}'
)
NO_TASKS: dict[str, Meaning] = {}


def message(task='app.send_email_task', args=(7,), kwargs=None, *, protocol=2, encoding='base64', headers=None, **more):
    """A message in kombu's JSON, as Celery makes it."""
    if protocol == 1:
        told = {'task': task, 'id': 'x', 'args': list(args), 'kwargs': kwargs or {}, 'eta': None, 'utc': True}
        body, own = told | (headers or {}), {}
    else:
        body, own = [list(args), kwargs or {}, {'callbacks': None}], {'task': task, 'eta': None} | (headers or {})
    text = json.dumps(body)
    return json.dumps({
        'body': base64.b64encode(text.encode()).decode() if encoding == 'base64' else text,
        'content-encoding': 'utf-8', 'content-type': 'application/json', 'headers': own,
        'properties': {'body_encoding': encoding, 'delivery_tag': 'x'},
    } | more).encode()  # fmt: skip


def read(raw, tasks=NO_TASKS, **options):
    return read_message(raw, tasks, **options)


def test_a_message_of_a_real_celery_is_understood():
    told = read(CAPTURED)
    assert (told.task, told.meaning, told.email_id) == ('app.tasks.email.send_email_task', Meaning.SEND, 123)
    assert (told.not_before, told.problem, told.raw) == (None, None, CAPTURED)
    taken = read(b'[' + CAPTURED + b', "", "celery"]', unacked=True)
    assert (taken.meaning, taken.email_id) == (Meaning.SEND, 123)


@pytest.mark.parametrize('protocol', [1, 2])
@pytest.mark.parametrize('encoding', ['base64', None])
def test_both_protocols_and_body_encodings_are_read(protocol, encoding):
    for args, kwargs in (([7], {}), ([], {'email_id': 7}), (['7'], {}), ([7, 'more'], {'email_id': 8})):
        told = read(message('t.retry_failed_email', args, kwargs, protocol=protocol, encoding=encoding))
        assert (told.meaning, told.email_id, told.problem) == (Meaning.RETRY, 7, None)


@pytest.mark.parametrize('protocol', [1, 2])
def test_an_eta_without_a_zone_is_utc(protocol):
    for eta, expected in (
        ('2026-08-01T12:00:00', datetime(2026, 8, 1, 12, tzinfo=UTC)),
        ('2026-08-01T14:00:00+02:00', datetime(2026, 8, 1, 12, tzinfo=UTC)),
        ('soon', None),
        (17, None),
    ):
        assert read(message(protocol=protocol, headers={'eta': eta})).not_before == expected


def test_tasks_are_known_by_the_last_part_of_their_name_or_by_mapping():
    known = {'app.mail.process_pending_emails_task': Meaning.DUTY, 'send_email': Meaning.SEND, 'app.report': None}
    assert {name: read(message(name)).meaning for name in known} == known
    assert read(message('app.deliver'), {'app.deliver': Meaning.SEND}).email_id == 7


@pytest.mark.parametrize(
    'raw',
    [
        b'', b'junk', b'\xff\xfe', b'null', b'[]', b'7', b'{}', b'[' * 100_000, b'{"headers": 7}',
        message(args=[]), message(args=[True]), message(args=[0]), message(args=[2**63]), message(args=[{'id': 7}]),
        message(args=['7; DROP']), message(kwargs=None, args=[None]),
        message(**{'content-type': 'application/x-python-serialize'}), message(**{'content-type': ['x']}),
        message(body='!not base64!'), message(body=7), message(properties=None),
        message(headers={'compression': 'gzip'}), message(headers={'task': None}), message(headers={'task': ['x']}),
    ],
)  # fmt: skip
def test_what_is_no_message_says_so_and_never_raises(raw):
    for unacked in (False, True):
        told = read(raw, unacked=unacked)
        assert told.problem
        assert told.raw == raw
