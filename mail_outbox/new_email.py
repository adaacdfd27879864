"""An e-mail as one value, for those who like it better than keyword arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from mail_outbox.envelope import MAX_MESSAGE_BYTES, Attachment
from mail_outbox.field_checks import Priority
from mail_outbox.validation import (
    EXPIRY_HOURS,
    AddressList,
    EmailValues,
    HeaderFields,
    Identifier,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAddresses:
    """Who an e-mail is from and to; see EmailAddresses."""

    recipient: AddressList
    cc: AddressList | None = None
    bcc: AddressList | None = None
    reply_to: AddressList | None = None
    from_address: str | None = None
    sender_address: str | None = None
    envelope_from: str | None = None
    one_copy_each: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewContent(NewAddresses):
    """What an e-mail says; see EmailContent."""

    subject: str | None = None
    body_text: str | None = None
    body_html: str | None = None
    template_id: Identifier | None = None
    template: str | None = None
    template_data: Mapping[str, Any] | None = None
    locale: str | None = None
    template_version: int | None = None
    headers: HeaderFields | None = None
    message_id: str | None = None
    calendar: str | None = None
    raw: bytes | None = None
    attachments: Sequence[Attachment] | None = None
    content_id: str | None = None
    max_bytes: int = MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEmail(NewContent):
    """One e-mail to be queued; EmailValues says what each field means.

    Nothing is checked before it is queued.
    """

    email_type: str | None = None
    priority: Priority = 'normal'
    max_attempts: int | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    expiry_hours: float = EXPIRY_HOURS
    user_id: Identifier | None = None
    organization_id: Identifier | None = None
    tags: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    refuse_suppressed: bool | None = None


FIELDS = tuple(field.name for field in fields(NewEmail))


def values_of(email: NewEmail | EmailValues) -> Mapping[str, Any]:
    """Return an e-mail by the names of EmailValues."""
    if isinstance(email, NewEmail):
        return {name: getattr(email, name) for name in FIELDS}
    return email
