"""An outbox in memory, for an application's tests: what was queued, rendered as it will be sent."""

import contextlib
import email
import email.message
import email.policy
import inspect
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, overload

from mail_outbox.adapters import UnsupportedConnectionError, real_driver_of
from mail_outbox.address_fields import Sender
from mail_outbox.envelope import MAX_MESSAGE_BYTES, Content, Email, Extras
from mail_outbox.insertion import ATTACH, QUEUE
from mail_outbox.queueing import NOTIFY, STALE
from mail_outbox.reading import ATTEMPTS, STATUS
from mail_outbox.render import render
from mail_outbox.rendered import Rendered
from mail_outbox.senders import UNLISTED
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Answer, AsyncDriver, SyncDriver
from mail_outbox.suppression import SUPPRESSED
from mail_outbox.template_names import TEMPLATE_IDS, TEMPLATE_NAMES

SENDER = Sender('noreply@example.com')


class TemplateNotFilledError(Exception):
    """A stored template makes this e-mail, and only a worker fills it."""


class QueuedEmail:
    """One e-mail that the application has queued.

    Attributes:
        id: What queue_email returned.
        values: As they would be stored, by the names of queue_email's arguments.
    """

    def __init__(self, email_id: int, values: Row, sender: Sender) -> None:
        self.id = email_id
        self.values = values
        self._sender = sender

    def __repr__(self) -> str:
        return f'<QueuedEmail {self.id} to {self.values["recipient"]}: {self.values["subject"]!r}>'

    @property
    def recipients(self) -> tuple[str, ...]:
        """Everybody it goes to: To, Cc and Bcc."""
        return self._rendered().envelope.recipients

    @property
    def envelope_from(self) -> str:
        """MAIL FROM: where bounces go."""
        return self._rendered().envelope.sender

    @property
    def source(self) -> bytes:
        """The whole message as a relay would get it, with CRLF; but for Date and Message-ID."""
        return self._rendered().message

    @property
    def message(self) -> email.message.EmailMessage:
        """The same, read by the standard library."""
        return _read(self.source)

    def message_for(self, address: str) -> email.message.EmailMessage:
        """Return the message that one recipient gets; it is his own with one_copy_each."""
        return _read(self._rendered().part((address,)).message)

    @property
    def text(self) -> str | None:
        """The body as plain text."""
        return self._body('plain')

    @property
    def html(self) -> str | None:
        """The body as HTML."""
        return self._body('html')

    def _body(self, subtype: str) -> str | None:
        part = self.message.get_body((subtype,))
        if part is None or part.get_content_subtype() != subtype:
            return None
        content: str = part.get_content()
        return content

    def _rendered(self) -> Rendered:
        values = self.values
        if values['template_id'] is not None:
            raise TemplateNotFilledError(
                f'template {values["template_id"]} makes this e-mail, and only a worker fills it:'
                ' look at its values, or let the fixture mail_stack send it'
            )
        content = {name: values[name] for name in Email._fields if values.get(name) is not None}
        extras = {name: values[name] for name in Extras._fields if values.get(name) is not None}
        return render(
            Email(id=self.id, **content)._replace(extras=Extras(**extras)),
            Content(attachments=values['attachments']),
            self._sender,
            MAX_MESSAGE_BYTES,
        )


def _read(source: bytes) -> email.message.EmailMessage:
    found = email.message_from_bytes(source, policy=email.policy.default)
    assert isinstance(found, email.message.EmailMessage)  # noqa: S101 - by its policy
    return found


