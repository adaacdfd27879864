"""What stands on the pages when workers, relays and operators wrote strange things."""

import json
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.registry import WorkerRecord, read_record, record_from
from reporting.overview import as_documents
from reporting.problems import Problem
from reporting.wording import as_json
from web.metrics import exposition
from web.overview import as_status
from web.pages.overview import render_overview
from web.watch import Reading, Source

HOSTILE = (
    'a"b\\c\nemail_worker_up{worker="forged"} 1\n</td><script>alert(1)</script>\ud800{{ 7 * 7 }}'
)
RECORD = {'worker': 'mail-7@host:42', 'queue': 'arq:queue',
    'started_at': '2026-01-01T00:00:00+00:00', 'emails': [],
          'outcomes': {'accepted': 3}, 'rss_bytes': 64 * 2**20}  # fmt: skip


def reading(**found):
    return Reading(found, {})


def workers(*changed):
    return as_documents([WorkerRecord(**(RECORD | parts)) for parts in changed])


def samples(page):
    text = exposition(page).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_hostile_names_are_one_label_and_no_line_of_their_own():
    page = reading(workers=workers({'worker': HOSTILE, 'queue': HOSTILE}), queues=[])
    seen = HOSTILE.replace('\ud800', r'\ud800')
    found = samples(page)
    assert found['email_worker_up', ('queue', seen), ('version', ''), ('worker', seen)] == 1
    assert not [labels for _, *labels in found if ('worker', 'forged') in labels]


def test_page_shows_hostile_names_as_text():
    page = render_overview(
        reading(workers=workers({'worker': HOSTILE, 'state': HOSTILE, 'outcomes': {HOSTILE: 1}}))
    )
    assert '<script' not in page
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page
    assert '{{ 7 * 7 }}' in page
    page.encode()


def test_two_records_of_one_name_are_one_sample():
    text = exposition(reading(workers=workers({'sending': 1}, {'sending': 2}))).decode()
    assert text.count('email_worker_sending{') == 1


def test_long_name_is_cut():
    long_name = reading(workers=workers({'worker': 'x' * 10_000}))
    (labels,) = (labels for name, *labels in samples(long_name)
                 if name == 'email_worker_sending')  # fmt: skip
    assert labels == [('worker', 'x' * 200)]


@pytest.mark.parametrize('strange', ['12', None, [], {}, True, 10**400])
def test_what_is_no_number_is_left_out_and_spoils_nothing(strange):
    outcomes, concurrency = {'accepted': strange, 'rejected': 2}, {'emails': strange}
    page = reading(workers=workers({'outcomes': outcomes, 'concurrency': concurrency}))
    found = samples(page)
    assert found['email_attempts_total', ('outcome', 'rejected'), ('worker', 'mail-7@host:42')] == 2
    if strange is not True:
        assert (
            'email_attempts_total',
            ('outcome', 'accepted'),
            ('worker', 'mail-7@host:42'),
        ) not in found
        assert ('email_worker_concurrency', ('worker', 'mail-7@host:42')) not in found
    assert 'mail-7@host:42' in render_overview(page)


def deep(levels):
    return json.loads('[' * levels + ']' * levels)


@pytest.mark.parametrize('strange', [math.nan, math.inf, [math.nan], deep(900)])
def test_what_json_cannot_tell_is_left_out_of_the_status(strange):
    """NaN is no JSON, and what is nested deeper than a worker nests it was an error 500."""
    page = reading(
        workers=workers(
            {'emails': [{'id': 7, 'strange': strange}], 'outcomes': {'accepted': strange}}
        )
    )

    def refuse(constant):
        raise AssertionError(constant)

    (worker,) = json.loads(as_json(as_status(page)), parse_constant=refuse)['workers']
    assert worker['emails'][0]['id'] == 7
    assert (
        'email_attempts_total',
        ('outcome', 'accepted'),
        ('worker', 'mail-7@host:42'),
    ) not in samples(page)


def test_record_with_a_number_that_no_worker_tells_is_none():
    assert record_from(RECORD | {'rss_bytes': 10**400}) is None
    assert read_record(json.dumps(RECORD | {'rss_bytes': math.inf}).encode(), 1) is None
    record = record_from(RECORD | {'uptime_s': math.inf, 'loop_lag_ms': math.nan, 'sending': True})
    assert (record.uptime_s, record.loop_lag_ms, record.sending) == (0.0, 0.0, 0)


