"""Read the mailbox that reports come to, where there is one."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog

from db.feedback import store_reports
from delivery.runtime import Runtime
from mail.bounce.mailbox import MailboxError, ReportMailbox
from mail.bounce.reading import read_returned_message
from mail.bounce.report import Report
from mail.bounce.return_path import ReturnPaths

log = structlog.get_logger()

RUN_S = 50.0  # before the next slot
MOST_MESSAGES = 2000  # a run's work; the rest is for the next one, a minute later
READ_AT_ONCE = 10  # and in memory


class ReadMessages(NamedTuple):
    """Some messages."""

    reports: Sequence[Report]
    taken: Sequence[int]  # those that report something
    left: Sequence[int]


async def fetch_reports(ctx: dict[str, Any]) -> dict[str, Any]:
    """Store what unread messages report, and mark them or move them.

    A report is stored before its message is marked. What is read again after a crash between both
    is known by its key, and counts once.

    Returns:
        {'affected': messages that reported something, 'left': that did not, 'new': reports}.
    Raises:
        MailboxError: it cannot be read.
        asyncpg.PostgresError, OSError: nothing of the current messages was stored, or marked.
    """
    runtime: Runtime = ctx['runtime']
    rules = runtime.rules
    done = {'affected': 0, 'left': 0, 'new': 0}
    if rules.mailbox is None:
        return done
    mailbox = ReportMailbox(rules.mailbox)
    try:
        async with asyncio.timeout(RUN_S):
            await asyncio.to_thread(mailbox.open)
            waiting = await asyncio.to_thread(mailbox.waiting, MOST_MESSAGES)
            for first in range(0, len(waiting), READ_AT_ONCE):
                if runtime.signals.stopping.is_set():
                    break
                some = waiting[first : first + READ_AT_ONCE]
                read = await asyncio.to_thread(_read, mailbox, some, rules.return_paths)
                done['new'] += await store_reports(runtime.stores.pool, read.reports)
                await asyncio.to_thread(mailbox.settle, read.taken, read.left)
                done['affected'] += len(read.taken)
                done['left'] += len(read.left)
    except TimeoutError as error:
        if not done['affected'] + done['left']:
            place = rules.mailbox
            raise MailboxError(f'{place}: nothing could be read in {RUN_S:g} s') from error
    finally:
        # Under a thread that still waits for the server, too.
        await asyncio.to_thread(mailbox.close)
        if any(done.values()):
            log.info('mailbox.read', taken=done['affected'], left=done['left'], new=done['new'])
    return done


def _read(
    mailbox: ReportMailbox, uids: Sequence[int], return_paths: ReturnPaths | None
) -> ReadMessages:
    reports: list[Report] = []
    taken: list[int] = []
    left: list[int] = []
    for uid in uids:
        data = mailbox.read(uid)
        if data is None:
            continue  # somebody took it away meanwhile
        reading = read_returned_message(data, (), return_paths)
        reports += reading.reports
        (taken if reading.reports else left).append(uid)
    return ReadMessages(reports, taken, left)
