"""Fetch what an e-mail is made of, large content only when its size is known and there is room for it."""

import asyncpg

from db.claimed import Claim, fetch_email, size_of
from db.troubles import DATABASE_DOWN, words_of
from delivery.bytes_in_flight import MAX_WAITING
from delivery.runtime import Runtime
from mail_outbox.attachments import ContentUnavailableError
from mail_outbox.envelope import Content, Email, InvalidEmailError

SMALL_BYTES = (
    64 * 1024
)  # attachments of less go beside all others, like bodies that come with a claim


class NoRoomError(ContentUnavailableError):
    """So many large e-mails wait in this worker that this one is better off in its row."""


async def large_bytes(runtime: Runtime, claim: Claim) -> int:
    """Return how many bytes are to be fetched for an e-mail, 0 when they are too few to count.

    Raises:
        InvalidEmailError: more than any message may have; nothing of it was read.
        NoRoomError: too many wait already.
        LeaseLost: the claim is no longer ours.
        ContentUnavailableError: MongoDB or PostgreSQL does not answer.
    """
    if claim.is_whole and claim.email.content_id is None:
        return 0
    size_bytes = 0
    if not claim.is_whole:
        try:
            size_bytes = await size_of(runtime.pool, claim)
        except DATABASE_DOWN as error:
            raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
        except asyncpg.PostgresError as error:
            raise InvalidEmailError(f'row: it cannot be read: {error}') from error
    if claim.email.content_id is not None:
        attached = await runtime.attachment_size(claim.email.content_id)
        size_bytes += attached if attached > SMALL_BYTES else 0
    if size_bytes > runtime.max_message_bytes:
        limit = f'at most {runtime.max_message_bytes} are allowed (EMAIL_MAX_BYTES)'
        raise InvalidEmailError(f'message: {size_bytes} bytes before it is encoded, {limit}')
    if size_bytes and len(runtime.large.waiting - runtime.sending) >= MAX_WAITING:
        raise NoRoomError(f'{MAX_WAITING} large e-mails wait in this worker')
    return size_bytes


async def fetch_large(runtime: Runtime, claim: Claim) -> Email:
    """Fetch the content that did not come with the claim.

    Raises:
        InvalidEmailError: the row cannot be read.
        LeaseLost: the claim is no longer ours.
        ContentUnavailableError: PostgreSQL does not answer.
    """
    try:
        return await fetch_email(runtime.pool, claim)
    except DATABASE_DOWN as error:
        raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
    except asyncpg.PostgresError as error:
        raise InvalidEmailError(f'row: it cannot be read: {error}') from error


async def fetch_content(runtime: Runtime, email: Email, *, first: bool = False) -> Content:
    """Fetch what the e-mail's row only refers to: its template and its attachments.

    Raises:
        InvalidEmailError: they do not exist.
        ContentUnavailableError: MongoDB or PostgreSQL does not answer.
    """
    template, attachments = None, []
    if email.template_id is not None:
        try:
            template = await runtime.fetch_template(email.template_id, first=first)
        except DATABASE_DOWN as error:
            raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
        if template is None:
            raise InvalidEmailError(
                f'template {email.template_id} does not exist in email_templates'
            )
    if email.content_id is not None:
        attachments = await runtime.fetch_attachments(email.content_id, first=first)
        if not attachments:
            raise InvalidEmailError(f'content {email.content_id} has no attachments in MongoDB')
    return Content(template, attachments)
