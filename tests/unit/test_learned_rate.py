"""How fast a relay wants mail, told by its replies: which of them say so, and what follows."""

import random

import pytest

from mail.outcome import Reply
from mail.relay import learned_rate, rate_limit
from mail.relay.learned_rate import (
    FORGET_S,
    LEAST_PER_S,
    LONGEST_PAUSE_S,
    LearnedRate,
    is_throttling,
)
from tests.unit.scripted_relay import Clock

TOO_MUCH = Reply(454, 'Throttling failure: Maximum sending rate exceeded.')


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        (454, 'Throttling failure: Maximum sending rate exceeded.'),
        (454, 'Throttling failure: Daily message quota exceeded.'),
        (450, '4.7.1 Error: too much mail from 192.0.2.7'),
        (450, '4.7.1 Error: too many recipients from 192.0.2.7'),
        (451, '4.7.500 Server busy. Please try again later from [192.0.2.7].'),
        (
            421,
            (
                '4.7.28 Our system has detected an unusual rate of unsolicited mail '
                'originating from your IP address.'
            ),
        ),
        (421, '4.7.0 Too many messages, slow down'),
        (451, 'Rate limit reached for this account'),
        (450, 'Hourly limit reached'),
        (451, 'Domain example.com has exceeded the max emails per hour (150/150 (100%)) allowed'),
        (452, 'Sender has exceeded maximum number of messages per hour'),
        (450, '4.7.0 The limit on the number of allowed outgoing messages was exceeded'),
        (450, '4.7.1 Too many recipients received from the sender'),
        (451, '4.3.2 The message frequency is too high'),
    ],
)
def test_replies_that_say_it_is_too_much(code, text):
    assert is_throttling(Reply(code, text))


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        (250, '2.0.0 queued; sending rate 3/s'),
        (450, '4.7.1 Greylisted, please try again in 300 seconds'),
        (
            450,
            (
                '4.2.1 The user you are trying to contact is receiving mail at a rate that '
                'exceeds the limit'
            ),
        ),
        (452, '4.2.2 Over quota: message quota exceeded'),
        (452, '4.5.3 Too many recipients'),
        (452, '4.3.4 Message size exceeds the message limit'),
        (452, 'message size limit exceeded'),
        (451, '4.3.0 Temporary lookup failure'),
        (452, '4.3.1 Insufficient system storage'),
        (450, '4.3.2 Server busy, try again later'),
        (451, '4.7.1 The inbox was told to refuse this'),
        (450, '4.1.2 <anna@rate.example>: Recipient address rejected: Domain not found'),
        (421, '4.3.2 Service shutting down'),
        (421, '4.4.2 mx.example.com Error: timeout exceeded'),
        (451, '4.7.1 Try again later'),
        (450, '4.1.2 <sam@throttling.example>: Recipient address rejected: Domain not found'),
        (450, '4.7.1 Greylisted for 60 seconds, slow down'),
        (450, '4.7.1 rate limit exceeded for this recipient'),
        (451, '4.3.0 temporarily rejected message (over quota)'),
        (421, 'too many messages in this connection'),
        (554, '5.7.1 sending rate exceeded'),
        (0, 'no reply to the final dot: sending rate exceeded'),
    ],
)
def test_replies_that_speak_of_something_else(code, text):
    assert not is_throttling(Reply(code, text))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(learned_rate, 'time', clock)
    monkeypatch.setattr(rate_limit, 'time', clock)
    return clock


class Limiter:
    """A relay that takes so many in each window, asked by everybody whom the rate lets begin."""

    def __init__(self, clock, most, window_s=1.0):
        self.clock, self.most, self.window_s = clock, most, window_s
        self.taken, self.since = 0, clock.now_s
        self.accepted = self.refused = self.number = 0

    def ask(self, relay_rate):
        if self.clock.now_s - self.since >= self.window_s:
            self.taken, self.since = 0, self.clock.now_s
        self.taken += 1
        if self.taken <= self.most:
            self.accepted += 1
            relay_rate.accepted(self.clock.now_s)
        else:
            self.refused += 1
            self.number += 1
            relay_rate.throttled(TOO_MUCH, self.number)

    def drive(self, rates, seconds):
        """Ask for so long, whenever a rate allows; at most 1,000 a second each, in any order."""
        rng = random.Random(7)
        for _ in range(seconds * 1000):
            self.clock.now_s += 0.001
            for one in rng.sample(rates, len(rates)):
                if one.allows():
                    one.spend()
                    self.ask(one)


