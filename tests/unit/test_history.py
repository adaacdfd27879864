"""Counts as people read them: steps without gaps, quantiles from buckets."""

from datetime import UTC, datetime, timedelta

import pytest

from db.history import quantile_ms
from db.reports.history import CountedSpan
from ops.screen.lines import sparkline
from reporting.history import WINDOWS, AttemptCounts, counts_of, made_history

START = datetime(2026, 1, 1, tzinfo=UTC)


def test_step_in_which_nothing_happened_is_there():
    counted = CountedSpan(
        START,
        START + timedelta(minutes=3),
        20.0,
        {START + timedelta(minutes=1): {'accepted': 4, 'lost': 1, 'released': 9}},
        {START + timedelta(minutes=1): {40: 4}},
    )
    history = made_history(WINDOWS['1h'], counted)
    assert [point.counts.attempts for point in history.points] == [0, 5, 0]
    assert [point.latency is None for point in history.points] == [True, False, True]
    assert history.total == AttemptCounts(sent=4, deferred=1)


def test_windows_are_made_of_rows_that_divide_their_steps():
    for window in WINDOWS.values():
        assert window.step_s % window.span_s == 0
        assert window.length % timedelta(seconds=window.step_s) == timedelta()


@pytest.mark.parametrize(
    ('buckets', 'quantile', 'expected_ms'),
    [
        ({40: 100}, 0.5, 2**10.125),
        ({40: 50, 80: 50}, 0.5, 2**10.25),
        ({0: 99, 80: 1}, 0.99, 2**0.25),
        ({0: 98, 80: 2}, 0.99, 2**20.125),
        ({0: 1}, 1.0, 2**0.25),
        ({0: 1}, 0.0, 1.0),
    ],
)
def test_quantile_lies_within_its_bucket(buckets, quantile, expected_ms):
    assert quantile_ms(buckets, quantile) == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    ('values', 'drawn'), [([], ''), ([0, 0], '  '), ([0, 1, 50, 100], ' ▁▄█'), ([3], '█')]
)
def test_sparkline_shows_each_value_and_leaves_nothing_out_that_is_not_zero(values, drawn):
    assert sparkline(values) == drawn


def test_outcomes_that_tried_nothing_are_in_no_tally():
    assert counts_of({'released': 7, 'uncertain': 1}) == AttemptCounts(uncertain=1)
