"""What the ingress has replied, and how long clients waited for it: for its record."""

import time
from collections import Counter, deque

from fleet.ingresses import ACCEPTED, REFUSALS

QUANTILES = (0.5, 0.95, 0.99)
RECENT_S, MOST_RECENT = 300.0, 1000


class ReplyTally:
    """Counts since the start.

    Attributes:
        outcomes: ACCEPTED, and the values of REFUSALS.
        accepted_bytes: Of the messages that were accepted.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.accepted_bytes = 0
        self._waits: deque[tuple[float, float]] = deque(maxlen=MOST_RECENT)  # when, how long

    def note_refused(self, reply: str) -> None:
        """Count a reply that refuses something, now or for good."""
        for beginning, outcome in REFUSALS.items():
            if reply.startswith(beginning):
                self.outcomes[outcome] += 1
                return

    def note_accepted(self, size_bytes: int, waited_s: float) -> None:
        """Count a message, its bytes, and the seconds from its final dot to its 250."""
        self.outcomes[ACCEPTED] += 1
        self.accepted_bytes += size_bytes
        self._waits.append((time.monotonic(), waited_s))

    def waits_s(self) -> dict[str, float]:
        """Return how long accepted messages of the last five minutes waited, by quantile.

        Of the last thousand at most; nothing without any.
        """
        since = time.monotonic() - RECENT_S
        waits = sorted(wait_s for at, wait_s in self._waits if at >= since)
        if not waits:
            return {}
        return {
            str(q): round(waits[min(len(waits) - 1, int(q * len(waits)))], 4) for q in QUANTILES
        }
