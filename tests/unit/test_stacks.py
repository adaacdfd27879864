import asyncio

from process.stacks import MAX_TASKS, dump_stacks


async def inner(password):
    await asyncio.Event().wait()


async def outer(password):
    await inner(password)


async def test_stacks_name_who_waits_for_whom_and_no_value():
    task = asyncio.create_task(outer('hunter2'), name='victim')
    await asyncio.sleep(0)
    text = dump_stacks([task])
    task.cancel()
    title, first, second, *_ = text.splitlines()
    assert title == 'victim outer'
    assert first.strip().startswith('tests/unit/test_stacks.py:')
    assert first.endswith(' outer')
    assert second.endswith(' inner')
    assert 'hunter2' not in text


async def test_stacks_of_very_many_tasks_are_cut_and_counted():
    tasks = [asyncio.create_task(inner('')) for _ in range(MAX_TASKS + 5)]
    await asyncio.sleep(0)
    text = dump_stacks(tasks)
    for task in tasks:
        task.cancel()
    assert text.endswith('and 5 more tasks')