class RecordedOutbox(Sequence[QueuedEmail]):
    """What was queued since the test began, in order.

    It takes any connection, also one that does not exist: whatever stands in for the application's
    session. What was queued stays here also when the application then rolls back.

    Attributes:
        sender: Who e-mails are from that do not say; the workers' SMTP_FROM_EMAIL.
        woken: How often PostgreSQL was to wake the workers.
        suppressed: Addresses, in lower case, that are to get no mail, each with the reason.
    """

    def __init__(self) -> None:
        self.sender = SENDER
        self.suppressed: dict[str, str] = {}
        self.woken = 0
        self._emails: list[QueuedEmail] = []
        self._last_id = 0

    @overload
    def __getitem__(self, place: int) -> QueuedEmail: ...
    @overload
    def __getitem__(self, place: slice) -> list[QueuedEmail]: ...

    def __getitem__(self, place: int | slice) -> QueuedEmail | list[QueuedEmail]:
        return self._emails[place]

    def __len__(self) -> int:
        return len(self._emails)

    def __repr__(self) -> str:
        return f'<outbox {self._emails}>'

    def to(self, address: str) -> list[QueuedEmail]:
        """Return the e-mails that go to this address."""
        return [queued for queued in self if address in queued.recipients]

    def clear(self) -> None:
        """Forget what was queued."""
        self._emails.clear()
        self.suppressed.clear()
        self.woken = 0

    def answer(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """Answer a statement as PostgreSQL would."""
        if statement is QUEUE:
            return [self._inserted(row) for row in rows]
        if statement is NOTIFY:
            self.woken += 1
        if statement is STATUS:
            return [self._status(queued) for queued in self if queued.id == rows[0]['email_id']]
        if statement is SUPPRESSED:
            return [(self._listed(json.loads(rows[0]['keys'])),)]
        if statement is TEMPLATE_IDS:  # there are all, by the id of their name
            return [(json.dumps([[name, name] for name in json.loads(rows[0]['names'])]),)]
        fixed: dict[Statement, Answer] = {
            UNLISTED: [(None,)], STALE: [(False,)], ATTEMPTS: [('[]',)], ATTACH: [], NOTIFY: [],
            TEMPLATE_NAMES: [('[]',)],
        }  # fmt: skip
        return fixed[statement]

    def _listed(self, keys: Sequence[str]) -> str:
        found = [[key, None, self.suppressed[key]] for key in keys if key in self.suppressed]
        return json.dumps(found)

    def _inserted(self, row: Row) -> tuple[int, bytes | None]:
        key = (row['organization_id'], row['idempotency_key'])
        for queued in self if row['idempotency_key'] is not None else ():
            if (queued.values['organization_id'], queued.values['idempotency_key']) == key:
                return queued.id, queued.values['content_digest']
        self._last_id += 1
        self._emails.append(QueuedEmail(self._last_id, row, self.sender))
        return self._last_id, row['content_digest']

    def _status(self, queued: QueuedEmail) -> tuple[str]:
        names = (
            'dead_reason', 'expires_at', 'sent_at', 'relay', 'smtp_code', 'smtp_response',
            'last_error', 'recipient_outcomes', 'feedback_at', 'feedback',
        )  # fmt: skip
        due_at = queued.values['send_at'] or datetime.now(UTC)
        values: dict[str, Any] = dict.fromkeys(names) | {
            'id': queued.id, 'status': 'pending', 'attempts': 0,
            'next_retry_at': due_at.isoformat(), 'message_id': queued.values['message_id'],
        }  # fmt: skip
        return (json.dumps(values),)

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Forget what was queued inside when that raises."""
        before = len(self._emails)
        try:
            yield
        except BaseException:
            del self._emails[before:]
            raise


class RecordingDriver:
    """Stands in for a connection whose statements return when they are done."""

    is_async: ClassVar[Literal[False]] = False
    errors: ClassVar[tuple[type[Exception], ...]] = ()
    in_transaction = False

    def __init__(self, outbox: RecordedOutbox) -> None:
        self._outbox = outbox

    def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        return self._outbox.answer(statement, rows)

    def atomic(self) -> contextlib.AbstractContextManager[None]:
        """See SyncDriver.atomic."""
        return self._outbox.savepoint()


class AsyncRecordingDriver:
    """Stands in for one whose statements are awaited."""

    is_async: ClassVar[Literal[True]] = True
    errors: ClassVar[tuple[type[Exception], ...]] = ()
    in_transaction = False

    def __init__(self, outbox: RecordedOutbox) -> None:
        self._outbox = outbox

    async def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        return self._outbox.answer(statement, rows)

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """See SyncDriver.atomic."""
        with self._outbox.savepoint():
            yield


def recording_driver(outbox: RecordedOutbox, conn: Any) -> SyncDriver | AsyncDriver:
    """Return what records instead of conn, awaited or not as that is."""
    return AsyncRecordingDriver(outbox) if _is_awaited(conn) else RecordingDriver(outbox)


def _is_awaited(conn: Any) -> bool:
    """Tell whether an application awaits queue_email on this connection.

    Of what is none: where it has an awaited `close`, or where nothing but a running loop is known.
    """
    with contextlib.suppress(UnsupportedConnectionError, ImportError):
        return real_driver_of(conn).is_async
    close = getattr(conn, 'close', None)
    if close is not None:
        return inspect.iscoroutinefunction(close)
    import asyncio  # noqa: PLC0415

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
