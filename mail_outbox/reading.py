"""What became of an e-mail: its state, and every attempt to deliver it."""

import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, overload

from mail_outbox.adapters import driver_of
from mail_outbox.connections import AnySyncConnection, AsyncConnection
from mail_outbox.statement import Statement
from mail_outbox.states import DeadReason, Status, Trait
from mail_outbox.steps import Ask, Steps, run_steps, run_steps_async


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailStatus:
    """What has become of one e-mail so far; times are aware."""

    id: int
    status: Status
    dead_reason: DeadReason | None  # why no further attempt follows, of one that failed
    attempts: int  # that count
    next_retry_at: datetime | None  # the next attempt is not before; None: none follows by itself
    expires_at: datetime | None
    sent_at: datetime | None
    message_id: str | None  # as it stands in the message, once an attempt was made
    relay: str | None  # the last one that answered
    smtp_code: int | None
    smtp_response: str | None
    last_error: str | None
    feedback_at: datetime | None  # when it bounced, or its recipient complained
    feedback: str | None  # why, as the report says
    # address -> (outcome, the relay's reply), where recipients had outcomes of their own
    recipient_outcomes: Mapping[str, tuple[str, str]]

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return Trait.OVER in self.status.traits or (
            self.next_retry_at is None and self.status in (Status.FAILED, Status.UNCERTAIN)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to deliver an e-mail."""

    attempt: int
    started_at: datetime  # aware
    worker: str
    outcome: Literal['accepted', 'deferred', 'rejected', 'uncertain', 'released', 'lost']
    phase: str  # how far it came, such as 'rcpt' or 'replied'
    relay: str | None
    smtp_code: int | None
    enhanced_code: str | None  # RFC 3463, such as 5.1.1
    reply: str | None
    error: str | None
    duration_ms: int | None


STATES = {state.value: state for state in Status}
# As text, which every driver reads alike.
STATUS = Statement("""
SELECT CAST(json_build_object(
    'id', id, 'status', status, 'dead_reason', dead_reason, 'attempts', COALESCE(attempts, 0),
    'next_retry_at', CAST(next_retry_at AS timestamptz),
    'expires_at', CAST(expires_at AS timestamptz), 'sent_at', CAST(sent_at AS timestamptz),
    'message_id', message_id, 'relay', relay, 'smtp_code', smtp_code,
    'smtp_response', smtp_response, 'last_error', last_error,
    'feedback_at', CAST(feedback_at AS timestamptz), 'feedback', feedback,
    'recipient_outcomes', recipient_outcomes) AS text)
FROM mail_outbox WHERE id = CAST({email_id} AS bigint)
""")
STATUS_SQL = STATUS.numbered
ATTEMPTS = Statement("""
SELECT CAST(COALESCE(json_agg(json_build_object(
    'attempt', attempt, 'started_at', started_at, 'worker', worker, 'outcome', outcome,
    'phase', phase, 'relay', relay, 'smtp_code', smtp_code, 'enhanced_code', enhanced_code,
    'reply', reply, 'error', error, 'duration_ms', duration_ms) ORDER BY started_at), '[]') AS text)
FROM email_attempts WHERE email_id = CAST({email_id} AS bigint)
""")
ATTEMPTS_SQL = ATTEMPTS.numbered


def _status(email_id: int) -> Steps[EmailStatus | None]:
    found = yield Ask(STATUS, [{'email_id': email_id}])
    if not found:
        return None
    values = json.loads(found[0][0])
    for name in ('next_retry_at', 'expires_at', 'sent_at', 'feedback_at'):
        values[name] = _time(values[name])
    values['status'] = STATES[values['status']]
    values['dead_reason'] = values['dead_reason'] and DeadReason(values['dead_reason'])
    outcomes = values['recipient_outcomes'] or {}
    values['recipient_outcomes'] = {to: tuple(outcome) for to, outcome in outcomes.items()}
    return EmailStatus(**values)


def _attempts(email_id: int) -> Steps[list[Attempt]]:
    found = yield Ask(ATTEMPTS, [{'email_id': email_id}])
    return [
        Attempt(**values | {'started_at': datetime.fromisoformat(values['started_at'])})
        for values in json.loads(found[0][0])
    ]


def _time(text: str | None) -> datetime | None:
    """Read a time of PostgreSQL's; one that is no date of Python's, such as infinity, is none."""
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None


@overload
def status(conn: AsyncConnection, email_id: int, /) -> Coroutine[Any, Any, EmailStatus | None]: ...
@overload
def status(conn: AnySyncConnection, email_id: int, /) -> EmailStatus | None: ...


def status(conn: Any, email_id: int, /) -> Any:
    """Return what has become of an e-mail; None when there is no such row (any more).

    Args:
        conn: Any that queue_email takes; with one whose statements are awaited, this is as well.
        email_id: What queue_email returned.
    Raises:
        UnsupportedConnectionError: conn is none of these.
    """
    return _run(conn, _status(email_id))


@overload
def attempts(conn: AsyncConnection, email_id: int, /) -> Coroutine[Any, Any, list[Attempt]]: ...
@overload
def attempts(conn: AnySyncConnection, email_id: int, /) -> list[Attempt]: ...


def attempts(conn: Any, email_id: int, /) -> Any:
    """Return every attempt to deliver an e-mail, the first first; see status."""
    return _run(conn, _attempts(email_id))


def _run(conn: Any, steps: Steps[Any]) -> Any:
    driver = driver_of(conn)
    return run_steps_async(driver, steps) if driver.is_async else run_steps(driver, steps)
