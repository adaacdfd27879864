"""A thread that notices when the event loop is held, by what code and by which e-mail.

While the loop is held nothing is sent, no lease is renewed and no command obeyed; a worker whose
loop stands still longer than its lease sends what others send as well. The loop cannot say so
itself, and afterwards nobody knows what it was.
"""

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger()

BEAT_S = 0.1
SAMPLE_S = 0.1
HELD_S = 1.0
MAX_FRAMES = 12
MAX_EMAILS = 20


class LoopWatch:
    """Counts how often the loop was held for longer than HELD_S.

    Attributes:
        holds: How often, since the start.
        last: The last time: at, in seconds since 1970; email_ids, the e-mail whose code it was, or
            else all that were under way; where, the innermost place.
    """

    def __init__(self, under_way: Callable[[], Iterable[int]]) -> None:
        self.holds = 0
        self.last: dict[str, Any] = {}
        self._under_way = under_way
        self._loop_thread = 0
        self._beat_at = time.monotonic()  # of the loop's last iteration
        self._seen_at = self._beat_at  # the same, when the thread last looked
        self._looked_at, self._cpu_s = time.monotonic(), time.process_time()
        self._stopped_s = 0.0  # for which this process did not run since then
        self._reported = False

    async def run(self) -> None:
        """Watch the loop that this runs in until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beat_at = time.monotonic()
        ended = threading.Event()
        # In this task's context: it has the fields that log lines bind.
        looking = partial(contextvars.copy_context().run, self._keep_looking, ended)
        threading.Thread(target=looking, name='loop watch', daemon=True).start()
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                before, self._beat_at = self._beat_at, time.monotonic()
                if self._reported and self._seen_at == before:
                    log.warning(
                        'loop.resumed',
                        held_s=round(self._beat_at - before - BEAT_S, 1),
                        **self.last,
                    )
        finally:
            ended.set()

    def _keep_looking(self, ended: threading.Event) -> None:
        self._looked_at, self._cpu_s = time.monotonic(), time.process_time()
        while not ended.wait(SAMPLE_S):
            self.look(time.monotonic(), time.process_time())

    def look(self, now: float, cpu_s: float) -> None:
        """Judge by the clock and by the CPU time of this process.

        A process that was stopped (SIGSTOP) holds nothing. C code that keeps the interpreter's lock
        keeps this thread from looking as well, but takes CPU time meanwhile.
        """
        if (beat_at := self._beat_at) != self._seen_at:
            self._seen_at, self._stopped_s, self._reported = beat_at, 0.0, False
        passed_s, used_s = now - self._looked_at, cpu_s - self._cpu_s
        self._looked_at, self._cpu_s = now, cpu_s
        if passed_s > 3 * SAMPLE_S:
            self._stopped_s += passed_s - max(used_s, SAMPLE_S)
        if now - beat_at - BEAT_S - self._stopped_s > HELD_S and not self._reported:
            self._reported = True
            self._report(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - there is no other name for it

    def _report(self, frame: FrameType | None) -> None:
        frames = list(islice(_outwards(frame), 200))
        email_ids = sorted(
            {email_id for email_id in map(_email_id, frames) if email_id is not None}
        )
        if not email_ids:
            try:
                email_ids = list(islice(self._under_way(), MAX_EMAILS))
            except RuntimeError:  # the loop is at it
                email_ids = []
        code = [_line(frame) for frame in frames[:MAX_FRAMES]]
        self.holds += 1
        self.last = {
            'at': round(time.time(), 3),
            'email_ids': email_ids,
            'where': code[0] if code else '',
        }
        log.error('loop.blocked', holds=self.holds, **self.last, code=code)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _line(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f'{path.parent.name}/{path.name}:{frame.f_lineno} {frame.f_code.co_name}'


def _email_id(frame: FrameType) -> int | None:
    """Return the id of the e-mail that a function works on: that of its `email` or `claim`."""
    if not {'email', 'claim', 'email_id'}.intersection(frame.f_code.co_varnames):
        return None
    own = frame.f_locals
    email = own.get('email') or getattr(own.get('claim'), 'email', None)
    email_id = getattr(email, 'id', own.get('email_id'))
    return email_id if type(email_id) is int else None
