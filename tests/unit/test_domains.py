"""Recipient domains: limits, and those that defer are left alone while all others go on."""

import asyncio
from typing import Any

import pytest

from mail import domains as module
from mail.deliver import deliver
from mail.domains import AWAY_BASE_S, AWAY_MAX_S, IN_A_ROW, MOST_SLOW, DomainBoard, DomainLimit
from mail.outcome import Outcome, Phase, Reply
from mail.progress import Progress
from mail.route import Relays
from tests.unit.scripted_relay import Clock, ScriptedRelay, eventually, rendered

LATER = '450 4.7.1 try again later'
GMAIL = frozenset({'gmail.com', '*.gmail.com'})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, 'time', clock)
    monkeypatch.setattr('mail.relay.rate_limit.time', clock)
    return clock


def deferred(board: DomainBoard, domain: str, times: int = 1, phase: Phase = Phase.RCPT) -> None:
    for number in range(times):
        answer = (Outcome.DEFERRED, Reply(450, '4.7.1 try again later'))
        board.answered({f'u{number}@{domain}': answer}, phase)


def admitted(board: DomainBoard, *to: str) -> Any:
    admission = board.admit(to)
    board.done(admission)
    return admission


def test_without_limits_and_slow_domains_everybody_is_admitted() -> None:
    assert DomainBoard().admit(('a@b.example',)) == (('a@b.example',), (), 0.0, '', ())


def test_domain_is_left_alone_after_several_in_a_row_and_others_are_not(clock: Clock) -> None:
    board = DomainBoard()
    deferred(board, 'slow.example', IN_A_ROW - 1)
    assert admitted(board, 'a@slow.example').later == ()
    deferred(board, 'slow.example')
    admission = admitted(board, 'a@Slow.example', 'b@example.com')
    assert (admission.now, admission.later) == (('b@example.com',), ('a@Slow.example',))
    assert AWAY_BASE_S < admission.wait_s < AWAY_BASE_S + 1
    assert 'slow.example: left alone, 450 4.7.1' in admission.reason
    assert [domain for domain, _, _ in board.left_alone()] == ['slow.example']


def test_one_tries_when_the_time_is_over_and_what_it_is_told_decides(clock: Clock) -> None:
    board = DomainBoard()
    deferred(board, 'slow.example', IN_A_ROW)
    for round_s in (60, 120, 240, 480, 960, AWAY_MAX_S, AWAY_MAX_S):
        clock.now_s += 2 * AWAY_MAX_S
        first, second = board.admit(('a@slow.example',)), board.admit(('b@slow.example',))
        assert (first.later, second.now) == ((), ())
        deferred(board, 'slow.example')
        board.done(first)
        assert board.left_alone()[0][1] == round_s
    clock.now_s += 2 * AWAY_MAX_S
    board.answered({'a@slow.example': (Outcome.ACCEPTED, Reply(250, 'ok'))}, Phase.REPLIED)
    assert board.slow == {}
    assert admitted(board, 'a@slow.example').later == ()


def test_one_that_could_not_try_leaves_the_turn_to_the_next(clock: Clock) -> None:
    board = DomainBoard()
    deferred(board, 'slow.example', IN_A_ROW)
    clock.now_s += AWAY_BASE_S
    board.done(board.admit(('a@slow.example',)))
    assert board.admit(('b@slow.example',)).later == ()


def test_accepted_one_between_them_begins_the_count_again(clock: Clock) -> None:
    board = DomainBoard()
    for _ in range(5):
        deferred(board, 'slow.example', IN_A_ROW - 1)
        board.answered({'a@slow.example': (Outcome.ACCEPTED, Reply(250, 'ok'))}, Phase.REPLIED)
    assert admitted(board, 'a@slow.example').later == ()


def test_refused_sender_blames_no_domain(clock: Clock) -> None:
    board = DomainBoard()
    deferred(board, 'example.com', 10, Phase.MAIL)
    assert board.slow == {}


def test_number_of_domains_that_are_remembered_is_bounded(clock: Clock) -> None:
    board = DomainBoard()
    for number in range(MOST_SLOW + 10):
        deferred(board, f'd{number}.example')
    assert len(board.slow) == MOST_SLOW
    assert 'd0.example' not in board.slow


