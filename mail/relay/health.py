"""Whether a relay can be used, from what became of the connections and e-mails before.

A relay that fails cools down: it is left alone for a while, longer after each failure in a row.
When that is over, one e-mail at a time tries it until one gets through, so an outage costs one
attempt per cool-down instead of one per waiting e-mail.
"""

# RFC 5321, 4.5.4.1: keep a list of hosts that cannot be reached, instead of retrying each e-mail.
# Doubled with every failure in a row. Short, because a relay that restarts is back in seconds.
COOL_DOWN_BASE_S = 2.0
COOL_DOWN_MAX_S = 120.0
PROBE_WAIT_S = 1.0  # how long to leave a relay alone that an e-mail is trying right now
# It serves when it let us in, or took an e-mail, so lately: one whose connections hung, and that
# let nobody else in, counted as serving, and mail waited for it instead of going elsewhere.
SERVES_S = 10.0


class Health:
    """One relay's health. Times are those of a monotonic clock, in seconds.

    Attributes:
        failures: In a row.
        probes: E-mails that are trying whether the relay is well again.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.probes = 0
        self.last_error: str | None = None
        self._cool_until = 0.0
        self._served_at = 0.0

    def unavailable_for_s(self, now: float) -> float:
        """Return 0 when the relay can be used now, else how long not to try it."""
        left = self._cool_until - now
        if left > 0:
            return left
        return PROBE_WAIT_S if self.probes else 0.0

    def is_cooling(self, now: float) -> bool:
        """Whether it is left alone."""
        return self._cool_until > now

    def failed(self, reason: str, now: float) -> None:
        """Leave the relay alone, longer after each failure in a row."""
        self.last_error = reason
        self.failures += 1
        # 2**64 is far beyond the cap and still a float: an outage of two weeks has 10,000 failures.
        pause_s = min(COOL_DOWN_MAX_S, COOL_DOWN_BASE_S * 2.0 ** min(self.failures - 1, 64))
        self._cool_until = now + pause_s

    def served(self, now: float) -> None:
        """Note that the relay let us in."""
        self._served_at = now

    def recovered(self, now: float) -> None:
        """Note that the relay answered as it should."""
        self._served_at = now
        self.failures = 0  # also by a refusal: a relay that refuses an e-mail is well
        self.last_error = None

    def serves(self, now: float) -> bool:
        """Whether the relay did something for us lately."""
        return now < self._served_at + SERVES_S
