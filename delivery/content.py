"""Fetch what an e-mail is made of, large content when there is room for it, and render it."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import asyncpg

from db.attachments import fetch_stored, stored_sizes
from db.claimed import Claim, fetch_email, size_of
from db.content import WantedTemplate, fetch_templates
from db.errors import DATABASE_DOWN, words_of
from db.mongo import Mongo, attachment_sizes, fetch_attachments
from delivery.bytes_in_flight import BytesInFlight
from delivery.tunables import Tunables
from engine.batches import Batcher
from mail.priority import HIGH
from mail.template.asking import with_parts
from mail.template.renderers import Templates, TemplatesUnavailableError
from mail.unsubscribe import UnsubscribeLinks
from mail_outbox.address_fields import EXTRA_ADDRESSES
from mail_outbox.envelope import (
    NO_EXTRAS,
    Attachment,
    Content,
    ContentUnavailableError,
    Email,
    InvalidEmailError,
)
from mail_outbox.raw_message import HEAD_BYTE_BYTES
from mail_outbox.render import render
from mail_outbox.rendered import Rendered

EMPTIED = 'message: it is empty: EMAIL_DROP_CONTENT deleted what it said when it was sent'
# Attachments of less go beside all others, like bodies that come with a claim.
SMALL_BYTES = 64 * 1024
RENDER_IN_THREAD_BYTES = 256 * 1024  # base64 of more than this would hold up every other e-mail
# Reading a character of addresses or headers takes as long as encoding so many of a body.
FIELD_CHAR_BYTES = 64


@contextlib.contextmanager
def _postgres_answers() -> Iterator[None]:
    """Tell a server that does not answer from a row that cannot be read."""
    try:
        yield
    except DATABASE_DOWN as error:
        raise ContentUnavailableError(f'PostgreSQL: {words_of(error)}') from error
    except asyncpg.PostgresError as error:
        raise InvalidEmailError(f'row: it cannot be read: {error}') from error


def brings_all(claim: Claim) -> bool:
    """Return whether nothing is to be fetched for an e-mail but a template, as for nearly all."""
    email = claim.email
    return claim.is_whole and email.content_id is None and not email.extras.has_attachments


class Contents:
    """The content of e-mails: where it is fetched, and how much of it is in memory.

    Attributes:
        large: The bytes of large e-mails that are in memory now.
        templates: The processes that fill templates.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        mongo: Mongo | None,
        max_message_bytes: int,
        large: BytesInFlight,
        tunables: Tunables,
        unsubscribe: UnsubscribeLinks | None = None,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.large = large
        self.templates = Templates(max_message_bytes)
        self._pool = pool
        self._tunables = tunables
        self._unsubscribe = unsubscribe
        # What concurrent e-mails ask of the databases becomes one call each.
        self.fetch_template = Batcher(partial(fetch_templates, pool))
        self.attachment_size = Batcher(partial(attachment_sizes, mongo))
        self.stored_size = Batcher(partial(stored_sizes, pool))
        # They may be large: few at once.
        self.fetch_attachments = Batcher(partial(fetch_attachments, mongo), max_items=8)
        self.fetch_stored = Batcher(partial(fetch_stored, pool), max_items=8)

    async def large_bytes(self, claim: Claim) -> int:
        """Return how many bytes are to be fetched for an e-mail, 0 when they are too few to count.

        Raises:
            InvalidEmailError: more than any message may have; nothing of it was read.
            LeaseLost: the claim is no longer ours.
            ContentUnavailableError: MongoDB or PostgreSQL does not answer.
        """
        content_id, has_stored = claim.email.content_id, claim.email.extras.has_attachments
        size_bytes = attached = 0
        with _postgres_answers():
            if not claim.is_whole:
                size_bytes = await size_of(self._pool, claim)
            if has_stored:
                attached = await self.stored_size(claim.email.id)
        if content_id is not None:
            attached += await self.attachment_size(content_id)
        size_bytes += attached if attached > SMALL_BYTES else 0
        if size_bytes > self.max_message_bytes:
            limit = f'at most {self.max_message_bytes} are allowed (EMAIL_MAX_BYTES)'
            raise InvalidEmailError(f'message: {size_bytes} bytes before it is encoded, {limit}')
        return size_bytes

    async def fetch_email(self, claim: Claim) -> Email:
        """Fetch those columns that did not come with the claim because they are large.

        Raises:
            InvalidEmailError: the row cannot be read.
            LeaseLost: the claim is no longer ours.
            ContentUnavailableError: PostgreSQL does not answer.
        """
        with _postgres_answers():
            email = await fetch_email(self._pool, claim)
        if email.raw_message == b'':  # see db.results: somebody has made a sent e-mail due again
            raise InvalidEmailError(EMPTIED)
        return email

    async def fetch(self, claim: Claim) -> tuple[Email, Content]:
        """Fetch large columns, and what the row only refers to: its template and its attachments.

        Raises:
            InvalidEmailError: the row cannot be read, or refers to what does not exist.
            LeaseLost: the claim is no longer ours.
            ContentUnavailableError: MongoDB or PostgreSQL does not answer.
        """
        email = claim.email if claim.is_whole else await self.fetch_email(claim)
        first = claim.priority == HIGH  # before what others wait for
        template = None
        if email.template_id is not None:
            with _postgres_answers():
                template = await self.fetch_template(wanted_template(email), first=first)
            if template is None:
                raise InvalidEmailError(_missing(email))
        return email, Content(template, await self._attachments(email, first=first))

    async def _attachments(self, email: Email, *, first: bool) -> Sequence[Attachment]:
        attachments: list[Attachment] = []
        if email.content_id is not None:
            attachments += await self.fetch_attachments(email.content_id, first=first)
            if not attachments:
                raise InvalidEmailError(f'content {email.content_id} has no attachments in MongoDB')
        if email.extras.has_attachments:
            with _postgres_answers():
                stored = await self.fetch_stored(email.id, first=first)
            if not stored:
                raise InvalidEmailError('attachments: email_attachments has none of this e-mail')
            attachments += stored
        return attachments

    async def render(self, claim: Claim, email: Email, content: Content) -> Rendered:
        """Fill the template in another process, and render: in a thread when the loop would hang.

        Raises:
            InvalidEmailError: the e-mail, its template or its data is wrong.
            ContentUnavailableError: no renderer could be had.
        """
        if content.template is not None:
            first, links = claim.priority == HIGH, self._unsubscribe
            try:
                filled = await self.templates.fill(
                    content.template,
                    email.template_data,
                    locale=email.extras.locale,
                    unsubscribe_url=None if links is None else links.url_of(email),
                    first=first,
                )
            except TemplatesUnavailableError as error:
                raise ContentUnavailableError(str(error)) from error
            email = with_parts(email, filled)
        sender, max_bytes = self._tunables.sender, self.max_message_bytes
        if work_bytes(email, content) > RENDER_IN_THREAD_BYTES:
            return await asyncio.to_thread(render, email, content, sender, max_bytes)
        return render(email, content, sender, max_bytes)


def work_bytes(email: Email, content: Content) -> int:
    """Return how many bytes of a body take as long to render as this e-mail."""
    field_chars = len(email.recipient)
    size_bytes = len(email.body_html or '') + len(email.body_text or '')
    if email.headers is not None:
        field_chars += len(email.headers)
    if email.extras is not NO_EXTRAS:
        field_chars += sum(len(getattr(email.extras, n) or '') for n in EXTRA_ADDRESSES)
    if email.calendar is not None:
        size_bytes += len(email.calendar)
    if email.raw_message is not None:
        size_bytes += HEAD_BYTE_BYTES * len(email.raw_message)
    if content.attachments:
        size_bytes += sum(len(a.data) for a in content.attachments)
    return size_bytes + FIELD_CHAR_BYTES * field_chars


def wanted_template(email: Email) -> WantedTemplate:
    """Return which template an e-mail that has one wants."""
    extras = email.extras
    return WantedTemplate(email.template_id or '', extras.locale, extras.template_version)


def _missing(email: Email) -> str:
    if email.extras.template_version is None:
        return f'template {email.template_id} does not exist in email_templates'
    return f'template {email.template_id} has no version {email.extras.template_version}'