def test_those_that_wait_for_a_rate_get_times_one_after_the_other(clock: Clock) -> None:
    board = DomainBoard()
    board.limit([DomainLimit('gmail.com', GMAIL, max_per_s=2.0)])
    clock.now_s += 0.5
    assert admitted(board, 'a@gmail.com').later == ()
    waits_s = [admitted(board, 'a@mail.gmail.com').wait_s for _ in range(4)]
    assert waits_s == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert admitted(board, 'a@example.com').later == ()
    clock.now_s += 0.5
    assert admitted(board, 'a@gmail.com').later == ()
    for _ in range(10_000):
        furthest_s = admitted(board, 'a@gmail.com').wait_s
    assert furthest_s == module.FURTHEST_S


def test_limit_that_is_the_same_keeps_what_was_used(clock: Clock) -> None:
    board = DomainBoard()
    board.limit([DomainLimit('gmail.com', GMAIL, max_per_s=2.0)])
    clock.now_s += 0.5
    admitted(board, 'a@gmail.com')
    board.limit([DomainLimit('gmail.com', GMAIL, max_per_s=2.0)])
    assert admitted(board, 'a@gmail.com').later != ()
    board.limit([])
    assert admitted(board, 'a@gmail.com').later == ()


async def sent(relays: Relays, *to: str) -> Any:
    return await deliver(relays, rendered(*to), {}, Progress())


async def test_slow_domain_costs_others_nothing_and_its_own_neither_attempt_nor_connection() -> (
    None
):
    async with ScriptedRelay({'RCPT <a@slow.example>': LATER}) as server:
        relays = Relays([server.relay()])
        for _ in range(IN_A_ROW):
            assert (await sent(relays, 'a@slow.example')).outcome is Outcome.DEFERRED
        asked = len(server.verbs)
        waits = await sent(relays, 'a@slow.example')
        assert (waits.outcome, waits.throttled) == (Outcome.RELEASED, True)
        assert waits.retry_in_s > AWAY_BASE_S - 1
        assert len(server.verbs) == asked
        both = await sent(relays, 'b@example.com', 'a@slow.example')
        assert both.outcome is Outcome.RELEASED
        assert both.recipients['b@example.com'][0] is Outcome.ACCEPTED
        assert server.recipients[-1] == 'b@example.com'
        again = await deliver(
            relays, rendered('b@example.com', 'a@slow.example'), both.recipients, Progress()
        )
        assert again.recipients['b@example.com'][0] is Outcome.ACCEPTED
        assert server.recipients.count('b@example.com') == 1
        suspect = await deliver(relays, rendered('a@slow.example'), {}, Progress(urgent=True))
        assert suspect.outcome is Outcome.DEFERRED  # it does not wait
        relays.close_idle(older_than_s=0)


async def test_rate_that_a_relay_says_of_one_domain_slows_only_that_domain() -> None:
    too_much = '450 4.7.1 rate limit for slow.example exceeded'
    async with ScriptedRelay({'RCPT <a@slow.example>': too_much}) as server:
        relays = Relays([server.relay()])
        for _ in range(IN_A_ROW):
            assert (await sent(relays, 'a@slow.example')).outcome is Outcome.DEFERRED
        assert (await sent(relays, 'a@slow.example')).outcome is Outcome.RELEASED
        (relay,) = relays
        assert not relay.rate.is_learned
        relays.close_idle(older_than_s=0)


async def test_no_more_are_under_way_to_a_domain_than_allowed() -> None:
    async with ScriptedRelay({'DOT': ['stall', '250 2.0.0 queued']}) as server:
        relays = Relays([server.relay()])
        relays.domains.limit([DomainLimit('example.org', frozenset({'example.org'}), 0, 1)])
        first = asyncio.create_task(sent(relays, 'a@example.org'))
        await eventually(lambda: server.bodies)
        assert (await sent(relays, 'b@example.org')).outcome is Outcome.RELEASED
        assert (await sent(relays, 'b@example.com')).outcome is Outcome.ACCEPTED
        first.cancel()
        await asyncio.wait([first])
        assert (await sent(relays, 'b@example.org')).outcome is Outcome.ACCEPTED
        relays.close_idle(older_than_s=0)


def test_worker_that_has_a_small_part_for_now_delays_nothing_for_long(clock: Clock) -> None:
    board = DomainBoard()
    board.limit([DomainLimit('gmail.com', GMAIL, max_per_s=4.0)])
    board.buckets[0].rate.take_part(0.001, workers=2)  # it had nothing to send
    waits_s = [admitted(board, 'a@gmail.com').wait_s for _ in range(4)]
    assert waits_s == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert board.buckets[0].rate.wanted() > 0  # so its part grows
