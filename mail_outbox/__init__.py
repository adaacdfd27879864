"""What an application imports to queue e-mail: it needs no worker, and the driver it has anyway.

    from mail_outbox import queue_email, wake_workers

Addresses, headers and bodies are checked by the code that later renders them, so that what a worker
would refuse is refused before it is committed.
"""

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import (
    Attachment,
    ContentUnavailableError,
    IdempotencyConflictError,
    InvalidEmailError,
)
from mail_outbox.new_email import NewEmail
from mail_outbox.outbox import queue_email, queue_emails
from mail_outbox.quota import QuotaExceededError
from mail_outbox.reading import Attempt, EmailStatus, attempts, status
from mail_outbox.states import DeadReason, Status
from mail_outbox.suppressed import SuppressedRecipientsError, suppressed_recipients
from mail_outbox.validation import EmailValues
from mail_outbox.wake import wake, wake_sync, wake_workers

__all__ = [
    'Attachment',
    'Attempt',
    'ContentUnavailableError',
    'DeadReason',
    'EmailStatus',
    'EmailValues',
    'IdempotencyConflictError',
    'InvalidEmailError',
    'NewEmail',
    'QuotaExceededError',
    'Status',
    'SuppressedRecipientsError',
    'UnsupportedConnectionError',
    'attempts',
    'queue_email',
    'queue_emails',
    'status',
    'store_attachments',
    'suppressed_recipients',
    'wake',
    'wake_sync',
    'wake_workers',
]
