"""What an application imports to queue e-mail: it needs no worker, and the driver it has anyway.

    from mail_outbox import queue_email, wake_workers

Addresses, headers and bodies are checked by the code that later renders them, so that what a worker
would refuse is refused before it is committed.
"""

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.attachments import store_attachments
from mail_outbox.envelope import Attachment, ContentUnavailableError, InvalidEmailError
from mail_outbox.new_email import NewEmail
from mail_outbox.outbox import queue_email, queue_emails
from mail_outbox.validation import EmailValues
from mail_outbox.wake import wake_workers

__all__ = [
    'Attachment',
    'ContentUnavailableError',
    'EmailValues',
    'InvalidEmailError',
    'NewEmail',
    'UnsupportedConnectionError',
    'queue_email',
    'queue_emails',
    'store_attachments',
    'wake_workers',
]
