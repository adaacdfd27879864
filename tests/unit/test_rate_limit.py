import asyncio

import pytest

from mail.relay import rate_limit
from mail.relay.rate_limit import RateLimit


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rate_limit, 'time', clock)
    return clock


def test_without_a_limit_everything_may_begin():
    limit = RateLimit()
    limit.spend(10**6)
    assert limit.allows(500) == 500
    assert limit.wait_s() == 0


@pytest.mark.parametrize('per_s', [0.1, 1, 5, 7.5, 100, 1000])
def test_no_more_begin_than_the_limit_and_its_burst_allow(clock, per_s):
    limit = RateLimit()
    limit.set(per_s)
    begun = 0
    seconds = max(20, int(20 / per_s))
    for _ in range(seconds * 100):
        clock.now_s += 0.01
        granted = limit.allows(50)
        limit.spend(granted)
        begun += granted
    assert (
        seconds * per_s * 0.95 - 1 <= begun <= seconds * per_s + max(1, per_s * rate_limit.BURST_S)
    )


def test_idle_time_is_not_saved_up(clock):
    limit = RateLimit()
    limit.set(5)
    clock.now_s += 3600
    assert limit.allows(100) == 1


def test_what_was_claimed_beyond_the_limit_is_waited_for(clock):
    limit = RateLimit()
    limit.set(10)
    clock.now_s += 1
    assert limit.allows(1) == 1
    limit.spend(11)  # a sweep looked before a job had begun
    clock.now_s += 0.5
    assert limit.allows(1) == 0
    clock.now_s += 0.6
    assert limit.allows(1) == 1


async def test_waiting_email_goes_on_when_the_limit_is_lifted(monkeypatch):
    monkeypatch.setattr(rate_limit, 'LOOK_EVERY_S', 0.01)
    limit = RateLimit()
    limit.set(0.001)
    waiting = asyncio.create_task(limit.wait_for_slot())
    await asyncio.wait([waiting], timeout=0.03)
    assert not waiting.done()
    limit.set(0)
    await asyncio.wait_for(waiting, 30)


@pytest.mark.parametrize('per_s', [0.1, 1, 5, 7.5, 100, 1000])
def test_no_more_begin_than_the_limit_allows_in_the_long_run_when_all_are_urgent(clock, per_s):
    limit = RateLimit()
    limit.set(per_s)
    begun = 0
    seconds = max(20, int(20 / per_s))
    for _ in range(seconds * 100):
        clock.now_s += 0.01
        granted = limit.allows(50, high=True)
        limit.spend(granted)
        begun += granted
    assert (
        seconds * per_s * 0.95 - 1
        <= begun
        <= seconds * per_s + max(1, per_s * rate_limit.BURST_S) + per_s * rate_limit.BURST_S
    )


@pytest.mark.parametrize('per_s', [10, 100, 1000])
def test_urgent_e_mail_does_not_wait_for_its_turn_and_the_others_wait_longer(clock, per_s):
    limit = RateLimit()
    limit.set(per_s)
    limit.spend(limit.allows(10**6))
    assert (limit.allows(1), limit.allows(1, high=True)) == (0, 1)
    before_s = limit.wait_s()
    limit.spend(1)
    assert limit.wait_s() == pytest.approx(before_s + 1 / per_s)


@pytest.mark.parametrize('per_s', [0.5, 2, 9])
def test_turn_of_an_urgent_e_mail_comes_before_that_of_any_other(clock, per_s):
    limit = RateLimit()
    limit.set(per_s)
    limit.spend(1)
    assert limit.allows(1, high=True) == 0
    assert limit.slot_in_s() - rate_limit.BURST_S > 0
    clock.now_s += limit.slot_in_s() - rate_limit.BURST_S
    assert (limit.allows(1), limit.allows(1, high=True)) == (0, 1)


async def test_urgent_e_mail_overtakes_those_who_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(rate_limit, 'LOOK_EVERY_S', 0.01)
    limit = RateLimit()
    limit.set(0.001)
    order = []

    async def one(name, **options):
        await limit.wait_for_slot(**options)
        order.append(name)

    waiting = [asyncio.create_task(one('low')) for _ in range(3)]
    waiting.append(asyncio.create_task(one('urgent', high=True)))
    await asyncio.sleep(0)
    limit._spent_until -= 1000 - rate_limit.BURST_S / 2  # an urgent one's turn, and nobody else's
    await asyncio.wait_for(waiting[-1], 30)
    assert order == ['urgent']
    limit.set(0)
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
