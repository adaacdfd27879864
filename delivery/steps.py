"""The steps that an e-mail goes through, as jobs/send_email.py calls them, in their order.

The spine needs to know what a step takes and returns, not how it is done. delivery/assemble.py
names who does each; a new step is a field here, a line there, and a call in the spine.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from db.claimed import Claim
from db.results import Result
from delivery.activity import Activity
from delivery.email_jobs import JobResult
from mail.outcome import Delivery, Outcome, Policy, Settled
from mail.progress import Progress
from mail.route_table import Traits
from mail_outbox.envelope import Content, Email
from mail_outbox.rendered import Rendered

SendClaimed = Callable[[Claim], Coroutine[Any, Any, JobResult]]


class SuppressedError(Exception):
    """Everybody who is still to get the e-mail is on the list of those who get no mail."""

    def __init__(self, reasons: str, settled: Settled) -> None:
        super().__init__(reasons)
        self.settled = settled
        # Accepted by an earlier attempt, for the others.
        accepted = any(outcome is Outcome.ACCEPTED for outcome, _ in settled.values())
        self.outcome = Outcome.ACCEPTED if accepted else Outcome.REJECTED


class HeldClaims(Protocol):
    """What is known of the claims that this worker holds, see delivery.leases."""

    def check(self, claim: Claim) -> None:
        """Raise LeaseLost when somebody else may send the e-mail by now."""

    def drop(self, claim: Claim) -> None:
        """Forget a claim: it is renewed no more."""


@dataclass(frozen=True, slots=True)
class MessageSteps:
    """What makes a message of a claimed e-mail, and hands it over.

    Attributes:
        turn: Waits until it is the e-mail's turn; while an urgent one is in it, others wait.
        hold_bytes: Waits until there is room for the content that is to be fetched, and holds it.
        fetch: The e-mail with its large columns, and what its row only refers to.
        check_senders: Refuses senders that nobody has allowed.
        render: The message.
        read_traits: Tells what its route depends on, where there are routes. All up to here raise
            InvalidEmailError for what can never be sent, and ContentUnavailableError when a server
            or a renderer does not answer.
        put_own: Puts on the message what names the e-mail: a link to unsubscribe, and the envelope
            sender that reports come back to. What goes by the sender has looked at it before.
        leave_out_suppressed: Takes those who get no mail, or none of this type, out of the
            envelope, and settles them.
            Raises SuppressedError when nobody is left.
        deliver: Asks the safety switches, signs the message where there is a key, chooses the relay
            and hands it over; never raises for what a relay does.
    """

    turn: Callable[[Claim], AbstractAsyncContextManager[None]]
    hold_bytes: Callable[[Claim], AbstractAsyncContextManager[None]]
    fetch: Callable[[Claim], Awaitable[tuple[Email, Content]]]
    check_senders: Callable[[Email], Awaitable[None]]
    render: Callable[[Claim, Email, Content], Awaitable[Rendered]]
    read_traits: Callable[[Claim, Email, Rendered], Traits]
    put_own: Callable[[Email, Rendered], Rendered]
    leave_out_suppressed: Callable[
        [Rendered, Settled, str | None], Awaitable[tuple[Rendered, Settled]]
    ]
    deliver: Callable[[Rendered, Settled, Progress], Awaitable[Delivery]]


@dataclass(frozen=True, slots=True)
class Steps(MessageSteps):
    """What is done for one e-mail.

    Attributes:
        claim: Claims an e-mail for a job and goes on with the claim, or says why there is none.
            Raises arq's Retry when PostgreSQL does not answer, or the worker stops.
        policy: By which it is decided what becomes of the e-mail.
        record: Writes the result down. Raises LeaseLost when the claim is gone.
        keep_recipients: Records who has the e-mail before the others get it.
        log_attempt: Counts the outcome and writes the e-mail's line.
        send_later: Has a job wake a worker when the e-mail is due again.
    """

    activity: Activity
    held: HeldClaims
    claim: Callable[[int, SendClaimed], Awaitable[JobResult]]
    policy: Policy
    record: Callable[[Result, Progress], Awaitable[None]]
    keep_recipients: Callable[[Claim, Settled], Awaitable[None]]
    log_attempt: Callable[[Result], None]
    send_later: Callable[[int, float, str], Awaitable[None]]
