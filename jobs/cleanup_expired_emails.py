"""Expire what was not sent in time, and delete what ended long ago, with its content."""

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import Any

import structlog

from db.content import ContentUnavailableError, delete_content, delete_orphans
from db.cron_runs import remove_old_runs
from db.health import remove_old_health
from db.transitions import expire_all, remove_old
from jobs.runtime import Runtime

log = structlog.get_logger()

# Longer than any transaction that stored attachments and has not committed its row yet.
ORPHAN_AGE = timedelta(hours=24)
HEALTH_RETENTION_DAYS = 14
RUNS_RETENTION_DAYS = 30
REMOVE_S = 120.0  # a million e-mails; the rest is for the next hour's run


async def cleanup_expired_emails(ctx: dict[str, Any]) -> dict[str, Any]:
    """Expire e-mails past their expires_at, delete those past the retention, and content that nothing names.

    Returns:
        {'affected': rows changed, 'expired': 2, 'removed': 10, 'content_removed': 4}; content_removed is None when
        MongoDB did not answer: what is left over is found by a later run.
    """
    runtime: Runtime = ctx['runtime']
    expired = await expire_all(runtime.pool)
    removed, content_removed, mongo_answers = await _remove(runtime)
    if mongo_answers:
        try:
            content_removed += await delete_orphans(runtime.pool, runtime.mongo, ORPHAN_AGE)
        except ContentUnavailableError as error:
            mongo_answers = False
            log.warning('orphaned content is deleted later', error=str(error))
    await remove_old_health(runtime.pool, HEALTH_RETENTION_DAYS)
    await remove_old_runs(runtime.pool, RUNS_RETENTION_DAYS)
    return {
        'affected': expired + removed,
        'expired': expired,
        'removed': removed,
        'content_removed': content_removed if mongo_answers else None,
    }


async def _remove(runtime: Runtime) -> tuple[int, int, bool]:
    """Delete e-mails past the retention. Returns how many, how much content, and whether MongoDB answered."""
    removed, content_removed, mongo_answers = 0, 0, True
    deadline = time.monotonic() + REMOVE_S
    last_id: int | None = 0
    while last_id is not None and not runtime.stopping.is_set() and time.monotonic() < deadline:
        started = time.monotonic()
        batch = await remove_old(runtime.pool, runtime.email_retention_days, last_id)
        removed, last_id = removed + batch.emails, batch.last_id
        if batch.content_ids and mongo_answers:
            try:
                content_removed += await delete_content(runtime.mongo, batch.content_ids)
            except ContentUnavailableError as error:
                mongo_answers = False
                log.warning('content is deleted later', error=str(error))
        with contextlib.suppress(TimeoutError):  # a pause of the same length: claims want the server, too
            async with asyncio.timeout(time.monotonic() - started):
                await runtime.stopping.wait()
    return removed, content_removed, mongo_answers
