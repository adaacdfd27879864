"""The claims this worker holds, as far as it knows."""

import time
from collections.abc import Iterable

from db.claimed import Claim, ClaimKey, LeaseLost

# A send that begins must have this much of its lease left: the time between the check and DATA
# reaching the relay.
SAFETY_S = 1.0
HAS_BOOTTIME = hasattr(time, 'CLOCK_BOOTTIME')  # not on macOS, whose monotonic clock counts sleep


def now_s() -> float:
    """Return the seconds since the machine was started, those it slept included.

    time.monotonic() stands still on Linux while a machine or a virtual one is suspended, and a
    lease does not.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME) if HAS_BOOTTIME else time.monotonic()


class Leases:
    """Which claims are held, and until when by this machine's own clock, see now_s.

    The deadline is counted from before the claim or renewal was sent, so it always lies before the
    database's. A worker whose loop hung, or whose database is gone, finds its lease over without
    asking anybody.
    """

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self._until: dict[ClaimKey, float] = {}

    def hold(self, claims: Iterable[Claim], since: float) -> None:
        """Note new claims. since: now_s() before they were asked for."""
        for claim in claims:
            self._until[claim.key] = since + self.lease_s

    def drop(self, claim: Claim) -> None:
        """Forget a claim that was recorded or lost."""
        self._until.pop(claim.key, None)

    def held(self) -> list[ClaimKey]:
        """Return the claims to renew."""
        return list(self._until)

    def renewed(self, keys: Iterable[ClaimKey], lost: set[ClaimKey], since: float) -> None:
        """Note a renewal.

        Args:
            keys: What was asked for.
            lost: Those of them that are held no longer.
            since: now_s() before they were asked for.
        """
        for key in keys:
            if key in lost:
                self._until.pop(key, None)
            elif key in self._until:
                self._until[key] = since + self.lease_s

    def check(self, claim: Claim) -> None:
        """Make sure that the e-mail may still be sent.

        Called before MAIL, each part of the body, and the final dot.

        Raises:
            LeaseLost: somebody else may send it by now.
        """
        if now_s() > self._until.get(claim.key, 0.0) - SAFETY_S:
            raise LeaseLost(f'the lease of e-mail {claim.email.id} ran out before its end was sent')
