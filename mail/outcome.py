"""From a relay's reply to what happens next: outcome, next state, and the backoff."""

import functools
import random
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mail_outbox.envelope import BY_LIFE
from mail_outbox.states import DeadReason, Status

ENHANCED_CODE = re.compile(r'^([245]\.\d{1,3}\.\d{1,3})(?=\s|$)')


class Outcome(StrEnum):
    """What an attempt ended in."""

    ACCEPTED = 'accepted'  # the relay took responsibility
    DEFERRED = 'deferred'  # not now: a 4xx reply, no connection, a timeout before the final dot
    REJECTED = 'rejected'  # never: a 5xx reply, or an e-mail that cannot be rendered
    UNCERTAIN = 'uncertain'  # the final dot was sent and no reply came
    RELEASED = 'released'  # nothing was tried that counts
    LOST = 'lost'  # the worker died, or lost its lease; written by the rescue


class Phase(StrEnum):
    """How far an attempt has come, in order.

    BODY_SENT begins when the final dot may have reached the relay.
    """

    CLAIMED = 'claimed'
    CONTENT = 'content'
    RENDER = 'render'
    RECIPIENTS = 'recipients'  # who of them gets no mail
    CONNECT = 'connect'
    MAIL = 'mail'
    RCPT = 'rcpt'
    DATA = 'data'
    BODY = 'body'
    BODY_SENT = 'body-sent'
    REPLIED = 'replied'


class Reply(NamedTuple):
    """What a relay said.

    Source: RFC 5321 section 4.2 (codes), RFC 3463 (enhanced status codes).
    """

    code: int
    text: str

    @property
    def enhanced_code(self) -> str | None:
        """The enhanced status code at the start of the text, such as 5.1.1."""
        return _enhanced_code(self.text[:12])

    def __str__(self) -> str:
        return f'{self.code} {self.text}'


@functools.lru_cache(maxsize=256)
def _enhanced_code(beginning: str) -> str | None:
    match = ENHANCED_CODE.match(beginning)
    return match[1] if match else None


class Override(NamedTuple):
    """A reply that a provider documents as something else than its basic code says."""

    first_digit: int
    words: re.Pattern[str]  # in the reply's text, the enhanced code included
    outcome: Outcome


# Only what a provider says of itself. A 5xx that ends by itself: each e-mail of a day over the
# limit would be dead.
OVERRIDES = (
    # Gmail and Google Workspace, https://support.google.com/a/answer/3726730: 550 5.4.5 Daily user
    # sending limit exceeded, 550 5.7.1 Daily SMTP relay limit exceeded for user (for customer).
    Override(
        5,
        re.compile(
            r'\bdaily (user sending|smtp relay( sending)?) (limit|quota) exceeded', re.IGNORECASE
        ),
        Outcome.DEFERRED,
    ),
    # Exchange Online, https://learn.microsoft.com/exchange, non-delivery reports in Exchange
    # Online, 550 5.1.90: the sender has reached the day's limit for recipients.
    Override(5, re.compile(r'^5\.1\.90(?=\s|$)'), Outcome.DEFERRED),
)


def classify(reply: Reply) -> Outcome:
    """Decide what a reply to MAIL, RCPT, DATA or the final dot means for the e-mail.

    The basic code decides (RFC 5321, 4.2.1), whatever the enhanced code says, but for OVERRIDES. A
    code outside 2xx to 5xx is a relay out of its mind, which is worth another attempt.
    """
    if reply.code == 421:
        return Outcome.RELEASED
    if 200 <= reply.code < 300:
        return Outcome.ACCEPTED
    for override in OVERRIDES:
        if reply.code // 100 == override.first_digit and override.words.search(reply.text):
            return override.outcome
    return Outcome.REJECTED if 500 <= reply.code < 600 else Outcome.DEFERRED


# Each further attempt after one whose outcome nobody knows may be a copy, so such an e-mail has a
# number from then on.
ATTEMPTS_AFTER_UNCERTAIN = 4

# What became of each recipient so far: outcome and the relay's reply.
Settled = dict[str, tuple[Outcome, str]]


class Delivery(NamedTuple):
    """How one attempt ended; what an attempt's row records.

    recipients maps each address to (outcome, reply) when there is more than one or an earlier
    attempt settled some.
    """

    outcome: Outcome
    phase: Phase
    relay: str | None = None
    reply: Reply | None = None
    error: str | None = None
    recipients: Settled | None = None
    retry_in_s: float | None = None  # RELEASED only: when trying again makes sense
    throttled: bool = False  # RELEASED only: the relay takes no more now, whatever the e-mail
    is_over: bool = False  # RELEASED only: a switch withholds it, see mail.safety


