"""For FastAPI: a dependency that queues in the request's transaction, and answers for refusals.

Mail = Annotated[Outbox, outbox_of(get_session, redis=lambda request: request.app.state.redis)]

@app.post('/sign-up')
async def sign_up(session: SessionDep, mail: Mail) -> None:
    session.add(user)
    await mail.queue_email(recipient=user.address, subject='Welcome', body_text='...')
    await session.commit()
"""

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Unpack, overload

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from mail_outbox.adapters import driver_of
from mail_outbox.envelope import IdempotencyConflictError, InvalidEmailError
from mail_outbox.new_email import NewEmail
from mail_outbox.outbox import SomeEmail, queue_email, queue_emails
from mail_outbox.queueing import woken
from mail_outbox.quota import QuotaExceededError
from mail_outbox.steps import run_steps, run_steps_async
from mail_outbox.suppressed import SuppressedRecipientsError
from mail_outbox.validation import EmailValues
from mail_outbox.wake import wake

if TYPE_CHECKING:
    from arq.connections import ArqRedis


class _Queued:
    """What a request has queued.

    Attributes:
        conn: The connection or session.
        email_ids: Of the e-mails.
    """

    def __init__(self, conn: Any, *, notify: bool = True) -> None:
        self.conn = conn
        self.email_ids: list[int] = []
        self._notify = notify


class Outbox(_Queued):
    """Queues on the request's connection, in whatever transaction that has open."""

    @overload
    async def queue_email(self, email: NewEmail, /) -> int: ...
    @overload
    async def queue_email(self, /, **values: Unpack[EmailValues]) -> int: ...

    async def queue_email(self, email: NewEmail | None = None, /, **values: Any) -> int:
        """Insert one e-mail; see mail_outbox.queue_email."""
        given = () if email is None else (email,)
        email_id: int = await queue_email(self.conn, *given, notify=self._notify, **values)
        self.email_ids.append(email_id)
        return email_id

    async def queue_emails(self, emails: Iterable[SomeEmail], /) -> list[int]:
        """Insert many e-mails; see mail_outbox.queue_emails."""
        ids: list[int] = await queue_emails(self.conn, emails, notify=self._notify)
        self.email_ids += ids
        return ids


class SyncOutbox(_Queued):
    """The same for a session whose statements are not awaited."""

    @overload
    def queue_email(self, email: NewEmail, /) -> int: ...
    @overload
    def queue_email(self, /, **values: Unpack[EmailValues]) -> int: ...

    def queue_email(self, email: NewEmail | None = None, /, **values: Any) -> int:
        """Insert one e-mail; see mail_outbox.queue_email."""
        given = () if email is None else (email,)
        email_id: int = queue_email(self.conn, *given, notify=self._notify, **values)
        self.email_ids.append(email_id)
        return email_id

    def queue_emails(self, emails: Iterable[SomeEmail], /) -> list[int]:
        """Insert many e-mails; see mail_outbox.queue_emails."""
        ids: list[int] = queue_emails(self.conn, emails, notify=self._notify)
        self.email_ids += ids
        return ids


def outbox_of(
    connection: Callable[..., Any], *, redis: 'Callable[[Request], ArqRedis | None] | None' = None
) -> Any:
    """Return a dependency that gives an Outbox; a SyncOutbox for a connection that is not awaited.

    The endpoint, or the connection's own dependency, commits; then the workers are woken. What the
    endpoint raises wakes nobody.

    Args:
        connection: The application's dependency that gives the connection or session; the endpoint
            that names it as well gets the same one.
        redis: Where the ArqRedis of the application is. None: PostgreSQL wakes the workers, by
            NOTIFY.
    """

    async def outbox(
        request: Request, conn: Annotated[Any, Depends(connection)]
    ) -> AsyncIterator[Outbox | SyncOutbox]:
        kind = Outbox if driver_of(conn).is_async else SyncOutbox
        found = kind(conn, notify=redis is None)
        yield found
        if redis is not None and found.email_ids:
            await _wake_after(found, redis(request))

    # Ends before the response is sent, and before the connection's own dependency does.
    return Depends(outbox, scope='function')


async def _wake_after(outbox: _Queued, redis: 'ArqRedis | None') -> None:
    """Wake the workers by a job; by NOTIFY where the commit is still to come."""
    driver = driver_of(outbox.conn)
    if not driver.in_transaction:
        await wake(outbox.email_ids, redis=redis)
    elif driver.is_async:
        await run_steps_async(driver, woken())
    else:
        await run_in_threadpool(run_steps, driver, woken())


def answer_refusals(app: FastAPI) -> None:
    """Answer 422 when an e-mail can never be sent, for example because of its address.

    The same with refuse_suppressed, when a recipient gets no mail.

    And 409 when its idempotency key belongs to another one, 429 when its organisation has a quota
    and has used it up. The body is {'detail': 'recipient: ...'}; without this it would be a 500.
    """
    for kind, status in (
        (InvalidEmailError, 422), (SuppressedRecipientsError, 422),
        (IdempotencyConflictError, 409), (QuotaExceededError, 429),
    ):  # fmt: skip
        app.add_exception_handler(kind, partial(_refused, status))


async def _refused(status: int, _: Request, error: Exception) -> JSONResponse:
    headers = {}
    if isinstance(error, QuotaExceededError):
        headers = {'Retry-After': str(error.seconds_left())}
    return JSONResponse({'detail': str(error)}, status_code=status, headers=headers)
