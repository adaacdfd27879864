"""Whether an e-mail may be from whom it says: rows that plain SQL wrote were never asked."""

import asyncio
from collections.abc import Sequence

import asyncpg

from db.errors import DATABASE_DOWN, words_of
from db.senders import unlisted_senders
from delivery.tunables import Tunables
from engine.batches import Batcher
from mail_outbox.envelope import NO_EXTRAS, ContentUnavailableError, Email
from mail_outbox.raw_message import own_senders
from mail_outbox.senders import WantedSender, refuse_unlisted

READ_IN_THREAD_BYTES = 16 * 1024  # a header of more would hold up every other e-mail


class AllowedSenders:
    """The table of allowed senders, asked for all concurrent e-mails in one statement."""

    def __init__(self, pool: asyncpg.Pool, tunables: Tunables) -> None:
        self._pool = pool
        self._tunables = tunables
        self._unlisted = Batcher(self._find_unlisted)

    async def check_senders(self, email: Email) -> None:
        """Refuse senders that nobody has allowed; the installation's own is.

        Raises:
            InvalidEmailError: names the field, and the remedy.
            ContentUnavailableError: PostgreSQL does not answer.
        """
        extras = email.extras
        if extras is NO_EXTRAS and email.raw_message is None:  # nearly always
            return
        if len(email.raw_message or b'') > READ_IN_THREAD_BYTES:
            senders = await asyncio.to_thread(lambda: [*own_senders(email)])
        else:
            senders = [*own_senders(email)]
        own = self._tunables.sender.address.lower()
        wanted = tuple(
            WantedSender(field, address, extras.organization_id)
            for field, address in senders
            if address.lower() != own
        )
        if not wanted:
            return
        try:
            unlisted = await self._unlisted(wanted)
        except DATABASE_DOWN as error:
            raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
        refuse_unlisted(wanted, unlisted)

    async def _find_unlisted(self, asked: Sequence[tuple[WantedSender, ...]]) -> list[str | None]:
        unlisted = await unlisted_senders(self._pool, {one for wanted in asked for one in wanted})
        return [unlisted] * len(asked)
