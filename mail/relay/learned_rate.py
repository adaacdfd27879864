"""How fast a relay wants mail, found out from its replies."""

import re
import time
from collections import OrderedDict
from collections.abc import Hashable

from mail.outcome import Reply
from mail.relay.rate_limit import RateLimit

LEAST_PER_S, FIRST_PER_S = 0.2, 1.0
CUT = 0.8  # of what it took in the last second, and once more each time it is still too much
IDLE_CUT = 0.5  # when it took nothing since the last time
# E-mails a second, for each that was accepted: a twentieth more each second, while there is that
# much mail; half as much again while nobody knows how much the relay takes.
MORE, MUCH_MORE = 0.05, 0.5
# What was on its way when the relay said it was too much says nothing about the new rate.
SETTLE_S = 1.0
LONGEST_PAUSE_S = 30.0
FORGET_S = 600.0
# One e-mail alone that is refused in such words may itself be the reason: so many are needed in a
# second, and so large a part of all; and none of them counts more often than HEARD_TIMES.
FEWEST, LEAST_PART = 3, 0.02
HEARD_TIMES, HEARD_EMAILS = 3, 1000
RETRY_BASE_S, RETRY_MAX_S = 5.0, 300.0

# Gmail; Exchange Online, which says only that it is busy.
ENHANCED_CODES = frozenset({'4.7.28', '4.7.500'})
# About one mailbox (4.2.x), one message's size, or the number of one message's recipients.
CODES_OF_ONE = re.compile(r'4\.(2\.\d+|3\.4|5\.3)$')
ADDRESS = re.compile(r'\S*@\S*')  # it may have any words
WORDS_OF_ONE = re.compile(
    r"""gr[ea]y-?list | over\s?quota | mailbox | \buser\ you\b
    | \brecipients?\b(?!\ (from|received))
    | \b(this|one|per)\ (connection|session)""",
    re.IGNORECASE | re.VERBOSE,
)
WORDS = re.compile(
    r"""throttl | slow\ down | frequency\ is\ too | exceeded.{0,40}\bper\ (minute|hour|day)
    | number\ of\ (allowed\ )?(outgoing\ )?messages
    | rate[\s-]?limit | \b(sending|unusual|mail|message)\ rate\b
    | \brate\b.{0,30}exceed | exceed.{0,30}\brate\b
    | too\ (much\ mail | fast | frequent)
    | too\ many\ (messages | e-?mails | mails | requests | recipients\ (from | received))
    | \b(daily|hourly|message|sending|submission)\b(?!.{0,20}size).{0,20}\b(quota|limit)\b""",
    re.IGNORECASE | re.VERBOSE,
)


def is_throttling(reply: Reply) -> bool:
    """Tell whether a reply says that the relay takes no more now, whatever the e-mail.

    Only those that speak of a rate or a quota of ours: a relay without room, or with a fault, is
    one that defers, and what it says of that may be one e-mail's doing. There is no code for it:
    relays say it with 421, 450, 451, 452 or 454, and in words. Source: what Amazon SES, Postfix
    (anvil), Exchange Online and Gmail say.
    """
    if not 400 <= reply.code < 500:
        return False
    enhanced_code = reply.enhanced_code or ''
    text = ADDRESS.sub('', reply.text)
    if CODES_OF_ONE.match(enhanced_code) or WORDS_OF_ONE.search(text):
        return False
    return enhanced_code in ENHANCED_CODES or WORDS.search(text) is not None


