"""Take in what came back, by whichever way it came: read, store once, and apply."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from db.feedback import store_reports
from db.feedback_effects import Applied, apply_reports
from db.feedback_suppression import FeedbackRules
from mail.bounce.reading import read_returned_message
from mail.bounce.report import Report, ReportReading
from mail.bounce.return_path import ReturnPaths
from reporting.servers import Servers


@dataclass(frozen=True, slots=True)
class ReceivedReports:
    """What became of a message, or of a provider's call.

    Attributes:
        reports: What it reports.
        new: How many of these were not known.
        why_none: Why it reports nothing.
        applied: What was concluded meanwhile, also of other reports; the rest is applied by the
            duty apply_feedback, once the e-mails are in a state for it.
    """

    reports: Sequence[Report]
    new: int = 0
    why_none: str | None = None
    applied: Sequence[Applied] = field(default_factory=list)


async def read_returned(
    data: bytes, addressed_to: Sequence[str], return_paths: ReturnPaths | None
) -> ReportReading:
    """Read a message that came back, away from the event loop."""
    return await asyncio.to_thread(read_returned_message, data, addressed_to, return_paths)


async def receive_message(
    servers: Servers,
    data: bytes,
    addressed_to: Sequence[str],
    return_paths: ReturnPaths | None,
    rules: FeedbackRules,
    *,
    dry_run: bool = False,
) -> ReceivedReports:
    """Take in a message that came back.

    Args:
        addressed_to: The recipients of its envelope, where they are known.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was stored, and it can be given again.
    """
    reading = await read_returned(data, addressed_to, return_paths)
    if dry_run or not reading.reports:
        return ReceivedReports(reading.reports, why_none=reading.why_none)
    return await receive_reports(servers, reading.reports, rules)


async def store_only(servers: Servers, reports: Sequence[Report]) -> int:
    """Store reports, and leave the rest to a worker: for who may do no more.

    Returns:
        How many are new.
    Raises:
        ProblemError: PostgreSQL does not answer; nothing was stored.
    """
    return await servers.ask_postgres(partial(store_reports, reports=reports))


async def receive_reports(
    servers: Servers, reports: Sequence[Report], rules: FeedbackRules
) -> ReceivedReports:
    """Store reports, and apply what can be.

    Raises:
        ProblemError: PostgreSQL does not answer; what was stored is applied later.
    """
    new = await servers.ask_postgres(partial(store_reports, reports=reports))
    applied = await servers.ask_postgres(partial(_apply, rules=rules))
    return ReceivedReports(reports, new, applied=applied)


async def _apply(pool: asyncpg.Pool, rules: FeedbackRules) -> Sequence[Applied]:
    return await apply_reports(pool, rules)
