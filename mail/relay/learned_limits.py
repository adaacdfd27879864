"""What a relay takes, where it has taught that by refusing more.

Hardly any relay announces such limits (RFC 9422 has a keyword for some). It refuses the next
connection with 421, 450, 554 or without a word, and ends one that has carried enough in the same
way, so neither is known from a reply alone: it takes what else is known of our connections.
"""

import math
import re

from mail.outcome import Reply
from mail.relay.learned_rate import is_throttling

# A relay that refuses a connection while it serves others of ours has a limit; other workers share
# it, so it is tried again now and then whether there is room for one more. Left alone instead, one
# that takes five of twenty got 3 e-mails a second; now 745 (4,000 e-mails, 2026-11-23).
ONE_MORE_EVERY_S = 10.0
# Some relays count, and close the connection at an inconvenient moment. One that closes after each
# message got 37 e-mails a second, and a quarter of them were deferred; now 1,134 and none.
MAX_MESSAGES_PER_CONNECTION = 1000
FEWER_MESSAGES_FOR_S = 600.0  # what two connections taught may have been a restart

# OpenSMTPD ends no connection that has carried enough; to MAIL it says "452 4.5.3 Too many
# recipients: Too many messages sent", whoever comes next.
USED_UP = re.compile(
    r'\b(too many (messages|e-?mails|mails|transactions)|(per|this|one) (connection|session))\b',
    re.IGNORECASE,
)


def says_used_up(reply: Reply) -> bool:
    """Tell whether a reply to MAIL says that the connection, not we, may carry no more."""
    is_about_it = reply.code == 421 or (reply.code // 100 == 4 and USED_UP.search(reply.text))
    return bool(is_about_it) and not is_throttling(reply)  # a rate tells of no count


class ConnectionLimit:
    """How many connections a relay takes from us at once. Times are of a monotonic clock."""

    def __init__(self, configured: int) -> None:
        self.configured = configured
        self._most = configured  # the relay's own limit where that is lower
        self._one_more_at = 0.0

    def allows(self, count: int, now: float) -> bool:
        """Tell whether one more may be opened beside so many, now and then above the limit."""
        if count < self._most:
            return True
        if now < self._one_more_at:
            return False
        # Nobody else tries until it is known whether there was room for this one.
        self._most, self._one_more_at = count + 1, math.inf
        return True

    def refused(self, others: int, now: float) -> None:
        """Note that the relay took no more beside so many others."""
        # No cool-down: 421 to one connection too many took all mail from a relay that served us.
        self._most, self._one_more_at = others, now + ONE_MORE_EVERY_S

    def tried(self) -> None:
        """Note that an attempt is over: where there was room, the next may be tried at once."""
        if self._one_more_at == math.inf:
            self._one_more_at = 0.0

    def forget(self) -> None:
        """Forget what was learned: the failures of an outage are not the relay's limit."""
        self._most = self.configured


class MessageLimit:
    """How many messages one connection carries. Times are of a monotonic clock."""

    def __init__(self, configured: int = MAX_MESSAGES_PER_CONNECTION) -> None:
        self.configured = self.most = configured
        self._until = 0.0
        self._last_used_up_after: int | None = None

    def ended(self, used_up_after: int, now: float) -> None:
        """Note that the relay ended a connection after so many; a second one confirms it."""
        if used_up_after == self._last_used_up_after:  # one alone may be a restart
            self.most, self._until = used_up_after, now + FEWER_MESSAGES_FOR_S
        self._last_used_up_after = used_up_after

    def upkeep(self, now: float) -> None:
        """Forget a number that was learned long ago."""
        if now > self._until:
            self.most = self.configured
