"""Which e-mail a report is about, and which of its recipients."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from db.feedback import StoredReport
from db.feedback_suppression import key_of_address
from mail_outbox.address_fields import EXTRA_ADDRESSES, read_address_fields
from mail_outbox.envelope import Email, Extras, InvalidEmailError
from mail_outbox.states import Status

LARGEST_FIELD_CHARS = 100_000
DATE_AFTER_MINUTES, EVENT_AFTER_MINUTES = 2, 60


class FoundEmail(NamedTuple):
    """The e-mail that a report is about.

    Attributes:
        recipients: Of its envelope; none where they cannot be read.
        message_id: None before its first attempt.
    """

    id: int
    status: str
    next_retry_at: datetime | None
    recipients: Sequence[str]
    message_id: str | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether an attempt is being made, or follows, and others may still get it."""
        if self.status == Status.FAILED:
            return self.next_retry_at is not None
        return self.status in (Status.PENDING, Status.SENDING, Status.HELD)


EMAIL_SQL = f"""
SELECT id, COALESCE(status, '') AS status, next_retry_at, message_id,
    left(recipient, {LARGEST_FIELD_CHARS}) AS recipient,
    {', '.join(f'left({name}, {LARGEST_FIELD_CHARS}) AS {name}' for name in EXTRA_ADDRESSES)}
FROM mail_outbox WHERE id = $1::bigint
"""
# No index has a Message-ID: each claim would have to write it. An attempt's time is near the Date
# of what came back, and a range of both tables' times is a range of their pages.
BY_MESSAGE_ID_SQL = """
SELECT e.id FROM email_attempts AS a JOIN mail_outbox AS e ON e.id = a.email_id
WHERE a.started_at >= $2::timestamptz - $3 * interval '1 minute'
  AND a.started_at < $2::timestamptz + interval '2 minutes'
  AND e.message_id = $1
UNION ALL
SELECT e.id FROM mail_outbox AS e
WHERE e.created_at >= $2::timestamptz - $3 * interval '5 minutes'
  AND e.created_at < $2::timestamptz + interval '10 minutes'
  AND e.message_id = $1
LIMIT 1
"""
BY_RELAY_ID_SQL = """
SELECT a.email_id AS id FROM email_attempts AS a
WHERE a.started_at >= $2::timestamptz - interval '10 minutes'
  AND a.started_at < $2::timestamptz + interval '2 minutes'
  AND a.outcome = 'accepted' AND position($1 IN a.reply) > 0
LIMIT 1
"""
SHORTEST_RELAY_ID_CHARS = 8


async def find_email(conn: Any, report: StoredReport) -> FoundEmail | None:
    """Return the e-mail that a report is about; None where it is not known."""
    email_id = report.email_id
    if email_id is None and report.sent_at is not None:
        if report.message_id is not None:
            # A DSN has the e-mail's Date; a provider only says when it happened.
            minutes = EVENT_AFTER_MINUTES if report.is_trusted else DATE_AFTER_MINUTES
            email_id = await conn.fetchval(
                BY_MESSAGE_ID_SQL, report.message_id, report.sent_at, minutes
            )
        if email_id is None and len(report.relay_id or '') >= SHORTEST_RELAY_ID_CHARS:
            email_id = await conn.fetchval(BY_RELAY_ID_SQL, report.relay_id, report.sent_at)
    if email_id is None:
        return None
    row = await conn.fetchrow(EMAIL_SQL, email_id)
    if row is None:
        return None
    recipients = await asyncio.to_thread(_recipients_of, dict(row))
    return FoundEmail(row['id'], row['status'], row['next_retry_at'], recipients, row['message_id'])


def _recipients_of(row: dict[str, Any]) -> Sequence[str]:
    extras = Extras(**{name: row[name] for name in EXTRA_ADDRESSES})
    try:
        fields = read_address_fields(Email(row['id'], row['recipient'] or '', extras=extras))
    except InvalidEmailError:
        return ()
    return fields.envelope('').recipients


def is_of_another_message(report: StoredReport, email: FoundEmail) -> bool:
    """Whether both address and Message-ID in what came back are others than the e-mail's.

    One alone may differ: servers forward, and some relays write a Message-ID of their own. Both do
    where another installation has the same BOUNCE_SECRET, and an e-mail of the same id.
    """
    if report.message_id is None or email.message_id in (None, report.message_id):
        return False
    key = key_of_address(report.recipient)
    return key is not None and all(to.lower() != key for to in email.recipients)


def recipient_of(report: StoredReport, email: FoundEmail) -> str | None:
    """Return which recipient it is about.

    The only one also where the report names another: his server may have forwarded it.
    """
    if len(email.recipients) == 1:
        return email.recipients[0]
    key = key_of_address(report.recipient)
    return next((to for to in email.recipients if key is not None and to.lower() == key), None)
