"""Charts of the overview: heights are shares of the most, and what was not is not drawn."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from reporting.history import WINDOWS, AttemptCounts, History, HistoryPoint, Latency
from web.pages.charts import HEIGHT, STEP, attempts_chart, latency_chart

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def history(*points):
    """A history with a point a minute: counts and latency of each."""
    found = [
        HistoryPoint(NOON + timedelta(minutes=n), counts, latency)
        for n, (counts, latency) in enumerate(points)
    ]
    return History(WINDOWS['1h'], found, AttemptCounts(), None, NOON, 0.0)


def bars(svg):
    """Colour, left, top and height of each bar."""
    found = re.findall('<rect class="(?!hit)([a-z]+)" x="(.*?)" y="(.*?)".*?height="(.*?)"', svg)
    return [(colour, float(x), float(y), float(high)) for colour, x, y, high in found]


def test_bars_are_stacked_shares_of_the_most_attempts():
    svg = attempts_chart(
        history(
            (AttemptCounts(sent=6, deferred=3, failed=1), None),
            (AttemptCounts(), None),
            (AttemptCounts(uncertain=5), None),
        )
    )
    assert bars(svg) == [
        ('fine', 0, 40, 60), ('look', 0, 10, 30), ('act', 0, 0, 10), ('way', 2 * STEP, 50, 50),
    ]  # fmt: skip
    assert '<title>2026-06-01 12:00Z: sent 6, deferred 3, uncertain 0, failed 1</title>' in svg
    assert svg.count('<title>') == 3


@pytest.mark.parametrize('draw', [attempts_chart, latency_chart])
def test_nothing_that_happened_is_an_empty_chart(draw):
    for empty in (history(), history((AttemptCounts(), None))):
        svg = draw(empty)
        assert svg.startswith('<svg class="chart" viewBox="0 0 10.0 100.0"')
        assert bars(svg) == []
        assert 'polyline' not in svg


def test_line_is_broken_where_nothing_was_accepted_and_ends_at_the_largest():
    once = (AttemptCounts(sent=1), Latency(1.0, 2.0, 4.0))
    svg = latency_chart(history(once, (AttemptCounts(), None), once))
    lines = re.findall('<polyline class="(p[0-9]+)" points="(.*?)"', svg)
    assert [name for name, _ in lines] == ['p50', 'p50', 'p95', 'p95', 'p99', 'p99']
    heights = {float(pair.partition(',')[2]) for _, points in lines for pair in points.split()}
    assert min(heights) == 1
    assert max(heights) < HEIGHT
    assert 'at most 4 s' in svg
