"""How many e-mails may begin per second."""

import asyncio
import time

BURST_S = 0.1  # so much of a second's share may go at once; one e-mail always may
LOOK_EVERY_S = 0.5  # how soon a waiting e-mail notices that the limit was changed


class RateLimit:
    """At most per_s e-mails a second, evenly spread; 0 is no limit, and costs nothing."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._spent_until = 0.0  # what was begun so far uses up the limit until then

    def set(self, per_s: float) -> None:
        """Change the limit."""
        self.per_s = per_s
        self._spent_until = time.monotonic()

    def allows(self, wanted: int, *, high: bool = False) -> int:
        """Return how many of the wanted e-mails may begin now.

        Args:
            high: Urgent ones take the slots of the next BURST_S; what comes then waits as much
                longer.
        """
        if not self.per_s:
            return wanted
        burst = max(1.0, self.per_s * BURST_S)
        now = time.monotonic()
        self._spent_until = max(self._spent_until, now - burst / self.per_s)
        until = now + BURST_S if high else now
        return max(0, min(wanted, int((until - self._spent_until) * self.per_s + 1e-6)))

    def spend(self, begun: int) -> None:
        """Count e-mails that began."""
        if self.per_s:
            self._spent_until += begun / self.per_s

    def wait_s(self, *, high: bool = False) -> float:
        """Return how long to wait before asking whether one more e-mail may begin."""
        return min(LOOK_EVERY_S, max(0.0, self.slot_in_s() - (BURST_S if high else 0.0)))

    def slot_in_s(self, waiting: int = 0) -> float:
        """Return how long until one more e-mail may begin, behind so many that wait."""
        if not self.per_s:
            return 0.0
        return max(0.0, self._spent_until + (waiting + 1) / self.per_s - time.monotonic())

    def hold(self, wait_s: float) -> None:
        """Let nothing begin for so long."""
        self._spent_until = max(self._spent_until, time.monotonic() + wait_s)

    async def wait_for_slot(self, *, high: bool = False) -> None:
        """Wait until one e-mail may begin, and count it; an urgent one may BURST_S earlier."""
        while not self.allows(1, high=high):  # noqa: ASYNC110 - what it waits for is the time
            await asyncio.sleep(self.wait_s(high=high) + 0.001)
        self.spend(1)
