"""Jobs that were refused: what counts as an id, and what is made of what workers tell."""

import time
from typing import Any

import pytest

from delivery.email_jobs import email_id_of
from engine.refused import MAX_KEPT, REASONS, RefusedJobs
from fleet.describe import without_addresses
from fleet.refused_jobs import reported_refusals
from fleet.registry import WorkerRecord
from reporting.checks.refused import judge_refused, sentences

RECORD: dict[str, Any] = {
    'worker': 'w', 'queue': 'arq:queue', 'started_at': '', 'emails': [], 'outcomes': {},
    'rss_bytes': 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ('value', 'email_id'),
    [
        (123, 123),
        ('123', 123),
        ('0123', 123),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        *((wrong, None) for wrong in (
            0, -1, 2**63, str(2**63), '0', '-1', '+1', ' 1', '1 ', '1.0', '1e3', '1_0', '٣', '²',
            '', 'x', '9' * 5000,
            True, 1.0, None, b'1', [1], (1,), {},
        )),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_positive_integer_or_its_decimal_digits_is_an_id(value: Any, email_id: int | None) -> None:
    assert email_id_of(value) == email_id


def test_all_are_counted_and_the_last_few_told() -> None:
    refused = RefusedJobs()
    for number in range(100):
        refused.add('arguments', f'job {number}' + 'x' * 1000, 'y' * 1000, email_id=number)
    assert refused.counts == {'arguments': 100}
    assert [job['email_id'] for job in refused.latest()] == list(range(100 - MAX_KEPT, 100))
    assert all(len(job['why']) <= 200 and len(job['job_id']) <= 200 for job in refused.latest())


def test_address_is_not_told() -> None:
    refused = RefusedJobs()
    refused.add('arguments', 'job', "'anna@example.com' is no id")
    (job,) = without_addresses(refused.latest())
    assert job['why'] == "'***@example.com' is no id"
    assert refused.latest()[0]['why'] != job['why']


def test_doctor_warns_of_what_was_refused_lately_and_notes_what_was_long_ago() -> None:
    jobs = [
        {
            'reason': 'unreadable',
            'job_id': 'a',
            'why': 'it is JSON, of anna@example.com\x1b[31m',
            'at': time.time(),
        },
        {'reason': 'unknown-function', 'job_id': 'b', 'why': 'none', 'at': time.time() - 90_000},
    ]
    worker = WorkerRecord(
        **RECORD, refused={'unreadable': 3, 'unknown-function': 1}, refused_jobs=jobs
    )
    recent, old = judge_refused([worker])
    assert (recent.severity, old.severity) == ('warning', 'note')
    assert recent.what.startswith(
        '3 jobs were refused (unreadable), the last 0 s ago (a): it is JSON, of ***@'
    )
    assert recent.what.isprintable()
    assert 'default serializer' in recent.remedy
    assert list(judge_refused([WorkerRecord(**RECORD)])) == []


@pytest.mark.parametrize('forged', [
    None, 1, 'x', {}, {'reason': 'unreadable'}, {'reason': [], 'why': 'x', 'job_id': 'a', 'at': 1},
    {'reason': 'unreadable', 'why': 1, 'job_id': 'a', 'at': 1},
    {'reason': 'unreadable', 'why': 'x', 'job_id': 'a', 'at': 10**400},
    {'reason': 'unreadable', 'why': 'x', 'job_id': 'a', 'at': float('nan')},
])  # fmt: skip
def test_forged_record_is_left_out(forged: Any) -> None:
    assert reported_refusals([forged]) == []
    counts = {'unreadable': 10**5000, 'arguments': 'x', 'set-aside': -1, 'unknown-function': True}
    assert sentences(counts, [forged]) == []


def test_every_reason_has_a_remedy() -> None:
    assert len(sentences(dict.fromkeys(REASONS, 1), [])) == len(REASONS)
