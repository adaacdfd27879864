"""One e-mail that an operator sends to see whether mail goes out."""

from functools import partial

import asyncpg

from actions.safety import RequestError
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.outbox import queue_emails
from mail_outbox.quota import QuotaExceededError
from mail_outbox.validation import EmailValues, checked_row_sync
from mail_outbox.wake import notify
from reporting.servers import Servers

TEST_MAIL_TYPE = 'ops-test'
TEST_SUBJECT = 'Test of mail delivery'
TEST_TEXT = (
    'This is a test: somebody who looks after the mail of this application sent it to see\n'
    'whether it arrives. There is nothing to do.\n'
)


async def queue_test_mail(
    servers: Servers,
    recipient: str,
    *,
    subject: str | None = None,
    text: str | None = None,
    sender: str | None = None,
    email_type: str | None = None,
    organization: str | None = None,
    dry_run: bool = False,
) -> int | None:
    """Queue one e-mail, as an application would; a worker sends it. It expires in an hour.

    Args:
        sender: From; None: the settings' own.
        email_type: For routes, pauses and limits by type.
        organization: For routes and quotas of one organisation.
    Returns:
        Its id; None of a dry run.
    Raises:
        RequestError: it can never be sent, or may not be queued; the message names the part.
        ProblemError: PostgreSQL does not answer; nothing was queued.
    """
    email: EmailValues = {
        'recipient': recipient, 'subject': subject or TEST_SUBJECT, 'body_text': text or TEST_TEXT,
        'email_type': email_type or TEST_MAIL_TYPE, 'priority': 'high', 'expiry_hours': 1,
    }  # fmt: skip
    if sender is not None:
        email['from_address'] = sender
    if organization is not None:
        email['organization_id'] = organization
    try:
        checked_row_sync(email)
        if dry_run:
            return None
        return await servers.ask_postgres(partial(queue_at_once, email=email))
    except InvalidEmailError as error:
        raise RequestError(str(error), 'correct it') from error
    except QuotaExceededError as error:
        raise RequestError(str(error), 'see `python -m ops quota ls`') from error


async def queue_at_once(pool: asyncpg.Pool, email: EmailValues) -> int:
    """Queue an e-mail, and have a worker look at once. Returns its id."""
    async with pool.acquire() as conn, conn.transaction():
        [email_id] = await queue_emails(conn, [email])
    await notify(pool)
    return email_id
