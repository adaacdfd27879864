"""The application's ORM classes, for the sync programs and the async one."""

import enum
import uuid
from datetime import datetime
from typing import Any

from old_app.configuration import HAS_ALL_COLUMNS, HAS_TIME_ZONES, MAX_ATTEMPTS, STATUS, now
from sqlalchemy import JSON, DateTime, Enum, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class EmailStatus(enum.StrEnum):
    """The states this application knows."""

    PENDING = 'pending'
    SENDING = 'sending'
    SENT = 'sent'
    FAILED = 'failed'
    CANCELLED = 'cancelled'


def status_type() -> Any:
    """Return the column's type.

    SQLAlchemy writes an enum's names unless it is told to write the values.
    """
    return {
        'ENUM': Enum(EmailStatus, name='emailstatus'),
        'enum': Enum(
            EmailStatus,
            name='emailstatus',
            values_callable=lambda kind: [state.value for state in kind],
        ),
        'varchar': String(20),
        'check': String(20),
    }[STATUS]


MOMENT = DateTime(timezone=HAS_TIME_ZONES)


class Base(DeclarativeBase):
    """SQLAlchemy's registry."""


class OutboundEmail(Base):
    """The columns that every installation has."""

    __tablename__ = 'outbound_emails'

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(500))
    body_text: Mapped[str | None]
    body_html: Mapped[str | None]
    status: Mapped[EmailStatus] = mapped_column(status_type(), default=EmailStatus.PENDING)
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=MAX_ATTEMPTS)
    next_retry_at: Mapped[datetime | None] = mapped_column(MOMENT)
    created_at: Mapped[datetime] = mapped_column(MOMENT, default=now)
    if HAS_ALL_COLUMNS:
        email_type: Mapped[str | None] = mapped_column(String(50))
        template_id: Mapped[str | None] = mapped_column(String(100))
        template_data: Mapped[dict[str, Any] | None] = mapped_column(JSON)
        smtp_response: Mapped[str | None]
        smtp_code: Mapped[int | None]
        last_attempt_at: Mapped[datetime | None] = mapped_column(MOMENT)
        sent_at: Mapped[datetime | None] = mapped_column(MOMENT)
        expires_at: Mapped[datetime | None] = mapped_column(MOMENT)
        user_id: Mapped[uuid.UUID | None]
        organization_id: Mapped[uuid.UUID | None]
        campaign: Mapped[str | None] = mapped_column(String(40))
        updated_at: Mapped[datetime | None] = mapped_column(MOMENT)


def new_email(kind: str, recipient: str, **columns: Any) -> OutboundEmail:
    """Make an e-mail as the application does; `kind` is what the rehearsal counts it as."""
    if HAS_ALL_COLUMNS:
        columns = {
            'email_type': kind,
            'template_data': {'name': 'Änne', 'items': [1, 2]},
            'user_id': uuid.uuid4(),
            'updated_at': None,
        } | columns
    return OutboundEmail(
        recipient=recipient, subject=f'Mail of kind {kind}', body_text='Hello.', **columns
    )
