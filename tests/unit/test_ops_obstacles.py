from datetime import UTC, datetime, timedelta

import pytest

from db.switches import Kind, Switch
from fleet.registry import read_told
from ops.next_step import where_now
from ops.obstacles import Facts, obstacles, why_dead

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
EMAIL = {'id': 7, 'status': 'pending', 'email_type': 'receipt', 'next_retry_at': NOW, 'read_at': NOW,
         'template_id': '3', 'content_id': 'c1', 'attempts': 0, 'max_attempts': 5, 'lost_attempts': 0}  # fmt: skip
RECORD = {
    'worker': 'w1',
    'queue': 'arq:queue',
    'started_at': '',
    'emails': [],
    'outcomes': {},
    'rss_bytes': 1,
}


def worker(**more):
    return read_told(RECORD | more)


def relay(state, name='primary', **more):
    return {
        'name': name,
        'state': state,
        'retry_in_s': 12.0,
        'last_error': '535 no <anna@example.com>',
    } | more


def switch(kind, name):
    return Switch(kind, name, 'incident 4', NOW, 'anna')


def told(facts, **email):
    return [obstacle.what for obstacle in obstacles(EMAIL | email, facts)]


@pytest.mark.parametrize(
    ('facts', 'what'),
    [
        (Facts(anybody_alive=False), 'No worker replies.'),
        (
            Facts(switches=[switch(Kind.EMAIL_TYPE, 'receipt'), switch(Kind.EMAIL_TYPE, 'news')]),
            'E-mails of its type receipt are paused by anna since 2026-08-01 12:00:00Z (incident 4).',
        ),
        (
            Facts(workers=[worker(state='paused', paused=['queue arq:queue is paused by anna'])]),
            'No worker takes anything now: queue arq:queue is paused by anna.',
        ),
        (
            Facts(
                workers=[
                    worker(relays=[relay('cooling down')]),
                    worker(relays=[relay('cooling down')]),
                ]
            ),
            'The relay primary cools down for 12 s: 535 no <***@example.com>.',
        ),
        (
            Facts(
                workers=[worker(relays=[relay('paused')])], switches=[switch(Kind.RELAY, 'primary')]
            ),
            'The relay primary is paused by anna.',
        ),
        (
            Facts(workers=[worker(relays=[relay('cooling down'), relay('ready', 'backup')])]),
            'The relay primary cools down for 12 s: 535 no <***@example.com>. The other relay is used.',
        ),
        (
            Facts(
                workers=[worker(relays=[relay('ready', most_per_s=n)]) for n in (6.1, None, 7.2)]
            ),
            'The relay primary wants no more than about 13.3 e-mails a second: 535 no <***@example.com>.',
        ),
        (
            Facts(workers=[], services_down={'smtp_primary': 'refused', 'mongodb': 'x'}),
            'The relay primary did not answer the last check: refused.',
        ),
        (
            Facts(workers=[], services_down={'smtp_backup': None}),
            'The relay backup did not answer the last check.',
        ),
        (
            Facts(template_missing=True),
            'Its template 3 does not exist. The next attempt ends for good (render).',
        ),
        (
            Facts(content_missing=True),
            'Its attachments c1 are not in MongoDB. The next attempt ends for good (render).',
        ),
        (
            Facts(content_unknown=True),
            'MongoDB does not answer, and it has attachments: it waits, which costs no attempt.',
        ),
        (
            Facts(unreadable='no @'),
            'Its recipient cannot be read: no @. The next attempt ends for good (render).',
        ),
        (
            Facts(recipients=['a@x.de', 'b@x.de'], suppressed={'a@x.de': 'bounced'}),
            'A recipient is on the list of those who get no mail: bounced.',
        ),
        (
            Facts(recipients=['a@x.de'], suppressed={'a@x.de': 'bounced'}),
            'Every recipient is on the list of those who get no mail: bounced.',
        ),
        (
            Facts(ahead=1200, last_minute=600),
            "1200 e-mails are due before it; at the last minute's rate that is 2 min.",
        ),
        (Facts(ahead=5), '5 e-mails are due before it.'),
    ],
)
def test_each_fact_that_stands_in_the_way_is_one_sentence(facts, what):
    assert told(facts) == [what]


def test_nothing_stands_in_the_way_of_mail_that_workers_can_send():
    assert (
        told(
            Facts(workers=[worker(relays=[relay('ready')]), worker(relays=[relay('cooling down')])])
        )
        == []
    )
    assert told(Facts(workers=[worker(state='paused'), worker()])) == []
    assert told(Facts(ahead=5), next_retry_at=NOW + timedelta(hours=1)) == []
    assert told(Facts()) == []


def test_mail_that_failed_before_is_told_why():
    assert told(
        Facts(), status='failed', attempts=2, last_error='primary: no room for anna@example.com'
    ) == ['Attempt 2 failed: primary: no room for ***@example.com.']
    assert told(Facts(), status='uncertain', attempts=1, last_error='primary: no reply.') == [
        'Attempt 1 has no known outcome: primary: no reply.'
    ]


def test_workers_that_stop_are_not_told_to_resume():
    (stopping,) = obstacles(EMAIL, Facts(workers=[worker(state='stopping')]))
    assert stopping.what == 'No worker takes anything now: stopping.'
    assert 'resume' not in stopping.remedy


def test_a_relay_is_paused_before_the_worker_has_heard_of_it():
    facts = Facts(
        workers=[worker(relays=[relay('ready')])], switches=[switch(Kind.RELAY, 'primary')]
    )
    assert told(facts) == ['The relay primary is paused by anna.']


def test_mail_whose_workers_were_lost_is_told_to_wait_apart():
    (what,) = told(Facts(), lost_attempts=2)
    assert what.startswith('2 workers were lost with it, of the 3 in a row that end it.')


def test_every_obstacle_an_operator_can_remove_names_the_remedy():
    for facts in (
        Facts(anybody_alive=False), Facts(switches=[switch(Kind.EMAIL_TYPE, 'receipt')]), Facts(template_missing=True),
        Facts(workers=[worker(relays=[relay('paused')])]), Facts(recipients=['a'], suppressed={'a': 'x'}),
    ):  # fmt: skip
        assert obstacles(EMAIL, facts)[0].remedy


@pytest.mark.parametrize(
    ('reason', 'what'),
    [
        ('rejected', 'The relay refused it for good: 550 no.'),
        ('render', 'It could not be made into a message: 550 no.'),
        ('exhausted', 'Every attempt failed: 550 no.'),
        ('poison', 'Three workers in a row were lost while they sent it: 550 no.'),
        ('given up', 'An operator gave it up: 550 no.'),
        (None, 'Every attempt failed: 550 no.'),
        ('of another version', 'of another version: 550 no.'),
    ],
)
def test_why_dead_mail_is_dead(reason, what):
    assert (
        why_dead({'dead_reason': reason, 'last_error': None, 'smtp_response': '550 no'}).what
        == what
    )


@pytest.mark.parametrize(
    'emails', [[{'id': 7, 'phase': 'data', 'relay': 'primary', 'started_at': 'never'}]]
)
def test_where_now_takes_what_the_worker_tells(emails):
    now = where_now(EMAIL, [worker(emails=[{'id': 8}]), worker(emails=emails)])
    assert (now['worker'], now['phase'], now['relay'], now['since_s']) == (
        'w1',
        'data',
        'primary',
        None,
    )
    assert where_now(EMAIL | {'id': 9}, [worker(emails=emails)]) is None
