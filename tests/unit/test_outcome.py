"""From a reply to what happens next."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from mail.outcome import (
    ATTEMPTS_AFTER_UNCERTAIN,
    Decision,
    Delivery,
    Outcome,
    Phase,
    Policy,
    Reply,
    Status,
    classify,
    decide,
)
from mail_outbox.envelope import BY_LIFE

POLICY = Policy(base_delay_s=60, max_delay_s=3600, hold_types=frozenset({'receipt'}))
MIGRATIONS = Path(__file__).parents[2] / 'db' / 'migrations'


@pytest.mark.parametrize(
    ('code', 'text', 'outcome'),
    [
        (250, '2.0.0 ok', Outcome.ACCEPTED),
        (251, 'will forward', Outcome.ACCEPTED),
        (299, '', Outcome.ACCEPTED),
        (450, '4.2.1 busy', Outcome.DEFERRED),
        (451, 'greylisted', Outcome.DEFERRED),
        (452, '4.2.2 over quota', Outcome.DEFERRED),
        (471, 'anything', Outcome.DEFERRED),
        (550, '5.1.1 no such user', Outcome.REJECTED),
        (554, 'no', Outcome.REJECTED),
        (599, '', Outcome.REJECTED),
    ],
)
def test_classify_goes_by_the_first_digit(code: int, text: str, outcome: Outcome) -> None:
    assert classify(Reply(code, text)) is outcome


@pytest.mark.parametrize('code', [450, 451, 452, 454, 471])
@pytest.mark.parametrize(
    'text', ['5.1.1 no such user', '5.7.1', '5.7.3 STARTTLS is required', '5.999.999 x', '4.7.1 x']
)
def test_classify_goes_by_the_basic_code_whatever_the_enhanced_one_says(
    code: int, text: str
) -> None:
    assert classify(Reply(code, text)) is Outcome.DEFERRED


@pytest.mark.parametrize(
    'text',
    [
        (
            '5.4.5 Daily user sending limit exceeded. For more information on Gmail sending '
            'limits go to'
        ),
        '5.4.5 Daily user sending quota exceeded.',
        '5.4.5 Daily SMTP relay sending limit exceeded for user.',
        '5.7.1 Daily SMTP relay limit exceeded for customer. For more information',
        (
            "5.1.90 Your message can't be sent because you've reached your daily limit for "
            'message recipients'
        ),
    ],
)
def test_limit_of_a_day_that_a_provider_tells_with_5xx_is_deferred(text: str) -> None:
    assert classify(Reply(550, text)) is Outcome.DEFERRED


@pytest.mark.parametrize(
    'text', ['5.4.5 no', '5.1.9 x', '5.1.900 x', '5.7.1 the daily report exceeded its limit']
)
def test_other_5xx_replies_are_rejected_as_their_code_says(text: str) -> None:
    assert classify(Reply(550, text)) is Outcome.REJECTED


def test_classify_treats_5xx_with_transient_enhanced_code_as_rejected() -> None:
    assert classify(Reply(550, '4.2.1 confused')) is Outcome.REJECTED


@pytest.mark.parametrize('text', ['4.3.2 closing', '5.3.2 closing', ''])
def test_classify_treats_421_as_released_whatever_it_says(text: str) -> None:
    assert classify(Reply(421, text)) is Outcome.RELEASED


@pytest.mark.parametrize('code', [-1, 0, 100, 199, 300, 354, 600, 999])
def test_classify_treats_nonsense_as_deferred(code: int) -> None:
    assert classify(Reply(code, 'what')) is Outcome.DEFERRED


@pytest.mark.parametrize(
    ('text', 'code'),
    [
        ('2.0.0 ok', '2.0.0'),
        ('4.7.28\nsecond line', '4.7.28'),
        ('5.1.1', '5.1.1'),
        ('ok 2.0.0', None),
        ('1.0.0 ok', None),
        ('', None),
    ],
)
def test_enhanced_code_is_the_one_at_the_start(text: str, code: str | None) -> None:
    assert Reply(250, text).enhanced_code == code


# Backoff.


@pytest.mark.parametrize(
    ('attempt', 'wait_s'),
    [(1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (100, 3600), (100_000, 3600)],
)
def test_backoff_doubles_up_to_its_cap(attempt: int, wait_s: float) -> None:
    assert POLICY.backoff_s(attempt, jitter=0) == wait_s


def test_backoff_is_shortened_by_a_tenth_at_most() -> None:
    assert POLICY.backoff_s(1, jitter=1) == pytest.approx(54)
    waits = [POLICY.backoff_s(1) for _ in range(200)]
    assert all(54 <= wait_s <= 60 for wait_s in waits)
    assert len(set(waits)) > 100


# Decisions.


def decided(
    outcome: Outcome, attempt: int = 1, email_type: str | None = None, **parts: object
) -> Decision:
    return decide(
        Delivery(outcome, parts.pop('phase', Phase.RCPT), **parts), attempt, 5, email_type, POLICY
    )


def test_accepted_is_sent() -> None:
    assert decided(Outcome.ACCEPTED, attempt=5) == Decision(Status.SENT)


def test_deferred_failed_and_is_tried_again_later() -> None:
    decision = decided(Outcome.DEFERRED, attempt=2)
    assert (decision.status, decision.counts, decision.dead_reason) == (Status.FAILED, True, None)
    assert decision.retry_in_s is not None
    assert 108 <= decision.retry_in_s <= 120


@pytest.mark.parametrize('attempt', [5, 6])
def test_deferred_at_the_last_attempt_is_dead(attempt: int) -> None:
    assert decided(Outcome.DEFERRED, attempt=attempt) == Decision(
        Status.FAILED, dead_reason='exhausted'
    )


@pytest.mark.parametrize(
    ('phase', 'reason'),
    [
        (Phase.CONTENT, 'render'),
        (Phase.RENDER, 'render'),
        (Phase.MAIL, 'rejected'),
        (Phase.RCPT, 'rejected'),
        (Phase.REPLIED, 'rejected'),
    ],
)
def test_rejected_is_dead_at_once(phase: Phase, reason: str) -> None:
    assert decided(Outcome.REJECTED, phase=phase) == Decision(Status.FAILED, dead_reason=reason)


def test_uncertain_is_tried_again() -> None:
    decision = decided(Outcome.UNCERTAIN, email_type='password_reset')
    assert (decision.status, decision.counts) == (Status.UNCERTAIN, True)
    assert decision.retry_in_s is not None


@pytest.mark.parametrize(
    ('attempt', 'email_type'), [(1, 'receipt'), (5, None), (5, 'password_reset')]
)
def test_uncertain_waits_for_an_operator_when_held_or_exhausted(
    attempt: int, email_type: str | None
) -> None:
    assert decided(Outcome.UNCERTAIN, attempt, email_type) == Decision(Status.UNCERTAIN)


@pytest.mark.parametrize('attempt', [1, 5])
def test_released_is_pending_and_burns_no_attempt(attempt: int) -> None:
    decision = decided(Outcome.RELEASED, attempt, phase=Phase.CONNECT, retry_in_s=3.0)
    assert decision == Decision(Status.PENDING, retry_in_s=3.0, counts=False)


def test_released_without_a_time_is_due_now() -> None:
    assert decided(Outcome.RELEASED).retry_in_s == 0


def test_released_by_421_at_connect_waits_for_the_relay_only() -> None:
    decision = decided(
        Outcome.RELEASED, phase=Phase.CONNECT, reply=Reply(421, 'busy'), retry_in_s=2.0
    )
    assert decision.retry_in_s == 2


def test_released_by_421_in_the_dialogue_waits_for_the_backoff() -> None:
    decision = decided(Outcome.RELEASED, reply=Reply(421, 'busy'), retry_in_s=2.0)
    assert decision.retry_in_s is not None
    assert decision.retry_in_s >= 54
    assert not decision.counts


def test_lost_is_nothing_to_decide_on() -> None:
    with pytest.raises(ValueError, match='lost'):
        decided(Outcome.LOST)


# The life of an e-mail that has no number of attempts of its own.

DAY_S, HOUR_S = 86400.0, 3600.0


def deferred(
    attempt: int, max_attempts: int = BY_LIFE, policy: Policy = POLICY, left_s: float | None = None
) -> Decision:
    return decide(
        Delivery(Outcome.DEFERRED, Phase.RCPT), attempt, max_attempts, None, policy, left_s
    )


def test_default_schedule_uses_the_whole_day_and_survives_six_hours_of_deferrals() -> None:
    times_s = POLICY.times_s(BY_LIFE, DAY_S)
    assert times_s[:8] == [0, 60, 180, 420, 900, 1860, 3780, 7380]
    assert max(later - earlier for earlier, later in pairwise(times_s)) == HOUR_S
    assert any(6 * HOUR_S < at_s <= 7 * HOUR_S for at_s in times_s)
    assert 0.99 * DAY_S < times_s[-1] < DAY_S


@pytest.mark.parametrize('life_s', [90, 600, HOUR_S, 1.5 * HOUR_S, 7 * DAY_S])
def test_schedule_of_any_life_ends_shortly_before_it_does(life_s: float) -> None:
    times_s = POLICY.times_s(BY_LIFE, life_s)
    assert life_s - 70 <= times_s[-1] < life_s
    waits_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert all(60 <= wait_s <= HOUR_S for wait_s in waits_s)


@pytest.mark.parametrize('attempt', [5, 33, 1000])
def test_e_mail_without_a_number_of_its_own_is_tried_until_it_expires(attempt: int) -> None:
    assert deferred(attempt, left_s=2 * HOUR_S).retry_in_s is not None


def test_e_mail_whose_producer_chose_a_number_keeps_it() -> None:
    assert deferred(4, 5, left_s=DAY_S).retry_in_s is not None
    assert deferred(5, 5, left_s=DAY_S).dead_reason == 'exhausted'


def test_number_of_the_settings_is_that_of_e_mails_without_their_own() -> None:
    policy = Policy(60, 3600, max_attempts=3)
    assert deferred(2, policy=policy, left_s=DAY_S).retry_in_s is not None
    assert deferred(3, policy=policy, left_s=DAY_S).dead_reason == 'exhausted'
    assert deferred(3, 5, policy, DAY_S).retry_in_s is not None


def test_e_mail_that_does_not_expire_is_tried_for_the_life_of_the_settings() -> None:
    most = POLICY.attempts_within(DAY_S)
    assert POLICY.times_s(BY_LIFE, None)[-1] <= DAY_S < POLICY.times_s(BY_LIFE, None)[-1] + HOUR_S
    assert deferred(most - 1).retry_in_s is not None
    assert deferred(most).dead_reason == 'exhausted'


@pytest.mark.parametrize(
    ('base_s', 'most_s', 'life_s', 'attempts'),
    [
        (60, 3600, 59, 1),
        (60, 3600, 60, 2),
        (60, 60, 600, 11),
        (1, 1, 3.2e8, 320_000_001),
        (60, 3600, DAY_S, 29),
    ],
)
def test_attempts_within_a_life_are_counted(
    base_s: float, most_s: float, life_s: float, attempts: int
) -> None:
    assert Policy(base_s, most_s).attempts_within(life_s) == attempts


def test_last_attempt_comes_before_the_e_mail_expires() -> None:
    assert deferred(10, left_s=1000).retry_in_s == pytest.approx(900)
    assert POLICY.wait_s(10, 30) > 30  # no sense in trying again so soon: it expires
    assert POLICY.wait_s(10, float('inf'), jitter=0) == HOUR_S


def test_uncertain_e_mail_gets_a_number_of_attempts_since_each_may_be_a_copy() -> None:
    uncertain = Delivery(Outcome.UNCERTAIN, Phase.BODY_SENT)
    first = decide(uncertain, 7, BY_LIFE, None, POLICY, DAY_S)
    assert first.max_attempts == 7 + ATTEMPTS_AFTER_UNCERTAIN
    again = decide(uncertain, 8, first.max_attempts, None, POLICY, DAY_S)
    assert (again.retry_in_s is None, again.max_attempts) == (False, None)
    assert (
        decide(uncertain, first.max_attempts, first.max_attempts, None, POLICY, DAY_S).retry_in_s
        is None
    )
    assert (
        decide(uncertain, 2, BY_LIFE, None, Policy(60, 3600, max_attempts=3), DAY_S).max_attempts
        == 3
    )


# The words in Python and in SQL.


@pytest.mark.parametrize(
    ('constraint', 'words'),
    [('outbound_emails_status_known', Status), ('email_attempts_outcome_known', Outcome)],
)
def test_enum_has_the_words_of_the_sql_constraint(
    constraint: str, words: type[Status] | type[Outcome]
) -> None:
    sql = ' '.join(path.read_text() for path in sorted(MIGRATIONS.glob('*.sql')))
    latest = re.findall(rf'{constraint} CHECK\s*\(\w+ IN \(([^)]*)\)', sql)[-1]
    assert set(re.findall(r"'([\w-]+)'", latest)) == {word.value for word in words}


def test_phases_are_in_the_order_of_the_dialogue() -> None:
    assert list(Phase)[-6:] == [
        Phase.MAIL,
        Phase.RCPT,
        Phase.DATA,
        Phase.BODY,
        Phase.BODY_SENT,
        Phase.REPLIED,
    ]