MOST_TIMES = 10_000
LAST_ATTEMPT_AT = 0.9  # of what is left of the life, when the backoff is longer than that


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and when an e-mail is tried again.

    Source: RFC 5321 section 4.5.4.1 (retry strategy).

    Attributes:
        max_attempts: Of rows that have no number of their own; None: as many as fit into the
            e-mail's life.
        life_s: The life of an e-mail that does not say when it expires; only its number of attempts
            follows from it.
    """

    base_delay_s: float
    max_delay_s: float
    hold_types: frozenset[str] = frozenset()
    max_attempts: int | None = None
    life_s: float = 86400.0

    def backoff_s(self, attempt: int, jitter: float | None = None) -> float:
        """Return the wait after a failed attempt: base * 2^(attempt-1), capped.

        It is shortened by up to a tenth.

        Args:
            attempt: 1 for the first.
            jitter: 0 to 1; random when not given. Spreads the e-mails that one outage failed
                together.
        """
        # 2**1000 is no float; the cap is reached long before.
        full_s = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(attempt - 1, 64))
        return full_s * (1 - 0.1 * (random.random() if jitter is None else jitter))

    def wait_s(self, attempt: int, life_left_s: float | None, jitter: float | None = None) -> float:
        """Return the wait after a failed attempt; the last one ends shortly before the expiry.

        Args:
            life_left_s: Seconds until it does; None when it does not.
        """
        backoff_s = self.backoff_s(attempt, jitter)
        if life_left_s is None or backoff_s < life_left_s:
            return backoff_s
        last_s = life_left_s * LAST_ATTEMPT_AT
        return last_s if last_s >= min(self.base_delay_s, backoff_s) else backoff_s

    def most_attempts(self, max_attempts: int, *, expires: bool) -> int:
        """Return how many attempts a row with this max_attempts has.

        Args:
            expires: Whether its expires_at ends it; else so many as life_s holds are made.
        """
        if max_attempts < BY_LIFE:
            return max_attempts
        if self.max_attempts is not None:
            return self.max_attempts
        return BY_LIFE if expires else min(BY_LIFE - 1, self.attempts_within(self.life_s))

    def attempts_within(self, life_s: float) -> int:
        """Return how many attempts the backoff without jitter makes in so many seconds."""
        attempts, left_s = 1, life_s
        while (wait_s := self.backoff_s(attempts, jitter=0)) < self.max_delay_s:
            if wait_s > left_s:
                return attempts
            attempts, left_s = attempts + 1, left_s - wait_s
        return attempts + int(left_s // self.max_delay_s)

    def times_s(self, max_attempts: int, life_s: float | None) -> list[float]:
        """Return when an e-mail that is deferred each time is tried, without jitter.

        Args:
            max_attempts: The row's; BY_LIFE for none of its own.
            life_s: Seconds until it expires; None when it does not.
        Returns:
            Seconds after the first attempt, in order, from 0; MOST_TIMES at most.
        """
        times = [0.0]
        most = min(MOST_TIMES, self.most_attempts(max_attempts, expires=life_s is not None))
        while len(times) < most:
            at_s = times[-1] + self.wait_s(
                len(times), None if life_s is None else life_s - times[-1], jitter=0
            )
            if life_s is not None and at_s >= life_s:
                break
            times.append(at_s)
        return times


class Decision(NamedTuple):
    """The row's next state."""

    status: Status
    retry_in_s: float | None = None  # None: no automatic attempt will follow
    counts: bool = True  # whether the attempt is one of max_attempts
    dead_reason: DeadReason | None = None
    max_attempts: int | None = None  # the row's new number; None: it stays


# Why an e-mail is dead that was given up before any relay was asked.
DEAD_REASONS = {
    Phase.CONTENT: DeadReason.RENDER,
    Phase.RENDER: DeadReason.RENDER,
    Phase.RECIPIENTS: DeadReason.SUPPRESSED,
}


def decide(
    delivery: Delivery,
    attempt: int,
    max_attempts: int,
    email_type: str | None,
    policy: Policy,
    life_left_s: float | None = None,
) -> Decision:
    """Decide what becomes of the e-mail after an attempt.

    Args:
        attempt: The number of this attempt, 1 for the first.
        max_attempts: The row's; BY_LIFE for none of its own.
        life_left_s: Seconds until the e-mail expires; None when it does not.
    """
    match delivery.outcome:
        case Outcome.ACCEPTED:
            return Decision(Status.SENT)
        case Outcome.RELEASED if delivery.is_over:
            return Decision(Status.CANCELLED, counts=False)
        case Outcome.RELEASED:
            wait_s = _released_for_s(delivery, policy, attempt)
            return Decision(Status.PENDING, retry_in_s=wait_s, counts=False)
        case Outcome.REJECTED:
            dead_reason = DEAD_REASONS.get(delivery.phase, DeadReason.REJECTED)
            return Decision(Status.FAILED, dead_reason=dead_reason)
        case Outcome.LOST:
            raise ValueError(f'{delivery.outcome} is not the outcome of an attempt that ended')
    most = policy.most_attempts(max_attempts, expires=life_left_s is not None)
    again_in_s = policy.wait_s(attempt, life_left_s) if attempt < most else None
    if delivery.outcome is Outcome.DEFERRED:
        return Decision(
            Status.FAILED, again_in_s, dead_reason=None if attempt < most else DeadReason.EXHAUSTED
        )
    if again_in_s is None or email_type in policy.hold_types:
        return Decision(Status.UNCERTAIN)
    new_most = min(attempt + ATTEMPTS_AFTER_UNCERTAIN, most) if max_attempts >= BY_LIFE else None
    return Decision(Status.UNCERTAIN, again_in_s, max_attempts=new_most)


def _released_for_s(delivery: Delivery, policy: Policy, attempt: int) -> float:
    wait_s = delivery.retry_in_s or 0.0
    if (
        delivery.reply is not None
        and delivery.phase is not Phase.CONNECT
        and not delivery.throttled
    ):
        # 421 in the middle of the dialogue may be this e-mail's doing, and it costs all others a
        # cool-down.
        return max(wait_s, policy.backoff_s(attempt))
    return wait_s
