"""Send everything that is due: the sweep behind every wake-up that was missed."""

import asyncio
import time
from collections import Counter
from functools import partial
from typing import Any

import structlog

from db.due import give_due_time
from delivery.runtime import JobResult, Runtime
from jobs.send_email import send_claimed

log = structlog.get_logger()

# The next slot, five minutes later, goes on where this one stopped.
TIME_BOX_S = 280.0
# The job's result waits this long for relays that have not answered when nothing more is due; the
# e-mails go on.
PATIENCE_S = 10.0
# A claim for a third of the places costs as much as one for a single e-mail: wait this long for so
# many to be free.
ROOM_WAIT_S = 0.1
# So many are rendered in one turn of the loop; more would hold up whoever comes meanwhile.
AT_ONCE = 16

Attempt = asyncio.Task[JobResult]


async def process_pending_emails(ctx: dict[str, Any]) -> dict[str, Any]:
    """Send all that is due and report what became of it.

    Returns:
        {'affected': attempts made, 'outcomes': {'sent': 40, 'failed': 2}} by the state each e-mail
        ended in; those whose relay is slow are counted as 'running'.
    """
    runtime: Runtime = ctx['runtime']
    outcomes: Counter[str] = Counter()
    mine: set[Attempt] = set()
    try:
        await sweep(runtime, mine, outcomes)
        if mine:
            await asyncio.wait(mine, timeout=PATIENCE_S)
    except asyncio.CancelledError:
        for attempt in mine:
            attempt.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        raise
    if mine:
        outcomes['running'] = len(mine)
    affected = sum(outcomes.values())
    if affected:
        log.info('sweep.done', affected=affected, outcomes=dict(outcomes))
    return {'affected': affected, 'outcomes': dict(outcomes)}


async def sweep(runtime: Runtime, mine: set[Attempt], outcomes: Counter[str]) -> None:
    """Claim due e-mails in batches and start sending them, until none is left, no relay is, or the time box is over.

    At most places.size e-mails are under way at once, those of earlier sweeps included. Those whose
    relay stalls go on in the background and hold up nobody.

    Args:
        mine: Gets the attempts this sweep started; loses those that finished.
        outcomes: Counts the finished.
    """
    deadline = time.monotonic() + TIME_BOX_S
    loop = asyncio.get_running_loop()
    stuck: set[Attempt] = set()  # under way for so long that the others' places are what counts
    while (
        not (runtime.signals.stopping.is_set() or runtime.switches.claims_paused)
        and time.monotonic() < deadline
    ):
        size = runtime.places.size
        stuck &= runtime.sending
        few = min(size - (size - len(stuck)) // 3, size - 1)
        if runtime.busy > few and not await _wait_for_fewer(runtime, few):
            stuck = set(runtime.sending)
        room = runtime.places.size - runtime.busy
        if room <= 0:
            continue
        room = runtime.rate.allows(room)
        if not room:
            await asyncio.sleep(runtime.rate.wait_s())
            continue
        if wait_s := runtime.relays.unavailable_for_s():
            loop.call_later(wait_s, runtime.signals.sweep_wanted.set)
            break
        runtime.signals.urgent_wanted.clear()  # what is urgent comes first in this claim
        claims = await runtime.claim_due(room)
        for number, claim in enumerate(claims):
            attempt = loop.create_task(send_claimed(runtime, claim, turns=number // AT_ONCE))
            mine.add(attempt)
            runtime.sending.add(attempt)
            attempt.add_done_callback(partial(finished, runtime, mine, outcomes))
        # After the claim, and after its e-mails have begun: most rows have a time, and somebody
        # waits for his password reset.
        await asyncio.sleep(0)
        given = await give_due_time(runtime.pool, runtime.set_aside)
        if len(claims) < room and not given:
            break


async def _wait_for_fewer(runtime: Runtime, few: int) -> bool:
    """Wait until no more than so many e-mails are under way. Returns False when that took longer than ROOM_WAIT_S."""
    runtime.few = few
    runtime.few_left.clear()
    try:
        async with asyncio.timeout(ROOM_WAIT_S):
            await runtime.few_left.wait()
    except TimeoutError:
        return False
    return True


def finished(
    runtime: Runtime, mine: set[Attempt], outcomes: Counter[str], attempt: Attempt
) -> None:
    """Count an attempt that has ended, and report a fault that kept it from being recorded."""
    runtime.sending.discard(attempt)
    if runtime.busy <= runtime.few:
        runtime.few_left.set()
    mine.discard(attempt)
    if attempt.cancelled():
        outcomes['cancelled'] += 1
    elif attempt.exception() is not None:
        outcomes['error'] += 1
        log.error('attempt.not_recorded', exc_info=attempt.exception())
    else:
        outcomes[attempt.result()['status']] += 1
