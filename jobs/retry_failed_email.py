"""Send an e-mail again that ended: failed, expired, uncertain or cancelled."""

from typing import Any

from db.transitions import retry
from jobs.runtime import JobResult, Runtime
from jobs.send_email import send_email


async def retry_failed_email(ctx: dict[str, Any], email_id: int) -> JobResult:
    """Make the e-mail due now, with at least one attempt left, and send it.

    Returns:
        What send_email returns; for an e-mail that has not ended, nothing is changed first.
    """
    runtime: Runtime = ctx['runtime']
    if type(email_id) is int and 0 < email_id < 2**63:
        await retry(runtime.pool, [email_id], expiry_hours=runtime.expiry_hours)
    return await send_email(ctx, email_id)
