"""Calls that are made at the same time become one."""

import asyncio
from collections.abc import Sequence

import pytest

from engine.batches import Batcher


class Squares:
    """Squares numbers, when told to, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.was_asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        self.was_asked.set()
        await self.go_on.wait()
        return [number**2 for number in numbers]


async def test_concurrent_callers_share_calls_of_limited_size_and_get_their_own_answers() -> None:
    squares = Squares()
    batched = Batcher(squares, max_items=3)
    assert await asyncio.gather(*map(batched, range(5))) == [0, 1, 4, 9, 16]
    assert squares.asked == [[0, 1, 2], [3, 4]]


async def test_next_calls_wait_until_one_of_those_under_way_has_ended() -> None:
    squares = Squares()
    squares.go_on.clear()
    batched = Batcher(squares, parallel=1)
    first = batched.ask(1)
    await squares.was_asked.wait()
    others = [batched.ask(number) for number in (2, 3)]
    squares.go_on.set()
    assert [await answer for answer in (first, *others)] == [1, 4, 9]
    assert squares.asked == [[1], [2, 3]]


@pytest.mark.parametrize(('drop_cancelled', 'asked'), [(True, [[2]]), (False, [[1, 2]])])
async def test_item_of_a_cancelled_caller_is_dropped_or_kept_as_was_said(
    drop_cancelled: bool, asked: list[list[int]]
) -> None:
    squares = Squares()
    batched = Batcher(squares, drop_cancelled=drop_cancelled)
    gone, stays = batched.ask(1), batched.ask(2)
    gone.cancel()
    assert await stays == 4
    assert squares.asked == asked


async def test_answer_for_a_caller_cancelled_meanwhile_goes_to_orphaned() -> None:
    squares, orphans = Squares(), []
    squares.go_on.clear()
    batched = Batcher(squares, orphaned=lambda item, answer: orphans.append((item, answer)))
    caller = asyncio.ensure_future(batched(3))
    await squares.was_asked.wait()
    caller.cancel()
    squares.go_on.set()
    await batched.settle()
    assert orphans == [(3, 9)]


async def test_error_of_a_call_reaches_all_its_callers_and_nobody_else() -> None:
    async def fail_first(numbers: Sequence[int]) -> list[int]:
        if 0 in numbers:
            raise ValueError('no zero')
        return list(numbers)

    batched = Batcher(fail_first, max_items=2)
    answers = await asyncio.gather(*map(batched, range(4)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ['no zero', 'no zero', '2', '3']


async def test_urgent_item_is_in_the_next_call_whoever_else_waits() -> None:
    squares = Squares()
    squares.go_on.clear()
    batched = Batcher(squares, max_items=2, parallel=1)
    first = batched.ask(1)
    await squares.was_asked.wait()
    others = [batched.ask(number) for number in (2, 3, 4)]
    urgent = batched.ask(5, first=True)
    squares.go_on.set()
    assert await asyncio.gather(first, *others, urgent) == [1, 4, 9, 16, 25]
    assert squares.asked == [[1], [5, 2], [3, 4]]
