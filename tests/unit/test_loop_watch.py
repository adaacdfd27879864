"""A loop that is held is noticed, with the code and the e-mail that hold it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from fleet.registry import record_from
from mail_outbox.envelope import Email
from process.loop_watch import HELD_S, LoopWatch


async def until(condition, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what it waits for is a log line
            await asyncio.sleep(0.01)


@pytest.fixture
async def watch() -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(lambda: iter((7, 8)))
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    yield watch
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def hold_until_noticed(watch: LoopWatch) -> None:
    deadline = time.monotonic() + 20
    while not watch.holds and time.monotonic() < deadline:
        time.sleep(0.01)


def render_slowly(watch: LoopWatch, email: Email) -> None:
    hold_until_noticed(watch)
    assert email


async def test_held_loop_is_counted_and_told_with_its_e_mail_and_its_code_while_it_is_held(
    watch: LoopWatch,
) -> None:
    with capture_logs() as logs:
        render_slowly(watch, Email(42, 'anna@example.com'))
        assert watch.holds == 1, 'not before the loop went on'
        await until(lambda: any(line['event'] == 'loop.resumed' for line in logs))
    (held,) = [line for line in logs if line['event'] == 'loop.blocked']
    assert held['email_ids'] == [42]
    assert any(
        re.fullmatch(r'unit/test_loop_watch.py:\d+ render_slowly', place) for place in held['code']
    )
    assert watch.last['email_ids'] == [42]


async def test_hold_of_no_known_e_mail_names_those_under_way(watch: LoopWatch) -> None:
    hold_until_noticed(watch)
    assert (watch.holds, watch.last['email_ids']) == (1, [7, 8])


async def test_c_code_that_keeps_the_interpreters_lock_is_noticed(watch: LoopWatch) -> None:
    deadline = time.monotonic() + 60
    number = 3**1_000_000
    while not watch.holds and time.monotonic() < deadline:
        number = number * number  # the watching thread cannot run meanwhile
        if number.bit_length() > 20_000_000:
            number = 3**1_000_000
    assert watch.holds == 1


def looked(*samples: tuple[float, float]) -> int:
    """Return the holds that a watch counts that looks at these times and CPU times, the loop's only
    turn being at 0.
    """
    watch = LoopWatch(lambda: iter(()))
    watch._beat_at = watch._looked_at = watch._cpu_s = 0.0
    for now, cpu_s in samples:
        watch.look(now, cpu_s)
    return watch.holds


def test_process_that_was_stopped_holds_nothing() -> None:
    assert looked((0.1, 0.0), (60.0, 0.01)) == 0


def test_process_that_computed_meanwhile_held_its_loop() -> None:
    assert looked((0.1, 0.0), (60.0, 59.0)) == 1


def test_one_hold_is_counted_once() -> None:
    assert looked(*((sample / 10, 0.0) for sample in range(100))) == 1
    assert looked(*((sample / 10, 0.0) for sample in range(int(HELD_S * 10)))) == 0


def test_record_tells_of_holds() -> None:
    told = {
        'worker': 'w',
        'queue': 'q',
        'started_at': '',
        'emails': [],
        'outcomes': {},
        'rss_bytes': 1,
    }
    record = record_from(told | {'loop_holds': 3, 'last_hold': {'email_ids': [1]}})
    assert record is not None
    assert (record.loop_holds, record.last_hold) == (3, {'email_ids': [1]})
