"""Slots for jobs: urgent mail does not wait until one is free, and overtakes where it must wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from delivery.concurrency import Concurrency
from mail.priority import HIGH, LOW, NORMAL
from tests.unit.scripted_relay import eventually


class Room:
    """Slots, and who got one in what order; each stays until he is told to go."""

    def __init__(self, size: int) -> None:
        self.concurrency = Concurrency(least=lambda: 1, most=lambda: size)
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
