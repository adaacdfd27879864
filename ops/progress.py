"""How far a long change is, for the one who waits; a signal ends it where something is done."""

import signal
import sys
import time
from types import FrameType
from typing import Any

from reporting.problems import INTERRUPTED, Problem, ProblemError
from reporting.wording import length

QUIET_S = 1.0  # what takes no longer is not told
EVERY_S = 0.2
LOG_EVERY_S = 30.0  # where nobody watches a line: in the log of a long step
CLEAR = '\r\x1b[K'
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProgressLine:
    """A line on stderr, if that is a terminal.

    The first Ctrl-C, SIGTERM or SIGHUP ends the change after what is under way, so that the answer
    says what was done; the second one ends the command.
    """

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._told_at = 0.0
        self._interrupted = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __call__(self, done: int, total: int | None) -> bool:
        """Tell how far it is. Returns whether to go on."""
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
            for number in ENDING:
                handler = signal.getsignal(number)
                if handler is not signal.SIG_IGN:  # nohup
                    self._handlers[number] = handler
                    signal.signal(number, self._interrupt)
        took_s = now - self._began_at
        if took_s > QUIET_S and now - self._told_at > EVERY_S and is_watched():
            self._told_at = now
            print(
                f'{CLEAR}{progress_line(done, total, took_s)}', end='', file=sys.stderr, flush=True
            )
        return not self._interrupted

    def _interrupt(self, _: int, __: FrameType | None) -> None:
        self._interrupted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def clear(self) -> None:
        """Clear the line: something else is to be written there."""
        if self._told_at:
            print(CLEAR, end='', file=sys.stderr, flush=True)
            self._told_at = 0.0

    def end(self) -> None:
        """Clear the line, and leave the signals to others."""
        self._restore()
        self._began_at = None
        self.clear()


class StepProgress:
    """Tells the steps of a change on stderr, a line each, and counts within a step.

    It is a db.adoption.locks.ReportProgress.
    """

    def __init__(self) -> None:
        self._line = ProgressLine()
        self._logged_at = time.monotonic()

    def __call__(self, text: str, /, done: int | None = None, total: int | None = None) -> None:
        """Tell it.

        Raises:
            ProblemError: somebody wants it to end here; the problem says what was done.
        """
        if done is None:
            self._line.end()
            print(text, file=sys.stderr, flush=True)
            return
        if not self._line(done, total):
            self._line.end()
            what = f'{INTERRUPTED.what}: {text}'
            raise ProblemError(
                Problem(what, INTERRUPTED.remedy, exit_status=INTERRUPTED.exit_status)
            )
        if not is_watched() and time.monotonic() - self._logged_at > LOG_EVERY_S:
            self._logged_at = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear what is left of the line."""
        self._line.end()


def is_watched() -> bool:
    """Whether somebody sees a line that changes."""
    return sys.stderr.isatty()


def progress_line(done: int, total: int | None, took_s: float) -> str:
    """Return `12500 of 60000, 8500/s, 6 s left`."""
    rate = done / took_s
    parts = [f'{done} of {total}' if total else str(done), f'{rate:.0f}/s']
    if total and 0 < done <= total:
        parts.append(f'{length((total - done) / rate)} left')
    return ', '.join(parts)