def test_sources_that_are_away_leave_their_metrics_out_and_are_named():
    away = Problem('does not answer', 'start it', 'PostgreSQL', 'db:5432/app')
    page = Reading({'queues': [], 'workers': []}, {Source.POSTGRESQL: away})
    found = samples(page)
    assert found['email_source_up', ('source', 'postgresql')] == 0
    assert found['email_source_up', ('source', 'redis')] == 1
    assert not [name for name, *_ in found if name.startswith(('email_outbox', 'email_duty'))]
    shown = render_overview(page)
    assert 'PostgreSQL at db:5432/app: does not answer; start it' in shown
    assert shown.count('not known: postgresql did not answer') == 5
    document = as_status(page)
    assert (document['outbox'], document['workers']) == (None, [])
    assert document['troubles'][0]['service'] == 'PostgreSQL'


def test_long_job_id_is_cut_before_addresses_are_looked_for():
    """A search of 200,000 letters took minutes; the whole page waited."""
    page = reading(
        workers=workers({'jobs': [{'job_id': 'anna@example.com ' + 'x' * 200_000}]}), queues=[]
    )
    (job,) = as_status(page)['workers'][0]['jobs']
    assert job['job_id'].startswith('***@example.com xxx')
    assert len(job['job_id']) < 1000


def test_addresses_in_free_text_are_hidden_and_names_of_workers_are_not():
    relay = {'name': 'primary', 'last_error': '550 no anna@example.com here'}
    page = reading(
        workers=workers({'relays': [relay], 'jobs': [{'job_id': 'welcome:anna@example.com'}]}),
        queues=[],
        outbox=dict.fromkeys(
            ('due', 'oldest_due_s', 'scheduled', 'sending', 'stuck', 'retrying', 'dead',
                'uncertain', 'held',
             'past_expiry', 'sent_last_hour', 'sent_in_part_last_day', 'counted_s',
             'is_at_least'), 0),
        seen_workers=[],
        duties=[{'duty': 'cleanup', 'slot': None, 'worker': 'w@h:1', 'started_s': 1.0,
            'outcome': 'error',
                 'affected': None, 'detail': {'error': 'no table for anna@example.com'},
                 'succeeded_at': None}],
        services=[{'service': 'mongodb', 'status': 'down', 'checked_s': 1.0, 'response_time_ms': 1,
                   'error': 'user anna@example.com unknown'}],
        switches=[{'kind': 'queue', 'name': 'arq:queue', 'reason': 'asked by anna@example.com',
            'paused_at': None,
                   'paused_by': 'operator'}],
    )  # fmt: skip
    told = f'{as_status(page)} {render_overview(page)} {exposition(page).decode()}'
    assert 'anna@' not in told
    assert told.count('***@example.com') > 5
    assert 'mail-7@host:42' in told


def test_routes_and_domains_are_told_once_for_all_workers():
    rest = {'name': 'rest', 'match': '{}', 'chain': '[{"eu": 1, "us": 3}]'}
    bulk = {'name': 'bulk', 'match': '{}', 'chain': '[{"us": 1}]'}
    eu, us = {'name': 'eu', 'state': 'ready'}, {'name': 'us', 'state': 'cooling down'}
    slow = {'name': 'example.org', 'retry_in_s': 30.0}
    found = samples(
        reading(
            workers=workers(
                {'routes': [rest, bulk], 'relays': [eu, us], 'slow_domains': [slow]},
                {
                    'worker': 'two', 'routes': [rest, bulk], 'relays': [us],
                    'slow_domains': [slow | {'retry_in_s': 90.0}, {'retry_in_s': None}],
                },
            )
        )
    )  # fmt: skip
    assert found['email_route_up', ('route', 'rest')] == 1
    assert found['email_route_up', ('route', 'bulk')] == 0
    domains = {key: value for key, value in found.items() if 'domain' in key[0]}
    assert domains == {('email_domain_left_alone_seconds', ('domain', 'example.org')): 90}


def test_no_more_than_fifty_domains_are_time_series():
    slow = [{'name': f'd{n}.example', 'retry_in_s': float(n)} for n in range(200)]
    found = samples(reading(workers=workers({'slow_domains': slow})))
    assert sum(name == 'email_domain_left_alone_seconds' for name, *_ in found) == 50
    assert found['email_domain_left_alone_seconds', ('domain', 'd199.example')] == 199
