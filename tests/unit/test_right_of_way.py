"""While an urgent e-mail is on its way, other work waits, but not for long."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

import delivery.right_of_way
from delivery.right_of_way import RightOfWay
from mail.priority import HIGH, NORMAL
from tests.conftest import wait_until


@pytest.fixture
def way() -> RightOfWay:
    return RightOfWay()


def claim(priority: int) -> Any:
    return SimpleNamespace(priority=priority)


async def test_others_begin_when_no_urgent_mail_is_on_its_way(way, monkeypatch):
    monkeypatch.setattr(delivery.right_of_way, 'MOST_S', 600)
    await way.given()
    with way.taken(), way.taken():
        waiting = asyncio.create_task(way.given())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 10)


async def test_attempt_that_follows_its_claim_lets_nobody_begin_between_them(way, monkeypatch):
    monkeypatch.setattr(delivery.right_of_way, 'MOST_S', 600)
    order = []

    async def send() -> None:
        async with way.turn(claim(HIGH)):
            order.append('urgent begins')
            for _ in range(5):
                await asyncio.sleep(0)
            order.append('urgent ends')

    async def other() -> None:
        async with way.turn(claim(NORMAL)):
            order.append('other')

    with way.taken():  # its claim
        waiting = asyncio.create_task(other())
        await asyncio.sleep(0)
    sending = asyncio.create_task(send())
    await asyncio.gather(waiting, sending)
    assert order == ['urgent begins', 'urgent ends', 'other']


async def test_others_wait_for_no_longer_than_the_limit_and_then_go_on(way, monkeypatch):
    monkeypatch.setattr(delivery.right_of_way, 'MOST_S', 0.02)
    with way.taken():  # its relay is slow
        await asyncio.wait_for(way.given(), 10)
        await asyncio.wait_for(way.given(), 10)
    await wait_until(lambda: not way._urgent)
    free_until = way._free_until
    assert free_until > time.monotonic() - 10
    monkeypatch.setattr(way, '_free_until', time.monotonic() + 600)
    with way.taken():  # all mail is urgent: the others have their share
        await asyncio.wait_for(way.given(), 10)
