"""Send everything that is due, and report it: the duty behind every wake-up that was missed."""

import asyncio
from typing import Any

import structlog

from delivery.attempts import SweepTally
from delivery.runtime import Runtime

log = structlog.get_logger()

# The job's result waits this long for relays that have not answered when nothing more is due; the
# e-mails go on.
PATIENCE_S = 10.0


async def process_pending_emails(ctx: dict[str, Any]) -> dict[str, Any]:
    """Send all that is due and report what became of it.

    Returns:
        {'affected': attempts made, 'outcomes': {'sent': 40, 'failed': 2}} by the state each e-mail
        ended in; those whose relay is slow are counted as 'running'.
    """
    runtime: Runtime = ctx['runtime']
    tally = SweepTally()
    try:
        await runtime.sweeper.sweep(tally)
        if tally.running:
            await asyncio.wait(tally.running, timeout=PATIENCE_S)
    except asyncio.CancelledError:
        for attempt in tally.running:
            attempt.cancel()
        await asyncio.gather(*tally.running, return_exceptions=True)
        raise
    outcomes = tally.outcomes
    if tally.running:
        outcomes['running'] = len(tally.running)
    affected = sum(outcomes.values())
    if affected:
        log.info('sweep.done', affected=affected, outcomes=dict(outcomes))
    return {'affected': affected, 'outcomes': dict(outcomes)}
