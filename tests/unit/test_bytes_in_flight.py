"""The budget of large e-mails, and what it is made of."""

import asyncio

import pytest

from delivery.bytes_in_flight import BytesInFlight, memory_limit_bytes


async def begin(budget: BytesInFlight, size_bytes: int, end: asyncio.Event) -> 'asyncio.Task[None]':
    async def hold() -> None:
        async with budget.share(size_bytes):
            await end.wait()

    task = asyncio.create_task(hold())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_what_fits_goes_at_once_and_the_rest_in_the_order_of_coming():
    budget, ends = BytesInFlight(100), [asyncio.Event() for _ in range(4)]
    tasks = [
        await begin(budget, size, end) for size, end in zip((60, 40, 30, 30), ends, strict=True)
    ]
    assert (budget.taken_bytes, budget.waiting) == (100, set(tasks[2:]))
    ends[1].set()
    await tasks[1]
    await asyncio.sleep(0)
    assert (budget.taken_bytes, budget.waiting) == (90, {tasks[3]})
    for end in ends:
        end.set()
    await asyncio.gather(*tasks)
    assert (budget.taken_bytes, budget.waiting) == (0, set())


async def test_what_is_larger_than_the_budget_goes_alone():
    budget, end = BytesInFlight(100), asyncio.Event()
    huge, other = await begin(budget, 1000, end), await begin(budget, 1, end)
    assert (budget.taken_bytes, budget.waiting) == (100, {other})
    end.set()
    await asyncio.gather(huge, other)
    assert budget.taken_bytes == 0


async def test_cancelled_waiter_leaves_its_turn_to_those_behind():
    budget, end = BytesInFlight(100), asyncio.Event()
    first, large, small = [await begin(budget, size, end) for size in (60, 50, 40)]
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    await asyncio.sleep(0)
    assert (budget.taken_bytes, budget.waiting) == (100, set())
    end.set()
    await asyncio.gather(first, small)
    assert budget.taken_bytes == 0


async def test_turn_that_comes_with_a_cancellation_is_given_back():
    budget, end = BytesInFlight(100), asyncio.Event()
    first, second = await begin(budget, 100, end), await begin(budget, 100, end)
    first.add_done_callback(lambda _: second.cancel())
    end.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert (budget.taken_bytes, budget.waiting) == (0, set())


@pytest.mark.parametrize(
    ('own_cgroup', 'file', 'value', 'limit'),
    [
        ('0::/a/b\n', 'a/b/memory.max', '1000', 1000),
        ('0::/a/b\n', 'a/memory.max', '2000', 2000),
        ('0::/\n', 'memory.max', '3000', 3000),
        ('4:memory:/a\n0::/\n', 'memory/a/memory.limit_in_bytes', '4000', 4000),
        ('4:cpu:/a\n', 'memory/a/memory.limit_in_bytes', '5000', None),
        ('0::/a\n', 'a/memory.max', 'max', None),
        ('', 'a/memory.max', '6000', None),
    ],
)
def test_memory_limit_is_the_lowest_of_those_around(tmp_path, own_cgroup, file, value, limit):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(value)
    unlimited = memory_limit_bytes('', tmp_path)
    assert memory_limit_bytes(own_cgroup, tmp_path) == (limit or unlimited)
