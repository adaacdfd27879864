"""Switches that keep mail from leaving, or from ending: DRY_RUN and its like.

They stand between the recipients and the relay: who is suppressed is left out before, what is
signed is what the other recipients get.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mail.outcome import Delivery, Outcome, Phase, Reply, Settled, classify
from mail.settled import open_recipients
from mail_outbox.headers import header
from mail_outbox.rendered import NOBODY, Rendered

DRY_RUN, SOFT_BOUNCE = 'DRY_RUN', 'SOFT_BOUNCE'
OVERRIDE, ALLOWED = 'OVERRIDE_RECIPIENTS', 'ALLOWED_RECIPIENT_DOMAINS'
NOT_HANDED_OVER = f'dry run ({DRY_RUN}): the message was made and handed to no relay'
NOT_ALLOWED = f'not sent: {ALLOWED} does not have its domain'
ORIGINAL_RECIPIENTS = 'X-Original-Recipients'


class WithheldError(Exception):
    """A switch keeps the e-mail from everybody who was still to get it.

    Attributes:
        settled: What is known of its recipients.
    """

    def __init__(self, reason: str, settled: Settled) -> None:
        super().__init__(reason)
        self.settled = settled


@dataclass(frozen=True, slots=True)
class Safety:
    """The switches of an installation.

    Attributes:
        allowed_domains: In lower case, ASCII; empty: all.
    """

    dry_run: bool = False
    override_recipients: Sequence[str] = ()
    allowed_domains: frozenset[str] = frozenset()
    soft_bounce: bool = False

    @property
    def names(self) -> list[str]:
        """Their variables' names, of those that are on."""
        on = {
            DRY_RUN: self.dry_run,
            OVERRIDE: self.override_recipients,
            ALLOWED: self.allowed_domains,
            SOFT_BOUNCE: self.soft_bounce,
        }
        return [name for name, is_on in on.items() if is_on]

    def narrow(self, rendered: Rendered, settled: Settled) -> tuple[Rendered, Settled]:
        """Return a message to those who may get it.

        Raises:
            WithheldError: nobody may.
        """
        if self.override_recipients:
            rendered = redirected(rendered, tuple(self.override_recipients))
        elif self.allowed_domains:
            rendered, settled = self._leave_out(rendered, settled)
        if self.dry_run:
            raise WithheldError(NOT_HANDED_OVER, settled)
        return rendered, settled

    def _leave_out(self, rendered: Rendered, settled: Settled) -> tuple[Rendered, Settled]:
        recipients = rendered.envelope.recipients
        waiting = open_recipients(recipients, settled)
        left_out = [to for to in waiting if not self._is_allowed(to)]
        if not left_out:
            return rendered, settled
        settled = settled | dict.fromkeys(left_out, (Outcome.REJECTED, NOT_ALLOWED))
        if len(left_out) == len(waiting):
            raise WithheldError(NOT_ALLOWED, settled)
        others = tuple(to for to in recipients if to not in left_out)
        return rendered._replace(envelope=rendered.envelope._replace(recipients=others)), settled

    def _is_allowed(self, address: str) -> bool:
        return address.rpartition('@')[2].lower() in self.allowed_domains

    def classify(self, reply: Reply) -> Outcome:
        """Decide what a reply means, see mail.outcome.classify."""
        outcome = classify(reply)
        return Outcome.DEFERRED if self.soft_bounce and outcome is Outcome.REJECTED else outcome


def redirected(rendered: Rendered, recipients: tuple[str, ...]) -> Rendered:
    """Return a message to others, with those who were to get it in a field at its top.

    Where each had a copy of his own, the first one's stands for all.
    """
    to = ', '.join(rendered.envelope.recipients)
    field = header(ORIGINAL_RECIPIENTS, to.encode('ascii', 'backslashreplace').decode())
    head = rendered.ascii_head
    return rendered._replace(
        envelope=rendered.envelope._replace(recipients=recipients),
        message=field + rendered.message,
        head_bytes=len(field) + rendered.head_bytes,
        ascii_head=None if head is None else field + head,
        own_heads=NOBODY,
    )


def withheld(error: WithheldError, phase: Phase) -> Delivery:
    """Return how an attempt ended that a switch stopped: not tried, and not to be tried again.

    Where an earlier attempt reached somebody, it was accepted.
    """
    accepted = any(outcome is Outcome.ACCEPTED for outcome, _ in error.settled.values())
    outcome = Outcome.ACCEPTED if accepted else Outcome.RELEASED
    return Delivery(
        outcome, phase, error=str(error), recipients=error.settled or None, is_over=not accepted
    )
