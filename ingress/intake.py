"""Messages into the outbox: those that come together are one transaction, with one NOTIFY.

What goes wrong with one concerns none of the others: those that were to be stored with it are
stored one by one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from db.errors import DATABASE_DOWN
from db.senders import unlisted_senders
from db.submissions import store_messages
from engine.batches import Batcher
from mail_outbox.envelope import IdempotencyConflictError, InvalidEmailError
from mail_outbox.queueing import refuse_conflict
from mail_outbox.quota import quota_refusal
from mail_outbox.senders import WantedSender, refuse_unlisted
from reporting.problems import ProblemError
from reporting.servers import Servers

TOGETHER = 100  # messages in one transaction
GROUPS_AT_ONCE = 2  # one is collected while the other is committed
SMALL_MESSAGE_BYTES = 64 * 1024  # one that large shares a transaction with others

MessageRow = Mapping[str, Any]
Stored = int | Exception  # its id, or why there is none


class UnlistedSenderError(InvalidEmailError):
    """Nobody has allowed who the message is from."""


class MailIntake:
    """Stores messages."""

    def __init__(self, servers: Servers, own_address: str) -> None:
        """Prepare.

        Args:
            own_address: The installation's sender, which every message may be from.
        """
        self._servers = servers
        self._own_address = own_address.lower()
        self._small = Batcher(self._store, max_items=TOGETHER, parallel=GROUPS_AT_ONCE)

    async def queue(self, row: MessageRow) -> int:
        """Store a message, and wake the workers.

        Args:
            row: Of checked_row.
        Returns:
            Its id, after the commit.
        Raises:
            UnlistedSenderError, InvalidEmailError, IdempotencyConflictError: it cannot be stored.
            QuotaExceededError: not today.
            ProblemError: PostgreSQL does not answer; it may have stored the message.
        """
        if len(row['raw_message']) <= SMALL_MESSAGE_BYTES:
            stored = await self._small(row)
        else:
            (stored,) = await self._store([row])
        if isinstance(stored, Exception):
            raise stored
        return stored

    async def _store(self, rows: Sequence[MessageRow]) -> list[Stored]:
        try:
            return await self._servers.ask_postgres(lambda pool: self._store_listed(pool, rows))
        except ProblemError as error:
            return [error] * len(rows)

    async def _store_listed(self, pool: asyncpg.Pool, rows: Sequence[MessageRow]) -> list[Stored]:
        """Store those whose senders are allowed."""
        wanted = [self._wanted(row) for row in rows]
        asked = {sender for senders in wanted for sender in senders}
        unlisted = await unlisted_senders(pool, asked) if asked else None
        stored: list[Stored] = [0] * len(rows)
        listed = []
        for place, senders in enumerate(wanted):
            try:
                refuse_unlisted(senders, unlisted)
            except InvalidEmailError as error:
                stored[place] = UnlistedSenderError(str(error))
            else:
                listed.append(place)
        ids = await _store_rows(pool, [rows[place] for place in listed])
        for place, outcome in zip(listed, ids, strict=True):
            stored[place] = outcome
        return stored

    def _wanted(self, row: MessageRow) -> list[WantedSender]:
        return [s for s in row['senders'] if s.address.lower() != self._own_address]


async def _store_rows(pool: asyncpg.Pool, rows: Sequence[MessageRow]) -> list[Stored]:
    """Store together what can be; alone what cannot."""
    if not rows:
        return []
    try:
        known = await store_messages(pool, rows)
    except DATABASE_DOWN:
        raise
    except asyncpg.PostgresError as error:
        if len(rows) == 1:
            return [_refusal_of_row(error)]
    else:
        return [_id_or_conflict(row, *first) for row, first in zip(rows, known, strict=True)]
    return [(await _store_rows(pool, [row]))[0] for row in rows]


def _id_or_conflict(row: MessageRow, email_id: int, digest: bytes | None) -> Stored:
    try:
        refuse_conflict(row, email_id, digest)
    except IdempotencyConflictError as error:
        return error
    return email_id


def _refusal_of_row(error: asyncpg.PostgresError) -> Exception:
    """Return why PostgreSQL does not take a row: a value is not of its column's type, or worse."""
    if (quota := quota_refusal(error)) is not None:
        return quota
    return InvalidEmailError(f'not stored: {" ".join(str(error).split())[:300]}')
