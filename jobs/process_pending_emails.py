"""Send everything that is due: the sweep behind every wake-up that was missed."""

import asyncio
import time
from collections import Counter
from typing import Any

import structlog

from db.claims import give_due_time
from jobs.runtime import Runtime
from jobs.send_email import send_claimed

log = structlog.get_logger()

# The next slot, five minutes later, goes on where this one stopped.
TIME_BOX_S = 280.0


async def process_pending_emails(ctx: dict[str, Any]) -> dict[str, Any]:
    """Claim due e-mails in batches and send them, until none is left, no relay is, or the time box is over.

    Returns:
        {'affected': attempts made, 'outcomes': {'sent': 40, 'failed': 2}} by the state each e-mail ended in.
    """
    runtime: Runtime = ctx['runtime']
    await give_due_time(runtime.pool)
    totals: Counter[str] = Counter()
    running: set[asyncio.Task[dict[str, Any]]] = set()
    deadline = time.monotonic() + TIME_BOX_S
    try:
        while not runtime.stopping.is_set() and time.monotonic() < deadline:
            room = runtime.sweep_size - len(running)
            # Half a batch at least, or a slow e-mail or two would make every claim a claim for one.
            if room >= runtime.sweep_size / 2 or not running:
                claimed = [] if runtime.relays.unavailable_for_s() else await runtime.claim_due(room)
                if not claimed and not running:
                    break
                running |= {asyncio.create_task(send_claimed(runtime, claim)) for claim in claimed}
            running = await _count_finished(running, totals)
        while running:
            running = await _count_finished(running, totals)
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
    affected = sum(totals.values())
    if affected:
        log.info('sweep done', affected=affected, outcomes=dict(totals))
    return {'affected': affected, 'outcomes': dict(totals)}


async def _count_finished(
    running: set[asyncio.Task[dict[str, Any]]], totals: Counter[str]
) -> set[asyncio.Task[dict[str, Any]]]:
    """Wait until at least one e-mail is finished, count the finished, return the rest."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if task.exception() is None:
            totals[task.result()['status']] += 1
        else:
            totals['error'] += 1
            log.error('attempt failed unexpectedly', exc_info=task.exception())
    return rest
