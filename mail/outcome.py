"""From a relay's reply to what happens next: outcomes, the states that follow, and the backoff between attempts."""

import functools
import random
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

ENHANCED_CODE = re.compile(r'^([245]\.\d{1,3}\.\d{1,3})(?=\s|$)')


class Outcome(StrEnum):
    """What an attempt ended in."""

    ACCEPTED = 'accepted'  # the relay took responsibility
    DEFERRED = 'deferred'  # not now: a 4xx reply, no connection, a timeout before the final dot
    REJECTED = 'rejected'  # never: a 5xx reply, or an e-mail that cannot be rendered
    UNCERTAIN = 'uncertain'  # the final dot was sent and no reply came
    RELEASED = 'released'  # nothing was tried that counts
    LOST = 'lost'  # the worker died, or lost its lease; written by the rescue


class Status(StrEnum):
    """The states of an outbox row; the CHECK constraint in db/migrations lists the same."""

    PENDING = 'pending'
    SENDING = 'sending'
    SENT = 'sent'
    FAILED = 'failed'
    UNCERTAIN = 'uncertain'
    EXPIRED = 'expired'
    CANCELLED = 'cancelled'
    HELD = 'held'  # waits for an operator, who releases or cancels it
    EXTERNAL = 'external'  # of an adopted table that is shared: the system that was there before sends it


class Phase(StrEnum):
    """How far an attempt has come, in order; BODY_SENT begins when the final dot may have reached the relay."""

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


def classify(reply: Reply) -> Outcome:
    """Decide what a reply to MAIL, RCPT, DATA or the final dot means for the e-mail.

    A permanent enhanced code wins over a transient basic one; a code outside 2xx to 5xx is a relay out of its mind,
    which is worth another attempt.
    """
    if reply.code == 421:
        return Outcome.RELEASED
    if 200 <= reply.code < 300:
        return Outcome.ACCEPTED
    if 500 <= reply.code < 600 or (reply.code >= 400 and (reply.enhanced_code or '').startswith('5.')):
        return Outcome.REJECTED
    return Outcome.DEFERRED


# What became of each recipient so far: outcome and the relay's reply.
Settled = dict[str, tuple[Outcome, str]]


class Delivery(NamedTuple):
    """How one attempt ended; what an attempt's row records.

    recipients maps each address to (outcome, reply) when there is more than one or an earlier attempt settled some.
    """

    outcome: Outcome
    phase: Phase
    relay: str | None = None
    reply: Reply | None = None
    error: str | None = None
    recipients: Settled | None = None
    retry_in_s: float | None = None  # RELEASED only: when trying again makes sense
    throttled: bool = False  # RELEASED only: the relay takes no more now, whatever the e-mail


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and when an e-mail is tried again.

    Source: RFC 5321 section 4.5.4.1 (retry strategy).
    """

    base_delay_s: float
    max_delay_s: float
    hold_types: frozenset[str] = frozenset()

    def backoff_s(self, attempt: int, jitter: float | None = None) -> float:
        """Return the wait after a failed attempt: base * 2^(attempt-1), capped, shortened by up to a tenth.

        Args:
            attempt: 1 for the first.
            jitter: 0 to 1; random when not given. Spreads the e-mails that one outage failed together.
        """
        # 2**1000 is no float; the cap is reached long before.
        full_s = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(attempt - 1, 64))
        return full_s * (1 - 0.1 * (random.random() if jitter is None else jitter))


class Decision(NamedTuple):
    """The row's next state."""

    status: Status
    retry_in_s: float | None = None  # None: no automatic attempt will follow
    counts: bool = True  # whether the attempt is one of max_attempts
    dead_reason: str | None = None


# Why an e-mail is dead that was given up before any relay was asked.
DEAD_REASONS = {Phase.CONTENT: 'render', Phase.RENDER: 'render', Phase.RECIPIENTS: 'suppressed'}


def decide(delivery: Delivery, attempt: int, max_attempts: int, email_type: str | None, policy: Policy) -> Decision:
    """Decide what becomes of the e-mail after an attempt.

    Args:
        attempt: The number of this attempt, 1 for the first.
    """
    exhausted = attempt >= max_attempts
    match delivery.outcome:
        case Outcome.ACCEPTED:
            return Decision(Status.SENT)
        case Outcome.RELEASED:
            wait_s = delivery.retry_in_s or 0.0
            if delivery.reply is not None and delivery.phase is not Phase.CONNECT and not delivery.throttled:
                # 421 in the middle of the dialogue may be this e-mail's doing, and it costs all others a cool-down.
                wait_s = max(wait_s, policy.backoff_s(attempt))
            return Decision(Status.PENDING, retry_in_s=wait_s, counts=False)
        case Outcome.REJECTED:
            return Decision(Status.FAILED, dead_reason=DEAD_REASONS.get(delivery.phase, 'rejected'))
        case Outcome.DEFERRED if exhausted:
            return Decision(Status.FAILED, dead_reason='exhausted')
        case Outcome.DEFERRED:
            return Decision(Status.FAILED, retry_in_s=policy.backoff_s(attempt))
        case Outcome.UNCERTAIN if exhausted or email_type in policy.hold_types:
            return Decision(Status.UNCERTAIN)
        case Outcome.UNCERTAIN:
            return Decision(Status.UNCERTAIN, retry_in_s=policy.backoff_s(attempt))
        case _:
            raise ValueError(f'{delivery.outcome} is not the outcome of an attempt that ended')
