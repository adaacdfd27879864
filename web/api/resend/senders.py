"""Whom an e-mail may be from, remembered for seconds: no request costs a statement for it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from db.senders import unlisted_senders
from engine.batches import Batcher
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.senders import WantedSender, refuse_unlisted
from reporting.servers import Servers
from web.api.resend.model import refusal_of_email
from web.api.resend.refusals import INVALID, refused

# One that is taken off the list is refused after so long; the worker, which asks again, refuses
# what was queued meanwhile.
FRESH_S = 2.0
MOST_REMEMBERED = 10_000


class KnownSenders:
    """The senders that were allowed a moment ago."""

    def __init__(self, servers: Servers, own_address: str) -> None:
        """Prepare.

        Args:
            own_address: The installation's, which everybody may use.
        """
        self._servers = servers
        self._own_address = own_address.lower()
        self._allowed_at: dict[WantedSender, float] = {}
        self._find_unlisted = Batcher(self._ask)

    async def refuse_others(self, row: Mapping[str, Any]) -> None:
        """Refuse an e-mail from somebody who is not allowed.

        Args:
            row: Of checked_row.
        Raises:
            RefusalError: 403; ProblemError: PostgreSQL does not answer.
        """
        now = time.monotonic()
        asked = [
            sender
            for sender in row['senders']
            if now - self._allowed_at.get(sender, -FRESH_S) >= FRESH_S
            and sender.address.lower() != self._own_address
        ]
        if not asked:
            return
        unlisted = await self._servers.in_time(self._find_unlisted(asked))
        try:
            refuse_unlisted(asked, unlisted)
        except InvalidEmailError as error:
            detail = refusal_of_email(error).refusal.detail
            raise refused(INVALID, detail, '', HTTPStatus.FORBIDDEN) from error
        if len(self._allowed_at) + len(asked) > MOST_REMEMBERED:
            self._allowed_at.clear()
        self._allowed_at |= dict.fromkeys(asked, now)

    async def _ask(self, together: Sequence[Iterable[WantedSender]]) -> list[str | None]:
        wanted = {sender for senders in together for sender in senders}
        unlisted = await self._servers.ask_postgres(partial(unlisted_senders, wanted=wanted))
        return [unlisted] * len(together)
