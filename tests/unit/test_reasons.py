from datetime import UTC, datetime, timedelta

import pytest

from db.switches import Switch, SwitchKind
from fleet.registry import record_from
from mail_outbox.states import DeadReason
from reporting.blockers import EmailFacts, blockers
from reporting.next_step import where_now
from reporting.reasons import DEAD, reasons_of, why_dead

NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
EMAIL = {
    'id': 7, 'status': 'pending', 'email_type': 'receipt', 'next_retry_at': NOW, 'read_at': NOW,
    'template_id': '3', 'content_id': 'c1', 'attempts': 0, 'max_attempts': 5, 'lost_attempts': 0,
}  # fmt: skip
RECORD = {
    'worker': 'w1',
    'queue': 'arq:queue',
    'started_at': '',
    'emails': [],
    'outcomes': {},
    'rss_bytes': 1,
}


def worker(**more):
    return record_from(RECORD | more)


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
    return [obstacle.what for obstacle in blockers(EMAIL | email, facts)]


@pytest.mark.parametrize(
    ('facts', 'what'),
    [
        (EmailFacts(anybody_alive=False), 'No worker replies.'),
        (
            EmailFacts(
                switches=[
                    switch(SwitchKind.EMAIL_TYPE, 'receipt'),
                    switch(SwitchKind.EMAIL_TYPE, 'news'),
                ]
            ),
            (
                'E-mails of its type receipt are paused by anna since '
                '2026-08-01 12:00:00Z (incident 4).'
            ),
        ),
        (
            EmailFacts(
                workers=[worker(state='paused', paused=['queue arq:queue is paused by anna'])]
            ),
            'No worker takes anything now: queue arq:queue is paused by anna.',
        ),
        (
            EmailFacts(
                workers=[
                    worker(relays=[relay('cooling down')]),
                    worker(relays=[relay('cooling down')]),
                ]
            ),
            'The relay primary cools down for 12 s: 535 no <***@example.com>.',
        ),
        (
            EmailFacts(
                workers=[worker(relays=[relay('paused')])],
                switches=[switch(SwitchKind.RELAY, 'primary')],
            ),
            'The relay primary is paused by anna.',
        ),
        (
            EmailFacts(workers=[worker(relays=[relay('cooling down'), relay('ready', 'backup')])]),
            (
                'The relay primary cools down for 12 s: 535 no <***@example.com>. '
                'The other relay is used.'
            ),
        ),
        (
            EmailFacts(
                workers=[worker(relays=[relay('ready', most_per_s=n)]) for n in (6.1, None, 7.2)]
            ),
            (
                'The relay primary wants no more than about 13.3 e-mails a second: '
                '535 no <***@example.com>.'
            ),
        ),
        (
            EmailFacts(workers=[], services_down={'smtp_primary': 'refused', 'mongodb': 'x'}),
            'The relay primary did not answer the last check: refused.',
        ),
        (
            EmailFacts(workers=[], services_down={'smtp_backup': None}),
            'The relay backup did not answer the last check.',
        ),
        (
            EmailFacts(template_missing=True),
            'Its template 3 does not exist. The next attempt ends for good (render).',
        ),
        (
            EmailFacts(content_missing=True),
            'Its attachments are gone: MongoDB has no c1. The next attempt ends for good (render).',
        ),
        (
            EmailFacts(content_unknown=True),
            'MongoDB does not answer, and it has attachments: it waits, which costs no attempt.',
        ),
        (
            EmailFacts(unreadable='cc: no @'),
            'An address cannot be read: cc: no @. The next attempt ends for good (render).',
        ),
        (
            EmailFacts(recipients=['a@x.de', 'b@x.de'], suppressed={'a@x.de': 'bounced'}),
            'A recipient is on the list of those who get no mail: bounced.',
        ),
        (
            EmailFacts(recipients=['a@x.de'], suppressed={'a@x.de': 'bounced'}),
            'Every recipient is on the list of those who get no mail: bounced.',
        ),
        (
            EmailFacts(ahead=1200, last_minute=600),
            "1200 e-mails are due before it; at the last minute's rate that is 2 min.",
        ),
        (EmailFacts(ahead=5), '5 e-mails are due before it.'),
    ],
)
def test_each_fact_that_stands_in_the_way_is_one_sentence(facts, what):
    assert told(facts) == [what]


def test_nothing_stands_in_the_way_of_mail_that_workers_can_send():
    assert (
        told(
            EmailFacts(
                workers=[worker(relays=[relay('ready')]), worker(relays=[relay('cooling down')])]
            )
        )
        == []
    )
    assert told(EmailFacts(workers=[worker(state='paused'), worker()])) == []
    assert told(EmailFacts(ahead=5), next_retry_at=NOW + timedelta(hours=1)) == []
    assert told(EmailFacts()) == []


