"""Log lines are written by a thread, so that nobody waits for their reader.

Lines that it cannot keep up with are dropped and counted. A full pipe, a journal that hangs or a
disk that does not answer would else hold the event loop, and with it the leases of every e-mail
under way: others take them over and send them again.
"""

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

MOST_WAITING_BYTES = 4 * 2**20  # ten thousand lines and more
FLUSH_S = 2.0  # at the end, for the last lines: who has not read them by then does not

DroppedLine = Callable[[int], str]


class LineWriter:
    """Writes to a descriptor in its own thread.

    put waits for nothing but a lock that nobody holds for long.
    """

    def __init__(self, descriptor: int, dropped_line: DroppedLine) -> None:
        """Start nothing yet.

        Args:
            dropped_line: Returns the line that says how many are missing, for the place where they
                would be.
        """
        self.dropped = 0  # lines since the start
        self.dropped_line = dropped_line
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0  # with those that are being written
        self._reported = 0  # of the dropped ones
        self._is_dropping = False
        self._is_stalled = False  # somebody waited in vain for the lines to get out
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Take whole lines, or count them when there is no room."""
        data = text.encode('utf-8', 'backslashreplace')
        with self._changed:
            # From the first one on all are dropped until the others are out: what is missing is
            # missing at one place.
            self._is_dropping |= self._waiting_bytes + len(data) > MOST_WAITING_BYTES
            if self._is_dropping:
                self.dropped += data.count(b'\n')
            else:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name='log writer', daemon=True)
                self._thread.start()
            elif len(self._waiting) <= 1:
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is out, but no longer than timeout_s.

        For a reader that has stopped, only the first call waits.
        """
        with self._changed:
            done = self._changed.wait_for(
                lambda: not self._waiting_bytes, 0 if self._is_stalled else timeout_s
            )
            self._is_stalled = not done
            return done

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._is_dropping):
                    self._changed.wait()
                # Nothing waits when what was dropped was larger than all the room.
                data = self._waiting.popleft() if self._waiting else b''
            lost = self._write(data)
            with self._changed:
                self._waiting_bytes -= len(data)
                self.dropped += lost
                missing = 0 if self._waiting or lost else self.dropped - self._reported
                self._reported += missing
                self._is_dropping &= bool(self._waiting)
                self._is_stalled = False
                self._changed.notify_all()
            if missing and self._write(
                self.dropped_line(missing).encode('utf-8', 'backslashreplace')
            ):
                self._reported -= missing

    def _write(self, data: bytes) -> int:
        """Return how many lines were lost: their reader has gone, or the disk is full."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody else made it so
                with contextlib.suppress(OSError, ValueError):
                    select.select([], [self._descriptor], [], 1.0)
            except OSError:
                return bytes(left).count(b'\n')
        return 0


class _Direct(LineWriter):
    """Writes to what has no descriptor, such as a test's stand-in for standard error."""

    def __init__(self, stream: TextIO, dropped_line: DroppedLine) -> None:
        super().__init__(-1, dropped_line)
        self._stream = stream

    def put(self, text: str) -> None:
        with contextlib.suppress(ValueError):  # it was closed before us
            self._stream.write(text)
            self._stream.flush()


_writers: dict[int, LineWriter] = {}


def writer_to(stream: TextIO, dropped_line: DroppedLine) -> LineWriter:
    """Return the one writer to a stream's descriptor."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return _Direct(stream, dropped_line)
    writer = _writers.setdefault(descriptor, LineWriter(descriptor, dropped_line))
    writer.dropped_line = dropped_line
    return writer


def dropped_lines() -> int:
    """Return how many lines of this process's log were dropped since its start."""
    return sum(writer.dropped for writer in _writers.values())
