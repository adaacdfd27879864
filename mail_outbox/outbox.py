"""The outbox as the application uses it: queue an e-mail in the caller's own transaction."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg

from mail_outbox import wake
from mail_outbox.bulk import insert_in_parts
from mail_outbox.envelope import (
    BY_LIFE,
    MAX_MESSAGE_BYTES,
    Email,
    InvalidEmailError,
    refuse_control_characters,
)
from mail_outbox.render import check

MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_DATA_BYTES = 1024 * 1024
# More than this is checked in a thread: it takes longer than a caller's event loop should stand
# still.
LARGE_BODY_CHARS = 256 * 1024
LARGE_FIELD_CHARS = 4096  # addresses and headers are read, not only copied
YIELD_EVERY_EMAILS = 100
NUL_IN_JSON = re.compile(r'(?<!\\)(?:\\\\)*\\u0000')
PRIORITIES = {'high': 0, 'normal': 1, 'low': 2}

# The first id is returned when the key is known: DO UPDATE, because DO NOTHING would return no row.
QUEUE_SQL = """
INSERT INTO mail_outbox (recipient, subject, body_text, body_html, email_type, template_id, template_data, headers,
    content_id, priority, max_attempts, next_retry_at, expires_at, user_id, organization_id, idempotency_key, status)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10, $11, COALESCE($12, now()),
    COALESCE($13, COALESCE($12, now()) + $14 * interval '1 hour'), $15, $16, $17, 'pending')
ON CONFLICT (organization_id, idempotency_key) WHERE idempotency_key IS NOT NULL
DO UPDATE SET idempotency_key = mail_outbox.idempotency_key
RETURNING id
"""


async def queue_email(
    conn: asyncpg.Connection,
    *,
    recipient: str,
    subject: str | None = None,
    body_text: str | None = None,
    body_html: str | None = None,
    email_type: str | None = None,
    template_id: Any = None,
    template_data: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    content_id: str | None = None,
    priority: str = 'normal',
    max_attempts: int | None = None,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
    expiry_hours: float = 24,
    user_id: Any = None,
    organization_id: Any = None,
    idempotency_key: str | None = None,
    max_bytes: int = MAX_MESSAGE_BYTES,
    notify: bool = False,
) -> int:
    """Insert one e-mail in the transaction the caller has open; it exists when the caller commits.

    After the commit, `await redis.enqueue_job('send_email', id)` has it sent at once; without that
    the next sweep does.

    Args:
        conn: The caller's own connection; nothing is committed here.
        recipient: One address, or several separated by commas; names are allowed.
        template_id: An email_templates id; its parts replace subject and bodies.
        headers: Extra header fields such as Reply-To or List-Unsubscribe.
        content_id: From db.content.store_attachments.
        priority: 'high', 'normal' or 'low'.
        max_attempts: How many attempts that count are made; by default EMAIL_MAX_ATTEMPTS of the
            workers, or as many as fit before expires_at where that is not set.
        send_at: Not before this time (aware); now by default.
        expires_at: Not after this time (aware); send_at plus expiry_hours by default.
        idempotency_key: The same key in the same organisation always returns the first e-mail's id.
        max_bytes: The most that workers send as one message: their EMAIL_MAX_BYTES, if that was
            changed.
        notify: Wake the workers through PostgreSQL when the caller commits, for producers without
            Redis.
    Returns:
        The e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message names it. Nothing was inserted.
        asyncpg.PostgresError: the insert failed.
    """
    row = await _checked_apart(
        recipient=recipient,
        subject=subject,
        body_text=body_text,
        body_html=body_html,
        email_type=email_type,
        template_id=template_id,
        template_data=template_data,
        headers=headers,
        content_id=content_id,
        priority=priority,
        max_attempts=max_attempts,
        send_at=send_at,
        expires_at=expires_at,
        expiry_hours=expiry_hours,
        user_id=user_id,
        organization_id=organization_id,
        idempotency_key=idempotency_key,
        max_bytes=max_bytes,
    )
    try:
        email_id: int = await conn.fetchval(QUEUE_SQL, *row)
    except (
        asyncpg.DataError
    ) as error:  # template_id, user_id or organization_id is not of its column's type
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
        emails: For each e-mail the arguments of queue_email by name, without notify; an iterator is
            read part by part, so that many large ones are never in memory together.
        notify: Wake the workers through PostgreSQL when the caller commits. One arq job an e-mail
            is for single mails.
    Returns:
        Their ids, in the same order. An idempotency key that is known, or comes twice, gives the
        first e-mail's id.
    Raises:
        InvalidEmailError: a value can never be sent; the message tells the e-mail's place, from 0, and the value.
            Nothing was inserted.
        asyncpg.PostgresError: the insert failed.
    """
    try:
        ids = await insert_in_parts(conn, QUEUE_SQL, _all_checked(emails))
    except asyncpg.DataError as error:
        raise InvalidEmailError(str(error)) from error
    if not ids:
        return []
    if notify:
        await wake.notify(conn)
    return ids


async def _all_checked(emails: Iterable[Mapping[str, Any]]) -> AsyncIterator[tuple[Any, ...]]:
    for place, email in enumerate(emails):
        if place % YIELD_EVERY_EMAILS == YIELD_EVERY_EMAILS - 1:
            await asyncio.sleep(0)  # the caller's loop has other things to do
        try:
            yield await _checked_apart(**email)
        except InvalidEmailError as error:
            raise InvalidEmailError(f'e-mail {place}: {error}') from error
        except TypeError as error:  # an argument that is unknown or missing
            raise InvalidEmailError(
                f'e-mail {place}: {str(error).removeprefix("_checked() ")}'
            ) from error