def test_mail_that_failed_before_is_told_why():
    assert told(
        EmailFacts(),
        status='failed',
        attempts=2,
        last_error='primary: no room for anna@example.com',
    ) == ['Attempt 2 failed: primary: no room for ***@example.com.']
    assert told(EmailFacts(), status='uncertain', attempts=1, last_error='primary: no reply.') == [
        'Attempt 1 has no known outcome: primary: no reply.'
    ]


def test_workers_that_stop_are_not_told_to_resume():
    (stopping,) = blockers(EMAIL, EmailFacts(workers=[worker(state='stopping')]))
    assert stopping.what == 'No worker takes anything now: stopping.'
    assert 'resume' not in stopping.remedy


def test_a_relay_is_paused_before_the_worker_has_heard_of_it():
    facts = EmailFacts(
        workers=[worker(relays=[relay('ready')])], switches=[switch(SwitchKind.RELAY, 'primary')]
    )
    assert told(facts) == ['The relay primary is paused by anna.']


def test_mail_whose_workers_were_lost_is_told_to_wait_apart():
    (what,) = told(EmailFacts(), lost_attempts=2)
    assert what.startswith('2 workers were lost with it, of the 3 in a row that end it.')


def test_every_obstacle_an_operator_can_remove_names_the_remedy():
    for facts in (
        EmailFacts(anybody_alive=False),
        EmailFacts(switches=[switch(SwitchKind.EMAIL_TYPE, 'receipt')]),
        EmailFacts(template_missing=True),
        EmailFacts(workers=[worker(relays=[relay('paused')])]),
        EmailFacts(recipients=['a'], suppressed={'a': 'x'}),
        EmailFacts(services_down={'smtp_primary': 'refused'}),
    ):
        assert blockers(EMAIL, facts)[0].remedy


@pytest.mark.parametrize(
    ('reason', 'what'),
    [
        ('rejected', 'The relay refused it for good: 550 no.'),
        ('render', 'It could not be made into a message: 550 no.'),
        ('exhausted', 'Every attempt failed: 550 no.'),
        ('poison', 'Three workers in a row were lost while they sent it: 550 no.'),
        (
            'suppressed',
            'Everybody who was still to get it is on the list of those who get no mail: 550 no.',
        ),
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


def reasons(facts=None, **email):
    return reasons_of(EMAIL | {'last_error': None} | email, facts or EmailFacts())


def test_what_was_suppressed_is_said_once_and_with_its_remedy():
    (reason,) = reasons(
        status='failed',
        next_retry_at=None,
        dead_reason='suppressed',
        last_error='suppressed: hard bounce; suppressed: closed',
        smtp_response=None,
    )
    assert reason.what == (
        'Everybody who was still to get it is on the list of those who get no mail: '
        'hard bounce; closed.'
    )
    assert 'suppress rm ADDRESS' in reason.remedy
    outcomes = {'a@x.de': ['accepted', 'ok'], 'b@x.de': ['rejected', 'suppressed: closed']}
    (reason,) = reasons(status='sent', recipient_outcomes=outcomes)
    assert 'suppress rm ADDRESS' in reason.remedy


def test_an_unknown_outcome_names_no_recipient_and_ends_its_sentence_once():
    (reason,) = reasons(
        status='uncertain', next_retry_at=None, last_error='no reply for <anna@example.com>.'
    )
    assert reason.what == 'Nobody knows whether it arrived: no reply for <***@example.com>.'


@pytest.mark.parametrize(
    ('lease_ends_in_s', 'alive', 'whats'),
    [
        (5, True, ['w9 does not reply; when its lease ends, another worker takes over.']),
        (-5, True, []),  # the next step says it
        (None, True, []),  # of a table that another program writes
        (-5, False, ['No worker replies.']),
    ],
)
def test_mail_of_a_worker_that_does_not_reply(lease_ends_in_s, alive, whats):
    ends_at = None if lease_ends_in_s is None else NOW + timedelta(seconds=lease_ends_in_s)
    facts = EmailFacts(workers=[worker()] if alive else [], anybody_alive=alive)
    found = reasons(facts, status='sending', claimed_by='w9', lease_expires_at=ends_at)
    assert [reason.what for reason in found] == whats


def test_every_reason_why_mail_is_dead_has_its_sentence():
    assert set(DEAD) == set(DeadReason)
