"""Send an e-mail again that ended: failed, expired, uncertain or cancelled."""

from typing import Any

from db.transitions import retry
from delivery.email_jobs import JobResult, email_id_of
from delivery.runtime import Runtime
from jobs.send_email import send_email


async def retry_failed_email(ctx: dict[str, Any], email_id: int | str) -> JobResult:
    """Make the e-mail due now, with at least one attempt left, and send it.

    Returns:
        What send_email returns; for an e-mail that has not ended, nothing is changed first.
    """
    runtime: Runtime = ctx['runtime']
    if (checked := email_id_of(email_id)) is not None:
        await retry(runtime.stores.pool, [checked], expiry_hours=runtime.rules.expiry_hours)
    return await send_email(ctx, email_id)
