"""Who is to get no mail, taken out of an e-mail's envelope just before it is sent."""

import asyncio
from functools import partial

import asyncpg

from db.errors import DATABASE_DOWN, words_of
from db.suppressions import suppressed_each
from delivery.steps import SuppressedError
from engine.batches import Batcher
from mail.outcome import Outcome, Settled
from mail.settled import open_recipients
from mail_outbox.envelope import ContentUnavailableError
from mail_outbox.rendered import Rendered
from mail_outbox.suppression import Asked


class SuppressionList:
    """The list of those who get no mail, asked for all concurrent e-mails in one statement."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._reason: Batcher[Asked, str | None] = Batcher(partial(suppressed_each, pool))

    async def leave_out(
        self, rendered: Rendered, settled: Settled, email_type: str | None
    ) -> tuple[Rendered, Settled]:
        """Take those who are to get no mail, or none of this type, out of the envelope.

        They are settled.

        Raises:
            SuppressedError: nobody is left.
            ContentUnavailableError: PostgreSQL does not answer.
        """
        recipients = rendered.envelope.recipients
        try:
            reasons = await asyncio.gather(*(self._reason((to, email_type)) for to in recipients))
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
