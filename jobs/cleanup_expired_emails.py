"""Expire what was not sent in time, and delete what ended long ago, with its content."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import structlog

from db.api_requests import REMOVE_REQUESTS, remove_old_requests
from db.attachments import delete_unowned
from db.audit import remove_old_audit
from db.cron_runs import remove_old_runs
from db.feedback import remove_unmatched
from db.health import remove_old_health
from db.mongo import delete_content, delete_orphans
from db.origins import note_report, read_origin, was_adopted
from db.retention import OUTBOUND_EMAILS_SQL, count_old, remove_old
from db.transitions import expire_all
from db.webhook_deliveries import give_up_deliveries
from db.webhook_replays import remove_old_deliveries
from delivery.runtime import Runtime
from mail_outbox.envelope import ContentUnavailableError

log = structlog.get_logger()

# Longer than any transaction that stored attachments and has not committed its row yet.
ORPHAN_AGE = timedelta(hours=24)
HEALTH_RETENTION_DAYS = 14
RUNS_RETENTION_DAYS = 30
AUDIT_RETENTION_DAYS = 400  # a year, and the time to look at it
FEEDBACK_RETENTION_DAYS = 90  # of no e-mail that is known; the others go with theirs
REMOVE_BATCH = 1000
REMOVE_S = 120.0  # a million e-mails; the rest is for the next hour's run


async def cleanup_expired_emails(ctx: dict[str, Any]) -> dict[str, Any]:
    """Expire e-mails past their expires_at; delete those past the retention, and orphaned content.

    Returns:
        {'affected': rows changed, 'expired': 2, 'removed': 10, 'content_removed': 4};
        content_removed is None when
        MongoDB did not answer: what is left over is found by a later run. Where there are any:
        'held' e-mails that other rows refer to, 'refused' ones that PostgreSQL would not delete,
        with the 'refusal', and 'retention', why nothing was deleted.
    """
    runtime: Runtime = ctx['runtime']
    pool, mongo = runtime.stores.pool, runtime.stores.mongo
    expired = await expire_all(pool)
    adopted = await was_adopted(pool)
    done = Retention(waits_because=await _waits_because(runtime) if adopted else None)
    if done.waits_because is None:
        await _remove(runtime, done)
    content_removed: int | None = None
    unowned = await delete_unowned(pool, ORPHAN_AGE)
    try:
        if mongo is not None:
            unowned += await delete_content(pool, mongo, done.content_ids, is_adopted=adopted)
            unowned += await delete_orphans(pool, mongo, ORPHAN_AGE, is_adopted=adopted)
        content_removed = unowned
    except ContentUnavailableError as error:
        log.warning('content.not_deleted', error=str(error))
    await remove_old_health(pool, HEALTH_RETENTION_DAYS)
    await remove_old_runs(pool, RUNS_RETENTION_DAYS)
    await remove_old_audit(pool, AUDIT_RETENTION_DAYS)
    await give_up_deliveries(pool)
    await remove_old_deliveries(pool, runtime.rules.webhooks.retention_days)
    await remove_unmatched(pool, FEEDBACK_RETENTION_DAYS)
    await _remove_requests(runtime)
    more = {
        'held': done.held,
        'refused': done.refused,
        'refusal': done.refusal,
        'retention': done.waits_because,
    }
    return {
        'affected': expired + done.removed,
        'expired': expired,
        'removed': done.removed,
        'content_removed': content_removed,
    } | {name: value for name, value in more.items() if value}


@dataclass(slots=True)
class Retention:
    """What one run did: rows removed, held by foreign keys, refused by the server.

    Or why it did nothing.
    """

    waits_because: str | None = None
    removed: int = 0
    held: int = 0
    refused: int = 0
    refusal: str | None = None
    content_ids: list[str] = field(default_factory=list)  # of the rows that were removed


async def _waits_because(runtime: Runtime) -> str | None:
    """Say why no mail that was there before this program is deleted now; None when it may be.

    Only where somebody set the days, and after a first run that counts and reports.
    """
    pool, retention = runtime.stores.pool, runtime.rules.retention
    if not retention.is_set:
        return (
            'the table was there before this program: '
            'nothing is deleted until EMAIL_RETENTION_DAYS is set'
        )
    table = await pool.fetchval(OUTBOUND_EMAILS_SQL)
    if (await read_origin(pool, table)).reported_at is not None:
        return None
    emails = await count_old(pool, retention.email_days, days_by_type=dict(retention.days_by_type))
    await note_report(pool, table, emails)
    log.warning('cleanup.reported', table='outbound_emails', rows=emails)
    return (
        f'the next run deletes what is older than {retention.email_days} days, now {emails} e-mails'
    )


async def _remove_requests(runtime: Runtime) -> None:
    """Forget idempotency keys of the HTTP API that are past their time, part by part."""
    deadline = time.monotonic() + REMOVE_S
    while not runtime.signals.stopping.is_set() and time.monotonic() < deadline:
        if await remove_old_requests(runtime.stores.pool) < REMOVE_REQUESTS:
            return


async def _remove(runtime: Runtime, done: Retention) -> None:
    """Delete e-mails past the retention."""
    retention = runtime.rules.retention
    deadline = time.monotonic() + REMOVE_S
    last_id: int | None = 0
    size = REMOVE_BATCH
    while (
        last_id is not None
        and not runtime.signals.stopping.is_set()
        and time.monotonic() < deadline
    ):
        started = time.monotonic()
        try:
            batch = await remove_old(
                runtime.stores.pool, retention.email_days, last_id, size,
                days_by_type=dict(retention.days_by_type),
            )  # fmt: skip
        except (asyncpg.QueryCanceledError, TimeoutError):
            # A table that refers to these without an index is read once for each row.
            if size == 1:
                raise
            size = max(1, size // 10)
            continue
        done.removed += batch.emails
        done.content_ids += batch.content_ids
        done.held += batch.held
        done.refused += batch.refused
        done.refusal = done.refusal or batch.refusal
        last_id = batch.last_id
        # A pause of the same length: claims want the server, too.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(time.monotonic() - started):
                await runtime.signals.stopping.wait()
    if done.refused:
        log.warning('cleanup.refused', emails=done.refused, reason=done.refusal)
