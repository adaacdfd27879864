"""What became of each recipient of one e-mail, and who is still to get it."""

from mail.outcome import Delivery, Outcome, Settled

FINAL = frozenset({Outcome.ACCEPTED, Outcome.REJECTED})


def open_recipients(recipients: tuple[str, ...], settled: Settled) -> tuple[str, ...]:
    """Return who is still to get the e-mail.

    When an operator has everything settled tried again: those who were refused; and everybody when
    nobody was.
    """
    if not settled:
        return recipients
    for given_up in (FINAL, {Outcome.ACCEPTED}):
        left = tuple(r for r in recipients if settled.get(r, (None,))[0] not in given_up)
        if left:
            return left
    return recipients


# What of one e-mail is still open decides; then what was accepted.
DECIDES = (
    Outcome.UNCERTAIN, Outcome.DEFERRED, Outcome.RELEASED, Outcome.ACCEPTED, Outcome.REJECTED,
)  # fmt: skip


def joined(first: Delivery, second: Delivery) -> Delivery:
    """Join the outcomes for two groups of recipients; the second knows what the first came to."""
    decides = min(first, second, key=lambda delivery: DECIDES.index(delivery.outcome))
    errors = dict.fromkeys(filter(None, (first.error, second.error)))
    return decides._replace(
        error='; '.join(errors) or None, recipients=second.recipients or first.recipients
    )
