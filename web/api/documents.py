"""What the API answers, for /openapi.json. Names are those of the columns and of `ops --json`."""

from typing import Any

from pydantic import BaseModel, Field

from mail_outbox.reading import Attempt


class ProblemFound(BaseModel):
    """Something that is wrong, and what to do: as `ops status --json` tells it."""

    level: str = Field(description='look or act')
    kind: str | None
    service: str | None
    place: str | None
    what: str
    remedy: str


class EmailSaid(BaseModel):
    """What an e-mail is: from whom, to whom, of what kind."""

    id: int
    from_address: str | None
    recipient: str | None
    cc: str | None
    bcc: str | None
    subject: str | None
    email_type: str | None
    tags: Any
    priority: int
    message_id: str | None
    user_id: str | None
    organization_id: str | None


class EmailTimes(BaseModel):
    """When it was queued, tried and sent, and when it is tried next."""

    created_at: str | None
    next_retry_at: str | None
    last_attempt_at: str | None
    sent_at: str | None
    expires_at: str | None


class EmailOutcome(BaseModel):
    """How far it came."""

    status: str
    attempts: int
    max_attempts: int = Field(description='32767: no number of its own, expires_at ends it')
    is_final: bool = Field(description='No further attempt follows by itself.')
    relay: str | None
    smtp_code: int | None
    enhanced_code: str | None
    error: str | None
    dead_reason: str | None


class EmailRow(EmailSaid, EmailTimes, EmailOutcome):
    """One e-mail of a list, without its content."""


class EmailPage(BaseModel):
    """A page, the newest e-mail first."""

    emails: list[EmailRow]
    next_cursor: str | None = Field(description='For the next page; null: this was the last.')


class Because(BaseModel):
    """What stands in an e-mail's way."""

    what: str
    remedy: str | None


class Explanation(BaseModel):
    """What happens next, and why: as `ops explain --json` tells it."""

    next: str
    due_at: str | None
    because: list[Because]
    now: dict[str, Any] | None = Field(description='Of one that is being sent: who, how far.')


class OneEmail(BaseModel):
    """Everything about one e-mail but its content."""

    email: dict[str, Any] = Field(description="The row's columns, and the sizes of its bodies.")
    attempts: list[Attempt]
    explanation: Explanation
    problems: list[ProblemFound] = Field(description='What did not answer, and is left out.')


class EmailState(BaseModel):
    """An e-mail after a change."""

    id: int
    status: str
    attempts: int | None
    max_attempts: int | None
    next_retry_at: str | None
    sent_at: str | None
    dead_reason: str | None
    problems: list[ProblemFound] = Field(description='Such as: no worker is there to send it.')


class LeftAlone(BaseModel):
    """An e-mail that was not changed, and why."""

    id: int
    reason: str


class ManyChanged(BaseModel):
    """What was done with all that fit, or would be."""

    dry_run: bool
    selection: dict[str, Any] = Field(description='The conditions as they were understood.')
    matched: int = Field(description='How many fit. Give it as `expected` of the change itself.')
    changed: list[int] = Field(description='The ids that were changed.')
    left: int = Field(description='How many fit beyond the limit: ask again.')
    unchanged: list[LeftAlone] = Field(description='Somebody else changed these meanwhile.')
    sample: list[dict[str, Any]] = Field(description='Of a dry run: some that fit.')
    warnings: list[str]
    problems: list[ProblemFound]


class Workers(BaseModel):
    """Every worker as it registered, at most seconds ago."""

    workers: list[dict[str, Any]]
    problems: list[ProblemFound]


class QueueOfJobs(BaseModel):
    """One arq queue."""

    name: str
    ready: int
    deferred: int
    running: int
    oldest_ready_s: float | None
    served: bool = Field(description='Whether a worker polls it.')


class Queues(BaseModel):
    """The queues in Redis."""

    queues: list[dict[str, Any]]
    problems: list[ProblemFound]


class Inspected(BaseModel):
    """What `ops inspect WORD --json` says."""

    inspect: str
    workers: list[dict[str, Any]] | None
    queues: list[dict[str, Any]] | None
    problems: list[ProblemFound]
