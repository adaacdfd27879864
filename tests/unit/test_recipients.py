"""What a reply to RCPT says about the number of recipients."""

import pytest

from mail.outcome import Outcome, Reply, classify
from mail.relay.recipients import (
    REMEMBER_S,
    RecipientLimit,
    announced_limit,
    left_over,
    says_too_many,
)
from tests.unit.scripted_relay import Clock

OK = '250 ok'


def reply(text: str) -> Reply:
    return Reply(int(text[:3]), text[4:])


@pytest.mark.parametrize(
    'said',
    [
        '452 4.5.3 Error: too many recipients',  # Postfix
        '452 4.5.3 Too many recipients',  # Sendmail, Exchange Online
        '552 too many recipients',  # Exim
        '550 5.5.3 RESOLVER.ADR.RecipLimit; too many recipients',
        '550 Too many RCPT commands in one transaction',
        '554 Transaction failed: Recipient count exceeds 50.',  # Amazon SES
        '451 Maximum number of recipients exceeded',
        '503 You have exceeded the number of recipients per message',
        '452 recipient limit reached',
        '450 4.5.3 nothing said',
        # Gmail
        '451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again.',
        (
            '452 4.5.3 Domain policy size per transaction exceeded, please try this '
            'recipient in a separate transaction.'
        ),
    ],
)
def test_words_or_the_enhanced_code_say_that_there_are_too_many_recipients(said: str) -> None:
    assert says_too_many(reply(said))


@pytest.mark.parametrize(
    'said',
    [
        '452 4.2.2 mailbox of one of too many recipients is full',
        '552 5.3.4 message too big for that number of recipients',
        '450 4.7.1 too many recipients received this hour',
        '550 5.1.1 <too-many-recipients@example.com> unknown',
        '451 4.7.1 greylisted',
        '250 too many recipients are fine',
    ],
)
def test_other_replies_do_not(said: str) -> None:
    assert not says_too_many(reply(said))


@pytest.mark.parametrize(
    ('said', 'later'),
    [
        ([OK, OK, '452 no'], [2]),
        ([OK, '552 no', '552 no'], [1, 2]),
        ([OK, '452 4.3.1 Insufficient system storage', '550 no such user', '452 no'], [1, 3]),
        ([OK, '552 no', OK], []),  # about that one
        ([OK, '552 too many recipients for this domain', OK], [1]),
        ([OK, '552 5.2.2 full', '552 5.2.2 full'], []),
        ([OK, '552 mailbox full'], []),
        ([OK, '451 4.7.1 later', '550 no'], []),
        (['452 too many recipients', '452 too many recipients'], []),
        (['552 too many recipients', OK], []),
        ([OK, '450 too many recipients'], [1]),
    ],
)
def test_recipients_without_room_are_those_refused_behind_an_accepted_one(
    said: list[str], later: list[int]
) -> None:
    answers = {
        f'{i}@example.com': (classify(reply(text)), reply(text)) for i, text in enumerate(said)
    }
    assert left_over(answers) == [f'{i}@example.com' for i in later]


def test_limit_is_known_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr('mail.relay.recipients.time', clock)
    limit = RecipientLimit()
    assert limit.most is None
    limit.learn(10)
    assert limit.most == 10
    clock.now_s += REMEMBER_S
    assert limit.most is None


def test_accepted_recipients_alone_leave_nobody_over() -> None:
    assert left_over({'anna@example.com': (Outcome.ACCEPTED, Reply(250, 'ok'))}) == []


@pytest.mark.parametrize(
    ('limits', 'most'),
    [
        ('RCPTMAX=20', 20), ('MAILMAX=5 rcptmax=7 RCPTDOMAINMAX=1', 7), ('', None),
        ('RCPTMAX=0', None),
        ('RCPTMAX=ten', None), ('RCPTMAX=99999999999', None), ('XRCPTMAX=3', None),
    ],
)  # fmt: skip
def test_limit_that_ehlo_tells_is_read_when_it_is_a_number(limits: str, most: int | None) -> None:
    assert announced_limit({'limits': limits}) == most
    assert announced_limit({}) is None


def test_lower_of_the_announced_and_the_learned_limit_is_kept_to() -> None:
    limit = RecipientLimit()
    limit.announced = 10
    assert limit.most == 10
    limit.learn(4)
    assert limit.most == 4
    limit.learn(40)
    assert limit.most == 10
