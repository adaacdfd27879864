"""A time-out that is set anew for each command."""

import asyncio
from collections.abc import Callable


class Deadline:
    """The time by which something has to happen.

    It is set anew for each command, so its timer is moved only when it fires too early.
    """

    def __init__(self, on_passed: Callable[[str], None]) -> None:
        self._on_passed = on_passed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._set_at = self._at = 0.0
        self._timeout_s = 0.0
        self._waits_for = ''

    def set(self, timeout_s: float, waits_for: str) -> None:
        """Set the time; on_passed gets waits_for and the seconds."""
        self._timeout_s, self._waits_for = timeout_s, waits_for
        self._set_at = self._loop.time()
        self._at = self._set_at + timeout_s
        if self._timer is None or self._timer.when() > self._at:
            self.clear()
            self._timer = self._loop.call_at(self._at, self.look)

    def clear(self) -> None:
        """Wait for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def age_s(self) -> float:
        """Return how long ago it was set."""
        return self._loop.time() - self._set_at

    def look(self) -> None:
        """Say so if the time has passed."""
        self._timer = None
        if self._loop.time() < self._at:
            self._timer = self._loop.call_at(self._at, self.look)
        else:
            self._on_passed(f'{self._waits_for} {self._timeout_s:g} s')
