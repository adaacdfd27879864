import asyncio

import pytest

from process import recycling
from process.recycling import Limits, draw, keep_recycling


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(recycling, 'LOOK_EVERY_S', 0.001)


async def recycled(limits, done=0, deadline_s=30.0):
    stopped = []
    await asyncio.wait_for(
        keep_recycling(limits, lambda: done, lambda: stopped.append(True)), deadline_s
    )
    return stopped == [True]


async def test_worker_stops_after_its_share_of_jobs():
    assert await recycled(Limits(1000, 0), done=1000)


async def test_worker_stops_when_its_memory_reaches_the_limit(monkeypatch):
    sizes = iter([100, 150, 300])
    monkeypatch.setattr(recycling, 'resident_bytes', lambda: next(sizes))
    assert await recycled(Limits(0, 250))


async def test_without_limits_nothing_is_watched():
    assert not await recycled(Limits(0, 0), done=10**9)


async def test_limit_that_a_fresh_worker_reaches_is_ignored_instead_of_restarting_for_ever(
    monkeypatch,
):
    monkeypatch.setattr(recycling, 'resident_bytes', lambda: 100)
    assert not await recycled(Limits(0, 110))


def test_workers_of_a_fleet_draw_different_limits_up_to_a_tenth_below_the_given_one():
    drawn = [draw(Limits(10_000, 10_000)) for _ in range(50)]
    assert len({limits.jobs for limits in drawn}) > 10
    assert all(
        9000 <= limits.jobs <= 10_000 and 9000 <= limits.rss_bytes <= 10_000 for limits in drawn
    )
    assert all(draw(Limits(1, 0)) == Limits(1, 0) for _ in range(20))
