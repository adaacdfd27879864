"""Slots for jobs: urgent mail does not wait until one is free, and overtakes where it must wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from delivery.concurrency import MEASURE_S, URGENT_EXPECTED_S, Concurrency
from mail.priority import HIGH, LOW, NORMAL
from tests.unit.scripted_relay import eventually


class Room:
    """Slots, and who got one in what order; each stays until he is told to go."""

    def __init__(self, size: int) -> None:
        self.concurrency = Concurrency(connections=lambda: 0, most=lambda: size)
        self.concurrency._wanted = size
        self.entered: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str, priority: int) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, priority))

    async def _stay(self, name: str, priority: int) -> None:
        async with self.concurrency.slot(priority):
            self.entered.append(name)
            await self._leave[name].wait()

    async def go(self, name: str) -> None:
        self._leave[name].set()
        await self.tasks[name]

    async def settled(self, waiting: int) -> None:
        await eventually(lambda: len(self.concurrency._waiting) == waiting)


@asynccontextmanager
async def _room(size: int) -> AsyncIterator[Room]:
    room = Room(size)
    try:
        yield room
    finally:
        for task in room.tasks.values():
            task.cancel()
        await asyncio.gather(*room.tasks.values(), return_exceptions=True)


async def test_urgent_mail_enters_when_all_slots_are_taken_and_others_wait() -> None:
    async with _room(2) as room:
        for name in ('a', 'b', 'c', 'd'):
            room.come(name, LOW)
        await room.settled(waiting=2)
        assert room.concurrency.is_full
        room.come('urgent', HIGH)
        await eventually(lambda: room.entered == ['a', 'b', 'urgent'])


async def test_slots_kept_for_urgent_mail_go_to_no_other() -> None:
    async with _room(20) as room:
        assert room.concurrency.kept == 2
        for number in range(25):
            room.come(str(number), NORMAL)
        await room.settled(waiting=5)
        assert len(room.entered) == 20


async def test_urgent_mail_beyond_the_kept_slots_is_next_when_one_is_free() -> None:
    async with _room(1) as room:
        for name, priority in (('a', LOW), ('u1', HIGH), ('b', LOW), ('n', NORMAL), ('u2', HIGH)):
            room.come(name, priority)
        await room.settled(waiting=3)
        assert room.entered == ['a', 'u1']
        for leaves, enters in (('a', 'u2'), ('u1', None), ('u2', 'n'), ('n', 'b')):
            await room.go(leaves)
            await eventually(lambda enters=enters: enters is None or room.entered[-1] == enters)
        assert room.entered == ['a', 'u1', 'u2', 'n', 'b']


async def test_other_mail_gets_a_slot_when_everything_is_urgent() -> None:
    async with _room(1) as room:
        room.come('first', HIGH)
        room.come('low', LOW)
        for number in range(30):
            room.come(f'u{number}', HIGH)
        await room.settled(waiting=30)
        while 'low' not in room.entered:
            assert len(room.entered) < 20
            await room.go(next(name for name in room.entered if not room.tasks[name].done()))


async def test_slot_given_to_a_job_that_is_cancelled_at_once_is_not_lost() -> None:
    async with _room(1) as room:
        room.come('a', NORMAL)
        room.come('b', NORMAL)
        room.come('c', NORMAL)
        await room.settled(waiting=2)
        room._leave['a'].set()
        await eventually(
            lambda: len(room.concurrency._waiting) == 1
        )  # b has its slot, and does not know
        room.tasks['b'].cancel()
        await eventually(lambda: 'c' in room.entered)


class Flow:
    """E-mails that end at a steady rate, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, connections: int) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr('delivery.concurrency.time', clock)
        self.concurrency = Concurrency(connections=lambda: connections, most=lambda: 10_000)

    def send(self, per_s: int, urgent_per_s: int = 0, *, for_s: float) -> None:
        for _ in range(round(for_s / MEASURE_S)):
            for priority, rate in ((LOW, per_s), (HIGH, urgent_per_s)):
                for _ in range(round(rate * MEASURE_S)):
                    self.concurrency.ended(priority)
            self.now += MEASURE_S
            self.concurrency.ended(LOW)


def test_less_is_under_way_while_urgent_mail_comes_among_other_mail(monkeypatch) -> None:
    flow = Flow(monkeypatch, connections=10)
    flow.send(2000, for_s=1)
    assert 190 <= flow.concurrency.size <= 210
    flow.send(2000, 20, for_s=1)
    assert 36 <= flow.concurrency.size <= 44
    flow.send(2000, for_s=URGENT_EXPECTED_S + 1)
    assert 190 <= flow.concurrency.size <= 210


def test_connections_of_a_distant_relay_stay_busy_while_urgent_mail_comes(monkeypatch) -> None:
    flow = Flow(monkeypatch, connections=50)
    flow.send(300, for_s=1)
    assert flow.concurrency.size == 150
    flow.send(300, 20, for_s=1)
    assert flow.concurrency.size == 100


def test_as_much_is_under_way_as_ever_where_most_mail_is_urgent(monkeypatch) -> None:
    flow = Flow(monkeypatch, connections=10)
    flow.send(500, 1500, for_s=2)
    assert 190 <= flow.concurrency.size <= 210
