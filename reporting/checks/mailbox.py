"""The mailbox that reports come to, as the duty fetch_reports comes in there."""

import asyncio

from mail.bounce.mailbox import MailboxError, ReportMailbox
from mail.bounce.mailbox_place import MailboxPlace
from reporting.checks.finding import Finding, error, warning

MANY = 2000  # one run of the duty reads no more
CHECK_S = 40.0


async def check(place: MailboxPlace | None) -> list[Finding]:
    """Log in, and count what waits there; nothing is marked."""
    if place is None:
        return []
    mailbox = ReportMailbox(place)
    try:
        async with asyncio.timeout(CHECK_S):
            await asyncio.to_thread(mailbox.open)
            waiting = await asyncio.to_thread(mailbox.waiting, MANY)
    except MailboxError as failure:
        return [error(f'the mailbox of reports: {failure}', 'see BOUNCE_IMAP_URL and its server')]
    except TimeoutError:
        what = f'the mailbox of reports: {place}: no answer within {CHECK_S:g} s'
        return [error(what, 'see why its server is so slow')]
    finally:
        await asyncio.to_thread(mailbox.close)
    if len(waiting) < MANY:
        return []
    what = f'the mailbox of reports: {place}: {MANY} messages or more wait there'
    return [warning(what, 'see `python -m ops cron` whether fetch_reports runs')]
