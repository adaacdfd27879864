"""The outbox as an application uses it: e-mails are queued in the caller's own transaction."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Unpack

import asyncpg

from mail_outbox import wake
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.insertion import QUEUE
from mail_outbox.senders import UNLISTED, WantedSender, refuse_unlisted, wanted_json
from mail_outbox.validation import EmailValues, checked_row

YIELD_EVERY_EMAILS = 100
PART_BYTES = 8 * 1024 * 1024  # of text: what is sent to the server at once, and kept for it
PART_ROWS = 5000
ANALYZE_ROWS = 1000  # fewer change no plan

Rows = Sequence[tuple[Any, ...]]

QUEUE_SQL = QUEUE.numbered()
UNLISTED_SQL = UNLISTED.numbered()


async def queue_email(
    conn: asyncpg.Connection, *, notify: bool = False, **email: Unpack[EmailValues]
) -> int:
    """Insert one e-mail in the transaction the caller has open; it exists when the caller commits.

    After the commit, `await redis.enqueue_job('send_email', id)` has it sent at once; without that
    the next sweep does.

    Args:
        conn: The caller's own connection; nothing is committed here.
        notify: Wake the workers through PostgreSQL when the caller commits, for producers without
            Redis.
        email: recipient and the rest of the e-mail, see EmailValues.
    Returns:
        The e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message names it. Nothing was inserted.
        asyncpg.PostgresError: the insert failed.
    """
    row = await checked_row(email)
    if row['senders']:
        await _check_senders(conn, row['senders'])
    try:
        email_id: int = await conn.fetchval(QUEUE_SQL, *QUEUE.in_order(row))
    except asyncpg.DataError as error:
        # template_id, user_id or organization_id is not of its column's type.
        raise InvalidEmailError(str(error)) from error
    if notify:
        await wake.notify(conn)
    return email_id


async def queue_emails(
    conn: asyncpg.Connection, emails: Iterable[Mapping[str, Any]], *, notify: bool = True
) -> list[int]:
    """Insert many e-mails in the transaction the caller has open, with one wake-up for all of them.

    Args:
        conn: The caller's own connection; without a transaction open, all are committed together.
        emails: See EmailValues. An iterator is read part by part, so that many large ones are
            never in memory together.
        notify: Wake the workers through PostgreSQL when the caller commits. One arq job an e-mail
            is for single mails.
    Returns:
        Their ids, in the same order. An idempotency key that is known, or comes twice, gives the
        first e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message names the e-mail's place, from 0,
            and the value. Nothing was inserted.
        asyncpg.PostgresError: the insert failed.
    """
    try:
        ids = await insert_in_parts(conn, QUEUE_SQL, _all_checked(conn, emails))
    except asyncpg.DataError as error:
        raise InvalidEmailError(str(error)) from error
    if not ids:
        return []
    if notify:
        await wake.notify(conn)
    return ids


async def _check_senders(conn: asyncpg.Connection, senders: Collection[WantedSender]) -> None:
    rows = await conn.fetch(UNLISTED_SQL, wanted_json(senders))
    refuse_unlisted(senders, [tuple(row) for row in rows])


async def _all_checked(
    conn: asyncpg.Connection, emails: Iterable[Mapping[str, Any]]
) -> AsyncIterator[tuple[Any, ...]]:
    allowed: set[WantedSender] = set()  # each is asked for once
    for place, email in enumerate(emails):
        if place % YIELD_EVERY_EMAILS == YIELD_EVERY_EMAILS - 1:
            await asyncio.sleep(0)  # the caller's loop has other things to do
        try:
            row = await checked_row(email)
            if senders := [sender for sender in row['senders'] if sender not in allowed]:
                await _check_senders(conn, senders)
                allowed.update(senders)
            yield QUEUE.in_order(row)
        except (InvalidEmailError, TypeError) as error:
            raise InvalidEmailError(f'e-mail {place}: {error}') from error


async def insert_in_parts(
    conn: asyncpg.Connection, sql: str, rows: AsyncIterator[tuple[Any, ...]]
) -> list[Any]:
    """Run an INSERT ... RETURNING id for each row, in parts that are all committed together.

    Args:
        rows: May raise: then nothing is inserted.
    Returns:
        The ids, in the order of the rows.
    Raises:
        asyncpg.PostgresError: the insert failed.
    """
    ids: list[Any] = []
    part: list[tuple[Any, ...]] = []
    size_bytes = 0
    async with AsyncExitStack() as stack:
        async for row in rows:
            part.append(row)
            size_bytes += sum(len(value) for value in row if isinstance(value, str))
            if size_bytes >= PART_BYTES or len(part) >= PART_ROWS:
                if not ids:  # one part alone is a transaction, or none, as the caller has it
                    await stack.enter_async_context(conn.transaction())
                ids += await _insert(conn, sql, part)
                part, size_bytes = [], 0
        if part:
            ids += await _insert(conn, sql, part)
        if len(ids) >= ANALYZE_ROWS:
            await _refresh_statistics(conn, len(ids))
    return ids


async def _insert(conn: asyncpg.Connection, sql: str, rows: Rows) -> list[Any]:
    return [row['id'] for row in await conn.fetchmany(sql, rows)]


# Only the table's owner may, or since PostgreSQL 17 a role with the privilege MAINTAIN; the server
# warns any other.
STALE_SQL = """
SELECT c.reltuples < 2 * $1::float8
    AND CASE WHEN current_setting('server_version_num')::int >= 170000
    THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE pg_has_role(c.relowner, 'USAGE') END
FROM pg_class AS c WHERE c.oid = to_regclass('outbound_emails') AND c.relkind = 'r'
"""
# It never waits for a lock, but keeps one until the caller commits, which only DDL and VACUUM have
# to wait for.
ANALYZE_SQL = 'ANALYZE (SKIP_LOCKED) outbound_emails'


async def _refresh_statistics(conn: asyncpg.Connection, inserted: int) -> None:
    """Analyse a table that has grown by half or more.

    Where this role must not, autovacuum does so a minute later.
    The worker's statements do without; reports and what an application asks itself are planned by
    them.
    """
    if not await conn.fetchval(STALE_SQL, inserted):
        return
    try:
        # In a savepoint: the caller's transaction goes on when this fails, for example at its
        # session's time limit.
        async with conn.transaction():
            await conn.execute(ANALYZE_SQL)
    except (asyncpg.PostgresError, TimeoutError):
        return
