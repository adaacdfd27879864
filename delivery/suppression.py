"""Who is to get no mail, taken out of an e-mail's envelope just before it is sent."""

import asyncio

from db.pools import DATABASE_DOWN
from db.troubles import words_of
from delivery.runtime import Runtime
from mail.deliver import open_recipients
from mail.outcome import Outcome, Settled
from mail_outbox.attachments import ContentUnavailableError
from mail_outbox.render import Rendered


async def leave_out_suppressed(
    runtime: Runtime, rendered: Rendered, settled: Settled
) -> tuple[Rendered, Settled]:
    """Take those who are to get no mail out of the envelope, and settle them; the others get theirs.

    Raises:
        SuppressedError: nobody is left.
        ContentUnavailableError: PostgreSQL does not answer.
    """
    recipients = rendered.envelope.recipients
    try:
        reasons = await asyncio.gather(*map(runtime.suppression, recipients))
    except DATABASE_DOWN as error:
        raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
    left_out = {
        to: f'suppressed: {reason}'
        for to, reason in zip(recipients, reasons, strict=True)
        if reason
    }
    if not left_out:
        return rendered, settled
    waiting = open_recipients(recipients, settled)
    settled = settled | {to: (Outcome.REJECTED, reason) for to, reason in left_out.items()}
    if all(to in left_out for to in waiting):
        raise SuppressedError('; '.join(left_out.values()), settled)
    others = tuple(to for to in recipients if to not in left_out)
    return rendered._replace(envelope=rendered.envelope._replace(recipients=others)), settled


class SuppressedError(Exception):
    """Everybody who is still to get the e-mail is on the list of those who get no mail."""

    def __init__(self, reasons: str, settled: Settled) -> None:
        super().__init__(reasons)
        self.settled = settled
        accepted = any(outcome is Outcome.ACCEPTED for outcome, _ in settled.values())
        self.outcome = (
            Outcome.ACCEPTED if accepted else Outcome.REJECTED
        )  # by an earlier attempt, for the others