async def _checked_apart(**email: Any) -> tuple[Any, ...]:
    """Return the parameters of QUEUE_SQL; what takes its time is checked in a thread."""
    body_chars = sum(
        len(email[name]) for name in ('body_text', 'body_html') if isinstance(email.get(name), str)
    )
    fields = [email.get('recipient')]
    if isinstance(headers := email.get('headers'), Mapping):
        fields += headers.values()
    field_chars = sum(len(field) for field in fields if isinstance(field, str))
    if body_chars > LARGE_BODY_CHARS or field_chars > LARGE_FIELD_CHARS:
        return await asyncio.to_thread(partial(_checked, **email))
    return _checked(**email)


def _checked(
    *,
    recipient: str,
    subject: str | None = None,
    body_text: str | None = None,
    body_html: str | None = None,
    email_type: str | None = None,
    template_id: Any = None,
    template_data: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    content_id: str | None = None,
    priority: str = 'normal',
    max_attempts: int | None = None,
    send_at: datetime | None = None,
    expires_at: datetime | None = None,
    expiry_hours: float = 24,
    user_id: Any = None,
    organization_id: Any = None,
    idempotency_key: str | None = None,
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> tuple[Any, ...]:
    """Return the parameters of QUEUE_SQL."""
    email = Email(0, recipient, subject, body_text, body_html, template_id=template_id)
    _check_types(email, priority, headers)
    if subject is None and template_id is None:
        raise InvalidEmailError('subject: give subject or template_id')
    check(email, headers, max_bytes)
    if priority not in PRIORITIES:
        raise InvalidEmailError(f'priority: {priority!r} is none of {", ".join(PRIORITIES)}')
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 100):
        raise InvalidEmailError(f'max_attempts: {max_attempts!r} is not a number between 1 and 100')
    _check_times(send_at, expires_at, expiry_hours)
    for name, value in (
        ('email_type', email_type),
        ('idempotency_key', idempotency_key),
        ('content_id', content_id),
    ):
        if value is not None:
            if not isinstance(value, str):
                raise InvalidEmailError(f'{name}: must be text, not {type(value).__name__}')
            refuse_control_characters(name, value)
            if not 0 < len(value) <= 255:
                raise InvalidEmailError(f'{name}: {len(value)} characters, must be 1 to 255')
    return (
        recipient,
        subject,
        body_text,
        body_html,
        email_type,
        template_id,
        _as_json('template_data', template_data),
        _as_json('headers', headers),
        content_id,
        PRIORITIES[priority],
        BY_LIFE if max_attempts is None else max_attempts,
        send_at,
        expires_at,
        expiry_hours,
        user_id,
        organization_id,
        idempotency_key,
    )


def _check_types(email: Email, priority: Any, headers: Any) -> None:
    bodies = {
        'subject': email.subject or '',
        'body_text': email.body_text or '',
        'body_html': email.body_html or '',
    }
    for name, text in ({'recipient': email.recipient, 'priority': priority} | bodies).items():
        if not isinstance(text, str):
            raise InvalidEmailError(f'{name}: must be text, not {type(text).__name__}')
    if headers is not None and not isinstance(headers, Mapping):
        raise InvalidEmailError(f'headers: must be a mapping, not {type(headers).__name__}')
    for name, text in bodies.items():
        _check_text(name, text)


def _check_text(name: str, text: str) -> None:
    if '\0' in text:
        raise InvalidEmailError(f'{name}: must not contain NUL')
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidEmailError(f'{name}: contains half a character (a lone surrogate)') from error
    if size_bytes > MAX_BODY_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_BODY_BYTES} bytes')


def _check_times(
    send_at: datetime | None, expires_at: datetime | None, expiry_hours: float
) -> None:
    for name, moment in (('send_at', send_at), ('expires_at', expires_at)):
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidEmailError(f'{name}: must be an aware datetime, with a time zone')
    if not isinstance(expiry_hours, int | float):
        raise InvalidEmailError(
            f'expiry_hours: must be a number, not {type(expiry_hours).__name__}'
        )
    if not (
        math.isfinite(expiry_hours)
        and 0 < expiry_hours <= timedelta(days=3650) / timedelta(hours=1)
    ):
        raise InvalidEmailError(f'expiry_hours: {expiry_hours} is not between 0 and ten years')
    if expires_at is not None:
        start = send_at or datetime.now(expires_at.tzinfo)
        if expires_at <= start:
            raise InvalidEmailError('expires_at: is over before the e-mail could be sent')


def _as_json(name: str, value: Mapping[str, Any] | None) -> str | None:
    """Encode as text: the caller's connection may have any codec for jsonb, or none."""
    if value is None:
        return None
    try:
        json.dumps(
            value, allow_nan=False, ensure_ascii=False
        ).encode()  # fails for half a character
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEmailError(f'{name}: is not JSON: {error}') from error
    if NUL_IN_JSON.search(text):
        raise InvalidEmailError(f'{name}: must not contain NUL')
    if len(text) > MAX_DATA_BYTES:
        raise InvalidEmailError(f'{name}: larger than {MAX_DATA_BYTES} bytes')
    return text
