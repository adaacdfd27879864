"""For Django: a backend that queues: every `send_mail` of a project goes through the outbox.

    EMAIL_BACKEND = 'mail_outbox.django.EmailBackend'
    MAIL_OUTBOX = {'DATABASE': 'default', 'WAKE': 'notify'}  # as it is without this setting

Inside `transaction.atomic()` an e-mail belongs to the transaction: rolled back, it is never sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import BadHeaderError  # Django 6 warns of it elsewhere
from django.db import connections, transaction
from django.db.utils import DatabaseError

from mail_outbox.adapters import driver_of
from mail_outbox.django_message import email_values
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.outbox import queue_email
from mail_outbox.quota import QuotaExceededError
from mail_outbox.suppressed import SuppressedRecipientsError
from mail_outbox.wake import wake_sync

# What fail_silently leaves out.
NOT_QUEUED = (
    InvalidEmailError, QuotaExceededError, SuppressedRecipientsError, TypeError, ValueError,
    DatabaseError,
)  # fmt: skip
WAKES = ('notify', 'arq', 'none')


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """What the setting MAIL_OUTBOX says.

    Attributes:
        database: Of DATABASES; the one that has the outbox.
        wake: Who wakes the workers when the transaction commits: 'notify' (PostgreSQL), 'arq' (a
            job, on a connection of its own) or 'none' (the next sweep finds the e-mail).
        redis_url: For 'arq'.
    """

    database: str = 'default'
    wake: str = 'notify'
    redis_url: str | None = None

    @classmethod
    def read(cls) -> 'OutboxSettings':
        """Read the setting.

        Raises:
            ImproperlyConfigured: names what is wrong in it.
        """
        given = dict(getattr(settings, 'MAIL_OUTBOX', {}))
        found = cls(
            given.pop('DATABASE', 'default'),
            given.pop('WAKE', 'notify'),
            given.pop('REDIS_URL', None),
        )
        if given:
            raise ImproperlyConfigured(
                f'MAIL_OUTBOX: {min(given)!r} is none of DATABASE, WAKE, REDIS_URL'
            )
        if found.wake not in WAKES:
            raise ImproperlyConfigured(
                f'MAIL_OUTBOX: WAKE is {found.wake!r}, and none of {", ".join(WAKES)}'
            )
        if (found.wake == 'arq') != (found.redis_url is not None):
            raise ImproperlyConfigured('MAIL_OUTBOX: WAKE "arq" and REDIS_URL belong together')
        return found


class EmailBackend(BaseEmailBackend):  # type: ignore[misc]
    """Queues messages instead of sending them; a worker sends them after the commit.

    What is said of a message beyond Django's own attributes stands in a mapping that the
    application gives it as `message.outbox`: {'priority': 'high', 'email_type': 'receipt', ...}, by
    the names of EmailValues. `message.outbox_id` is the e-mail's id afterwards.
    """

    def __init__(self, fail_silently: bool = False, **kwargs: Any) -> None:
        super().__init__(fail_silently=fail_silently, **kwargs)
        self._settings = OutboxSettings.read()

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Queue messages, all or none; return how many.

        With fail_silently, those that can be.

        Raises:
            InvalidEmailError: one can never be sent; the message says why.
            BadHeaderError: the same, because a header has a line end, as Django's own backends say.
            SuppressedRecipientsError: a message's outbox says refuse_suppressed, and a recipient
                gets no mail.
            QuotaExceededError: the organisation of one has queued what it may queue today.
            django.db.Error: the insert failed.
        """
        messages = [message for message in email_messages or () if message.recipients()]
        if not self.fail_silently:
            with self._atomic():
                self._queue(messages)
            return len(messages)
        count = 0
        for message in messages:
            try:
                with self._atomic():
                    self._queue([message])
            except NOT_QUEUED:
                continue
            count += 1
        return count

    def _atomic(self) -> AbstractContextManager[Any]:
        driver = driver_of(connections[self._settings.database])
        assert not driver.is_async  # noqa: S101 - as all connections of Django
        return driver.atomic()

    def _queue(self, messages: Sequence[EmailMessage]) -> None:
        connection = connections[self._settings.database]
        notify = self._settings.wake == 'notify'
        for message in messages:
            values: Mapping[str, Any] = email_values(message) | getattr(message, 'outbox', {})
            try:
                message.outbox_id = queue_email(connection, notify=notify, **values)
            except InvalidEmailError as error:
                if 'CR, LF' in str(error):
                    raise BadHeaderError(str(error)) from error
                raise
        if messages and self._settings.redis_url is not None:
            self._wake_by_arq([message.outbox_id for message in messages])

    def _wake_by_arq(self, email_ids: Sequence[int]) -> None:
        from arq.connections import RedisSettings  # noqa: PLC0415 - only with WAKE 'arq'

        redis = RedisSettings.from_dsn(str(self._settings.redis_url))
        transaction.on_commit(
            lambda: wake_sync(email_ids, redis), using=self._settings.database, robust=True
        )
