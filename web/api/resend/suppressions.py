"""Who of an e-mail's recipients gets no mail: told in the answer, so that nobody waits for it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from db.suppressions import any_suppressed, suppressed_each
from engine.batches import Batcher
from mail_outbox.suppressed import recipients_of
from mail_outbox.suppression import Asked
from reporting.servers import Servers

FRESH_S = 2.0  # so long nobody is asked for while the list is empty
READ_IN_THREAD_CHARS = 16 * 1024


class KnownSuppressions:
    """The list of those who get no mail, asked for all requests that come together."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._empty_at = -FRESH_S
        self._find = Batcher(self._ask)

    async def among(self, row: Mapping[str, Any]) -> Sequence[str]:
        """Return the recipients of an e-mail who get no mail, or none of its type.

        Args:
            row: Of checked_row.
        Raises:
            ProblemError: PostgreSQL does not answer.
        """
        if time.monotonic() - self._empty_at < FRESH_S:
            return ()
        return await self._servers.in_time(self._find(row))

    async def _ask(self, rows: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
        if not await self._servers.ask_postgres(any_suppressed):
            self._empty_at = time.monotonic()
            return [()] * len(rows)
        recipients = [await _recipients(row) for row in rows]
        asked: list[Asked] = [
            (to, row['email_type'])
            for row, addresses in zip(rows, recipients, strict=True)
            for to in addresses
        ]
        reasons = iter(await self._servers.ask_postgres(lambda pool: suppressed_each(pool, asked)))
        return [[to for to in addresses if next(reasons)] for addresses in recipients]


async def _recipients(row: Mapping[str, Any]) -> Sequence[str]:
    chars = sum(len(row[name] or '') for name in ('recipient', 'cc', 'bcc'))
    if chars > READ_IN_THREAD_CHARS:
        return await asyncio.to_thread(recipients_of, row)
    return recipients_of(row)