class LearnedRate:
    """An operator's limit or none, until the relay says it was too much; then about what it takes.

    Found as TCP finds its share of a line, by additive increase and multiplicative decrease
    (RFC 5681, 3.1), so several workers share what a relay takes without knowing of each other.
    """

    def __init__(self, configured: float = 0.0) -> None:
        """Take the operator's limit, 0 for none: what is learned stays below it."""
        self.configured = configured
        self._share = (1.0, 1)  # this worker's part of it, and how many workers have parts
        self._begun = self._queued = 0
        self._said: str | None = None  # the relay's words, once its limit was learned
        self._limit = RateLimit()
        self._limit.set(configured)
        self._heard: OrderedDict[Hashable, int] = (
            OrderedDict()
        )  # how often each of the last e-mails was refused
        self._accepted = self._accepted_before = self._refused = (
            0  # in this second, and in the one before
        )
        self._since = 0.0
        self._is_known = False  # whether the limit comes from what the relay took
        self._accepted_since_cut = 0
        self._cut_at = 0.0
        self._pause_s = 0.0

    @property
    def per_s(self) -> float:
        """E-mails a second; 0 for no limit."""
        return self._limit.per_s

    @property
    def is_learned(self) -> bool:
        """Whether the relay has said that it was too much."""
        return self._said is not None

    @property
    def reason(self) -> str | None:
        """Why there is a limit: the relay's words, or the operator's number; None without one."""
        if self._said is None and self.configured:
            return f'max_per_s is {self.configured:g}'
        return self._said

    def allows(self, *, high: bool = False) -> bool:
        """Whether an e-mail may begin now; an urgent one a little earlier, see RateLimit."""
        return not self._limit.per_s or self._limit.allows(1, high=high) > 0

    def spend(self) -> None:
        """Count an e-mail that begins."""
        self._begun += 1
        self._limit.spend(1)

    def queued(self, number: int) -> None:
        """Note how many e-mails wait for their turn."""
        self._queued = max(self._queued, number)

    def wanted(self) -> int:
        """Return how many e-mails began or waited since this was asked last."""
        wanted, self._begun, self._queued = self._begun + self._queued, 0, 0
        return wanted

    @property
    def soon_per_s(self) -> float:
        """The rate that there will be soon: the part of a worker with little to send is small."""
        if self.is_learned:
            return self.per_s
        return max(self.per_s, self.configured / self._share[1])

    @property
    def _mine(self) -> float:
        return self.configured * self._share[0]

    def take_part(self, part: float, workers: int = 1) -> None:
        """Use this part of the operator's limit; other workers have the others."""
        self._share = (part, workers)
        if not self.is_learned or self._limit.per_s > self._mine:
            self._limit.per_s = self._mine

    def slot_in_s(self, waiting: int) -> float:
        """Return about how long an e-mail would wait behind so many others."""
        return self._limit.slot_in_s(waiting)

    def wait_s(self, *, high: bool = False) -> float:
        """Return how long to wait before asking whether an e-mail may begin."""
        return self._limit.wait_s(high=high)

    def accepted(self, now: float) -> None:
        """Take note that the relay took an e-mail."""
        if now - self._since >= 1.0:
            self._next_second(now)
        self._accepted += 1
        if self._said is not None:
            more = self._limit.per_s + (MORE if self._is_known else MUCH_MORE)
            self._limit.per_s = self._capped(more)
            self._accepted_since_cut += 1
            self._pause_s = 0.0

    def throttled(self, reply: Reply, email: Hashable) -> float:
        """Take note that the relay said it was too much.

        Args:
            email: Whatever is the same when this e-mail is tried again.
        Returns:
            Seconds to wait before it is.
        """
        now = time.monotonic()
        times = self._heard[email] = self._heard.pop(email, 0) + 1
        if len(self._heard) > HEARD_EMAILS:
            self._heard.popitem(last=False)
        # One that is refused again and again would hold up all others.
        if times <= HEARD_TIMES:
            self._slow_down(reply, now)
        return min(RETRY_MAX_S, RETRY_BASE_S * 2.0 ** min(times - 1, 64))

    def _slow_down(self, reply: Reply, now: float) -> None:
        if now - self._since >= 1.0:
            self._next_second(now)
        self._refused += 1
        # The last second: this one, and the part of the one before that it still covers.
        recent = self._accepted + self._accepted_before * (1.0 - (now - self._since))
        fewest = max(1 if self.is_learned else FEWEST, LEAST_PART * recent)
        if now < self._cut_at + SETTLE_S + self._pause_s or self._refused < fewest:
            return
        was_learned, self._said = self.is_learned, str(reply)
        if not was_learned:
            # Its replies to the burst of just now may be still to come.
            self._is_known = self._accepted_before > 0
            self._pause_s = SETTLE_S
            self._limit.set(self._capped(max(FIRST_PER_S, CUT * recent)))
        else:
            self._is_known = self._accepted_since_cut > 0
            # It took nothing at all at this rate: a quota is used up, so the pauses grow.
            if not self._is_known:
                self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s + SETTLE_S)
            less = self.per_s * (CUT if self._is_known else IDLE_CUT)
            self._limit.per_s = self._capped(max(LEAST_PER_S, less))
        self._limit.hold(self._pause_s)
        self._cut_at = now
        self._accepted_since_cut = 0

    def recall(self, per_s: float, said: str) -> None:
        """Go on with what was learned before this worker began."""
        if not self.is_learned and per_s > 0:
            self._said, self._is_known = said, True
            self._cut_at = time.monotonic()
            self._limit.set(self._capped(per_s))

    def upkeep(self) -> None:
        """Forget the limit when the relay has not spoken of one for long."""
        if self.is_learned and time.monotonic() > self._cut_at + FORGET_S:
            self._limit.set(self._mine)
            self._heard.clear()
            self._said = None

    def _capped(self, per_s: float) -> float:
        return min(per_s, self._mine) if self.configured else per_s

    def _next_second(self, now: float) -> None:
        is_next = now - self._since < 2.0
        self._accepted_before = self._accepted if is_next else 0
        self._accepted = self._refused = 0
        self._since = self._since + 1.0 if is_next else now
