"""A worker's part of a limit: what is told, and what is taken."""

import pytest

from fleet.rate_shares import RateShare, _read_learned
from mail.relay.learned_rate import LearnedRate


def test_part_that_shrinks_is_taken_at_once_and_one_that_grows_a_turn_later() -> None:
    share = RateShare()
    share.agreed(100, 400, 4)
    assert share.part == 0.25
    share.agreed(100, 100, 1)
    assert share.part == 0.25  # the others may still use theirs
    share.agreed(100, 100, 1)
    assert share.part == 1


def test_without_redis_a_worker_takes_no_more_than_everybody_can_have() -> None:
    share = RateShare()
    share.alone()
    assert share.part == 1  # it knows of nobody else
    share.agreed(900, 1000, 4)
    share.alone()
    assert share.part == 0.25
    share.agreed(10, 1000, 4)
    share.alone()
    assert share.part == 0.01  # the others may have the rest


def test_answer_that_makes_no_sense_gives_no_more_than_the_limit() -> None:
    share = RateShare()
    share.agreed(100, 0, 0)
    assert (share.part, share.workers) == (1, 1)


@pytest.mark.parametrize(
    'stored',
    [None, b'', b'x', b'[1]', b'{"a": 1}', b'[1e9, ""]', b'[-1, ""]', b'["1", ""]', b'[NaN, "x"]',
     b'[1, 2]', b'\xff', b'[' * 100_000],
)  # fmt: skip
def test_what_somebody_else_wrote_teaches_nothing(stored: bytes | None) -> None:
    rate = LearnedRate()
    rate.recall(*_read_learned(stored))
    assert (rate.per_s, rate.is_learned) == (0, False)


def test_what_was_learned_before_holds_and_stays_below_the_operators_part() -> None:
    rate = LearnedRate(40)
    rate.take_part(0.5)
    assert rate.per_s == 20
    rate.recall(*_read_learned(b'[30, "450 too much mail"]'))
    assert (rate.per_s, rate.reason) == (20, '450 too much mail')
    rate.take_part(0.25)
    assert rate.per_s == 10
    other = LearnedRate()
    other.recall(7.5, '450 too much mail')
    assert (other.per_s, other.is_learned) == (7.5, True)


def test_what_is_wanted_is_what_began_and_what_waits() -> None:
    rate = LearnedRate(40)
    rate.queued(3)
    rate.queued(1)
    rate.spend()
    assert (rate.wanted(), rate.wanted()) == (4, 0)
