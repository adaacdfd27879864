"""The outbox as an application uses it: e-mails are queued in the caller's own transaction."""

from collections.abc import Coroutine, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Unpack, overload

from mail_outbox.adapters import driver_of
from mail_outbox.connections import AnySyncConnection, AsyncConnection
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.new_email import NewEmail, values_of
from mail_outbox.queueing import inserted, statistics_refreshed, woken
from mail_outbox.statement import Row
from mail_outbox.steps import AsyncDriver, SyncDriver, run_steps, run_steps_async
from mail_outbox.validation import EmailValues, checked_row, checked_row_sync

YIELD_EVERY_EMAILS = 100
PART_BYTES = 2 * 1024 * 1024  # of text: what is sent to the server at once, and kept for it
PART_ROWS = 5000
LARGE = ('body_text', 'body_html', 'template_data', 'calendar', 'raw_message')

SomeEmail = NewEmail | EmailValues


@overload
def queue_email(
    conn: AsyncConnection, /, *, notify: bool = False, **values: Unpack[EmailValues]
) -> Coroutine[Any, Any, int]: ...
@overload
def queue_email(
    conn: AnySyncConnection, /, *, notify: bool = False, **values: Unpack[EmailValues]
) -> int: ...
@overload
def queue_email(
    conn: AsyncConnection, email: NewEmail, /, *, notify: bool = False
) -> Coroutine[Any, Any, int]: ...
@overload
def queue_email(conn: AnySyncConnection, email: NewEmail, /, *, notify: bool = False) -> int: ...


def queue_email(
    conn: Any, email: NewEmail | None = None, /, *, notify: bool = False, **values: Any
) -> Any:
    """Insert one e-mail in the transaction the caller has open; it exists when the caller commits.

    A worker sends it after the commit, when it is woken (`notify`, or mail_outbox.wake) or with the
    next sweep.

    Args:
        conn: The caller's own connection: of asyncpg, SQLAlchemy, psycopg or Django. Nothing is
            committed here; on one in autocommit without a transaction it is a statement like any
            other. With one whose statements are awaited, this is awaited as well.
        email: The e-mail, if it is not given by keywords.
        notify: Wake the workers through PostgreSQL when the caller commits, for producers without
            Redis.
        values: recipient and the rest of the e-mail, see EmailValues.
    Returns:
        The e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message names it. Nothing was inserted.
        UnsupportedConnectionError: conn is none of these.
        SuppressedRecipientsError: with refuse_suppressed; a recipient gets no mail. Nothing was
            inserted.
        QuotaExceededError: its organisation has queued what it may queue today; the transaction is
            to be rolled back.
        Exception: the driver's, when the insert failed.
    """
    given = values if email is None else {**values_of(email), **values}
    driver = driver_of(conn)
    if driver.is_async:
        return _queue_one_async(driver, given, notify=notify)
    return _queue_one(driver, given, notify=notify)


@overload
def queue_emails(
    conn: AsyncConnection, emails: Iterable[SomeEmail], /, *, notify: bool = True
) -> Coroutine[Any, Any, list[int]]: ...
@overload
def queue_emails(
    conn: AnySyncConnection, emails: Iterable[SomeEmail], /, *, notify: bool = True
) -> list[int]: ...


def queue_emails(conn: Any, emails: Iterable[SomeEmail], /, *, notify: bool = True) -> Any:
    """Insert many e-mails in the transaction the caller has open, with one wake-up for all of them.

    Args:
        conn: See queue_email. Without a transaction open, all are committed together.
        emails: NewEmail, or mappings as EmailValues. An iterator is read part by part, so that many
            large ones are never in memory together.
        notify: Wake the workers through PostgreSQL when the caller commits. One arq job an e-mail
            is for single mails.
    Returns:
        Their ids, in the same order. An idempotency key that is known, or comes twice, gives the
        first e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message names the e-mail's place, from 0,
            and the value. Nothing was inserted.
        UnsupportedConnectionError: conn is none that queue_email takes.
        SuppressedRecipientsError: with refuse_suppressed; a recipient of one gets no mail.
        QuotaExceededError: an organisation would have more than it may queue today; the transaction
            is as it was before.
        Exception: the driver's, when the insert failed.
    """
    driver = driver_of(conn)
    if driver.is_async:
        return _queue_many_async(driver, emails, notify=notify)
    return _queue_many(driver, emails, notify=notify)


def _queue_one(driver: SyncDriver, email: Mapping[str, Any], *, notify: bool) -> int:
    row = checked_row_sync(email)
    # In several statements, of which no worker must see the first alone: in autocommit as well.
    with driver.atomic() if row['attachments'] else nullcontext():
        (email_id,) = run_steps(driver, inserted([row]))
    if notify:
        run_steps(driver, woken())
    return email_id


async def _queue_one_async(driver: AsyncDriver, email: Mapping[str, Any], *, notify: bool) -> int:
    row = await checked_row(email)
    async with driver.atomic() if row['attachments'] else nullcontext():
        (email_id,) = await run_steps_async(driver, inserted([row]))
    if notify:
        await run_steps_async(driver, woken())
    return email_id


def _queue_many(driver: SyncDriver, emails: Iterable[SomeEmail], *, notify: bool) -> list[int]:
    ids: list[int] = []
    with driver.atomic():
        part = _Part()
        for place, email in enumerate(emails):
            try:
                part.add(checked_row_sync(values_of(email)))
            except (InvalidEmailError, TypeError) as error:
                raise _misplaced(place, error) from error
            if part.is_full:
                ids += run_steps(driver, inserted(part.taken(), len(ids)))
        ids += run_steps(driver, inserted(part.taken(), len(ids)))
        run_steps(driver, statistics_refreshed(len(ids)))
        if ids and notify:
            run_steps(driver, woken())
    return ids


async def _queue_many_async(
    driver: AsyncDriver, emails: Iterable[SomeEmail], *, notify: bool
) -> list[int]:
    import asyncio  # noqa: PLC0415 - who awaits this has loaded it; others need not

    ids: list[int] = []
    async with driver.atomic():
        part = _Part()
        for place, email in enumerate(emails):
            if place % YIELD_EVERY_EMAILS == YIELD_EVERY_EMAILS - 1:
                await asyncio.sleep(0)  # the caller's loop has other things to do
            try:
                part.add(await checked_row(values_of(email)))
            except (InvalidEmailError, TypeError) as error:
                raise _misplaced(place, error) from error
            if part.is_full:
                ids += await run_steps_async(driver, inserted(part.taken(), len(ids)))
        ids += await run_steps_async(driver, inserted(part.taken(), len(ids)))
        await run_steps_async(driver, statistics_refreshed(len(ids)))
        if ids and notify:
            await run_steps_async(driver, woken())
    return ids


def _misplaced(place: int, error: Exception) -> InvalidEmailError:
    return InvalidEmailError(f'e-mail {place}: {error}')


class _Part:
    """Rows that go to the server together."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._size_bytes = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        for name in LARGE:
            if (value := row[name]) is not None:
                self._size_bytes += len(value)
        for attachment in row['attachments']:
            self._size_bytes += len(attachment.data)

    @property
    def is_full(self) -> bool:
        return self._size_bytes >= PART_BYTES or len(self._rows) >= PART_ROWS

    def taken(self) -> list[Row]:
        rows, self._rows, self._size_bytes = self._rows, [], 0
        return rows