@pytest.mark.parametrize('most', [2, 14, 300])
def test_rate_comes_close_to_what_the_relay_takes(clock, most):
    limiter, relay_rate = Limiter(clock, most), LearnedRate()
    limiter.drive([relay_rate], 20)
    refused = limiter.refused
    limiter.accepted = 0
    limiter.drive([relay_rate], 60)
    assert limiter.accepted > 0.7 * most * 60
    assert limiter.refused - refused < 0.1 * limiter.accepted + 20
    assert refused < 1000  # the first second, and what was too much since


def test_several_workers_share_what_the_relay_takes(clock):
    limiter, rates = Limiter(clock, 40), [LearnedRate() for _ in range(3)]
    limiter.drive(rates, 30)
    limiter.accepted = limiter.refused = 0
    limiter.drive(rates, 60)
    assert limiter.accepted > 0.7 * 40 * 60
    assert limiter.refused < 0.15 * limiter.accepted
    assert min(one.per_s for one in rates) > 2


def test_relay_that_takes_nothing_is_asked_ever_less_often_and_mail_flows_soon_after(clock):
    limiter, relay_rate = Limiter(clock, 0), LearnedRate()
    limiter.drive([relay_rate], 300)
    assert relay_rate.per_s == LEAST_PER_S
    asked = limiter.refused
    limiter.drive([relay_rate], 300)
    assert limiter.refused - asked < 300 * LEAST_PER_S + 1
    limiter.most = 100
    limiter.drive([relay_rate], int(LONGEST_PAUSE_S) + 30)
    assert relay_rate.per_s > 50


def test_one_e_mail_alone_that_is_refused_slows_nobody_down(clock):
    relay_rate = LearnedRate()
    for second in range(10):
        for _ in range(200):
            clock.now_s += 0.005
            relay_rate.accepted(clock.now_s)
        if second % 5 == 3:
            relay_rate.throttled(TOO_MUCH, 'anna@example.com')
    assert relay_rate.per_s == 0


def test_few_e_mails_that_are_always_refused_stop_nobody_for_long_and_are_tried_ever_less_often(
    clock,
):
    relay_rate = LearnedRate()
    waits_s = [relay_rate.throttled(TOO_MUCH, number) for _ in range(10) for number in range(3)]
    assert waits_s[::3] == [5, 10, 20, 40, 80, 160, 300, 300, 300, 300]
    for _ in range(20):
        clock.now_s += 5
        for number in range(3):
            relay_rate.throttled(TOO_MUCH, number)
    began_at, sent = clock.now_s, 0
    while clock.now_s < began_at + 30:
        clock.now_s += 0.01
        if relay_rate.allows():
            relay_rate.spend()
            relay_rate.accepted(clock.now_s)
            sent += 1
    assert sent > 200


def test_limit_is_forgotten_when_the_relay_speaks_of_none_for_long(clock):
    relay_rate = LearnedRate()
    for number in range(3):
        assert relay_rate.per_s == 0
        relay_rate.throttled(TOO_MUCH, number)
    assert relay_rate.per_s == 1
    assert relay_rate.reason == '454 Throttling failure: Maximum sending rate exceeded.'
    assert not relay_rate.allows()
    clock.now_s += FORGET_S
    relay_rate.upkeep()
    assert relay_rate.per_s == 1
    clock.now_s += 1
    relay_rate.upkeep()
    assert (relay_rate.per_s, relay_rate.reason) == (0, None)
    assert relay_rate.allows()


def test_operators_limit_holds_and_what_is_learned_stays_below_it(clock):
    limiter, relay_rate = Limiter(clock, 300), LearnedRate(40)
    limiter.drive([relay_rate], 30)
    assert (limiter.refused, relay_rate.per_s, relay_rate.is_learned) == (0, 40, False)
    assert 0.95 * 40 * 30 < limiter.accepted <= 40 * 30 + 4
    assert relay_rate.reason == 'max_per_s is 40'
    limiter.most = 10
    limiter.drive([relay_rate], 30)
    assert relay_rate.per_s < 15
    assert relay_rate.is_learned
    limiter.most = 300
    limiter.drive([relay_rate], 120)
    assert relay_rate.per_s == 40
    clock.now_s += FORGET_S
    relay_rate.upkeep()
    assert (relay_rate.per_s, relay_rate.is_learned) == (40, False)
