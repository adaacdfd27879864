"""How far a long change is, for the one who waits; Ctrl-C ends it where something is done."""

import signal
import sys
import time
from types import FrameType
from typing import Any

from reporting.wording import length

QUIET_S = 1.0  # what takes no longer is not told
EVERY_S = 0.2
CLEAR = '\r\x1b[K'


class ProgressLine:
    """A line on stderr, if that is a terminal.

    The first Ctrl-C ends the change after what is under way, so that the answer says what was done;
    the second one ends the command.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._told_at = 0.0
        self._interrupted = False
        self._handler: Any = None

    def __call__(self, done: int, total: int | None) -> bool:
        """Tell how far it is. Returns whether to go on."""
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
            self._handler = signal.getsignal(signal.SIGINT)
            if self._handler is not signal.SIG_IGN:  # nohup
                signal.signal(signal.SIGINT, self._interrupt)
        took_s = now - self._began_at
        if took_s > QUIET_S and now - self._told_at > EVERY_S and sys.stderr.isatty():
            self._told_at = now
            print(
                f'{CLEAR}{progress_line(done, total, took_s)}', end='', file=sys.stderr, flush=True
            )
        return not self._interrupted

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, self._handler)

    def end(self) -> None:
        """Clear the line, and leave Ctrl-C to others."""
        if self._began_at is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._began_at = None
        if self._told_at:
            print(CLEAR, end='', file=sys.stderr, flush=True)
            self._told_at = 0.0


def progress_line(done: int, total: int | None, took_s: float) -> str:
    """Return `12500 of 60000, 8500/s, 6 s left`."""
    rate = done / took_s
    parts = [f'{done} of {total}' if total else str(done), f'{rate:.0f}/s']
    if total and done:
        parts.append(f'{length((total - done) / rate)} left')
    return ', '.join(parts)
