"""What an application imports is small, and its names stay."""

import subprocess
import sys

import mail_outbox

HEAVY = (
    'arq', 'asyncio', 'asyncpg', 'bson', 'django', 'email._header_value_parser', 'email.message',
    'email.parser', 'email_validator', 'motor', 'psycopg', 'pydantic', 'pymongo', 'redis',
    'sqlalchemy', 'structlog',
)  # fmt: skip


def test_import_loads_no_driver_and_nothing_that_takes_long() -> None:
    code = f'import sys, mail_outbox; print(*(set({HEAVY}) & set(sys.modules)))'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == []


def test_public_names_are_there() -> None:
    assert set(mail_outbox.__all__) == {
        'Attachment', 'Attempt', 'ContentUnavailableError', 'DeadReason', 'EmailStatus',
        'EmailValues', 'IdempotencyConflictError', 'InvalidEmailError', 'NewEmail',
        'QuotaExceededError', 'Status', 'SuppressedRecipientsError',
        'UnsupportedConnectionError', 'attempts', 'queue_email', 'queue_emails', 'status',
        'store_attachments', 'suppressed_recipients', 'wake', 'wake_sync', 'wake_workers',
    }  # fmt: skip
    assert all(hasattr(mail_outbox, name) for name in mail_outbox.__all__)
