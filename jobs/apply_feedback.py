"""Look at reports of what came back that nobody has looked at yet, or whose time has come."""

from typing import Any

import structlog

from db.feedback_effects import LOOKED_AT_ONCE, apply_reports
from delivery.runtime import Runtime

log = structlog.get_logger()

MOST_ROUNDS = 20  # a run's work; the rest is for the next one, a minute later


async def apply_feedback(ctx: dict[str, Any]) -> dict[str, Any]:
    """Change the states of e-mails that came back, and fill the list of those who get no mail.

    Returns:
        {'affected': reports that were concluded}.
    """
    runtime: Runtime = ctx['runtime']
    affected = 0
    for _ in range(MOST_ROUNDS):
        applied = await apply_reports(runtime.stores.pool, runtime.rules.feedback)
        affected += len(applied)
        for report in applied:
            log.info(
                'feedback.applied',
                email_id=report.email_id,
                kind=report.kind.value,
                effect=report.effect,
                suppressed=report.suppressed is not None,
            )
        if len(applied) < LOOKED_AT_ONCE or runtime.signals.stopping.is_set():
            break
    return {'affected': affected}
