"""Writing the log waits for nobody.

A reader that stops costs lines, which are counted and told, and never time.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from process.log_writer import LineWriter
from tests.conftest import ROOT, wait_until

LINE = 'x' * 99 + '\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def read_all(reading: int, writer: LineWriter) -> list[str]:
    """Read until the writer has nothing left."""
    read = b''
    os.set_blocking(reading, False)
    is_done = False
    while not is_done:
        is_done = writer.flush(0.001)  # what is out by then is read once more
        with contextlib.suppress(BlockingIOError):
            while data := os.read(reading, 65536):
                read += data
    return read.decode().splitlines()


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LineWriter(writing, str)
    said = [f'{n} ' + 'x' * (n % 300) for n in range(3000)]
    for line in said:
        writer.put(line + '\n')
    assert read_all(reading, writer) == said
    assert writer.dropped == 0


def test_reader_that_stops_costs_lines_that_are_counted_and_told_where_they_are_missing(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr('process.log_writer.MOST_WAITING_BYTES', 50_000)
    writer = LineWriter(writing, lambda lines: f'dropped {lines}\n')
    for _ in range(2000):
        writer.put(LINE)
    dropped = writer.dropped
    assert 1400 < dropped <= 1500  # there is room for 500, and the pipe took some
    assert not writer.flush(0.05)
    started = time.monotonic()
    for _ in range(100):  # who waits has waited once
        writer.flush(1.0)
    assert time.monotonic() - started < 1.0
    os.set_blocking(reading, False)
    read = b''
    deadline = time.monotonic() + 60
    while not re.search(rb'dropped \d+\n', read) and time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            read += os.read(reading, 65536)
    lines = read.decode().splitlines()
    assert lines == [LINE.strip()] * (2000 - dropped) + [f'dropped {dropped}']
    writer.put('after\n')
    assert writer.flush(60)
    assert os.read(reading, 100) == b'after\n'


def test_line_larger_than_all_room_is_dropped_and_those_after_it_come_out(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    monkeypatch.setattr('process.log_writer.MOST_WAITING_BYTES', 1000)
    writer = LineWriter(writing, lambda lines: f'dropped {lines}\n')
    for said, read in (('x' * 2000, b'dropped 1\n'), ('after', b'after\n')) * 2:
        writer.put(f'{said}\n')
        assert os.read(reading, 100) == read


def test_reader_that_has_gone_ends_nothing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LineWriter(writing, lambda lines: f'dropped {lines}\n')
    os.close(reading)
    for _ in range(3):
        writer.put(LINE * 2)
        assert writer.flush(60)
    assert writer.dropped == 6


def test_descriptor_that_somebody_made_non_blocking_loses_no_line(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LineWriter(writing, str)
    for _ in range(500):
        writer.put(LINE)
    assert read_all(reading, writer) == [LINE.strip()] * 500


PROGRAM = """
import asyncio, sys, structlog
from process.log_writer import dropped_lines
from logs import configure_logs

async def main():
    log = structlog.get_logger()
    turns = 0
    for n in range(60_000):
        log.info('said', n=n, text='x' * 200)
        if n % 100 == 0:
            await asyncio.sleep(0)
            turns += 1
    await asyncio.sleep(0)
    print(turns, dropped_lines(), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    log.info('recovered')
    await asyncio.sleep(0)
    log.error('the end')

configure_logs('INFO', 'json')
asyncio.run(main())
structlog.get_logger().error('the very end')
"""


def start(**options: object) -> 'subprocess.Popen[bytes]':
    return subprocess.Popen(
        [sys.executable, '-c', PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def test_full_pipe_holds_no_loop_and_the_log_goes_on_when_it_is_read_again() -> None:
    with start() as process:
        assert process.stdout
        assert process.stderr
        assert process.stdin
        turns, dropped = map(
            int, process.stdout.readline().split()
        )  # comes although nobody reads its log
        assert turns == 600
        assert 0 < dropped < 60_000
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.extend(process.stderr or ()))
        reader.start()
        asyncio.run(wait_until(lambda: any(b'log.lines_dropped' in line for line in read)))
        process.stdin.write(b'\n')
        process.stdin.close()
        assert process.wait(60) == 0
        reader.join()
    events = [json.loads(line) for line in read]
    said = [event['n'] for event in events if event['event'] == 'said']
    assert said == list(range(60_000 - dropped))
    assert [event['event'] for event in events[-4:]] == [
        'log.lines_dropped',
        'recovered',
        'the end',
        'the very end',
    ]
    assert (events[-4]['lines'], events[-4]['level']) == (dropped, 'warning')


def test_program_whose_log_nobody_reads_ends_all_the_same() -> None:
    with start() as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline()
        process.stdin.write(b'\n')
        process.stdin.close()
        assert process.wait(60) == 0
