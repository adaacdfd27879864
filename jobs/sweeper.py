"""Background sweeps: when somebody asks for one, while Redis is away, and one by one for suspects."""

import asyncio
import contextlib
from collections import Counter
from functools import partial
from typing import Any

import structlog

from db.due import next_due_in_s
from db.pools import DATABASE_DOWN
from db.troubles import tell
from delivery.runtime import Runtime
from jobs.process_pending_emails import finished, sweep
from jobs.send_email import send_claimed

log = structlog.get_logger()

AWAY_EVERY_S = 1.0
SLOT_S = 300.0
LATER_S = 1.0  # a job that is still there comes first
SUSPECTS_EVERY_S = 5.0
SUSPECT_PATIENCE_S = 2.0
# By lost attempts: how many are sent together. After a second loss each is alone, so that the third
# tells which one it is that kills workers, and those that were only near it are not counted out
# with it.
SUSPECT_GROUPS = ((1, 10), (2, 1))


async def keep_sweeping(ctx: dict[str, Any]) -> None:
    """Wait for runtime.signals.sweep_wanted, or for Redis to be away; sweep; until the worker stops."""
    runtime: Runtime = ctx['runtime']
    while not runtime.signals.stopping.is_set():
        await _wait(runtime.signals.sweep_wanted, AWAY_EVERY_S)
        if not (
            runtime.signals.sweep_wanted.is_set() or runtime.signals.redis_unreachable.is_set()
        ):
            continue
        runtime.signals.sweep_wanted.clear()
        try:
            await sweep(runtime, set(), Counter())
            # What waits for its time has lost its job, if Redis was emptied; the next slot would
            # find it late.
            due_in_s = await next_due_in_s(runtime.pool, SLOT_S)
            if due_in_s is not None:
                asyncio.get_running_loop().call_later(
                    due_in_s + LATER_S, runtime.signals.sweep_wanted.set
                )
        except DATABASE_DOWN as error:
            tell(log, 'sweep', error)
            runtime.signals.sweep_wanted.set()
            await asyncio.sleep(AWAY_EVERY_S)


async def keep_sending_suspects(ctx: dict[str, Any]) -> None:
    """Send e-mails whose last worker was lost, a few at a time, then one at a time; until the worker stops."""
    runtime: Runtime = ctx['runtime']
    while not runtime.signals.stopping.is_set():
        try:
            while not runtime.signals.stopping.is_set() and not runtime.relays.unavailable_for_s():
                if not await _send_suspects(runtime):
                    break
        except DATABASE_DOWN as error:
            tell(log, 'suspects', error)
        await _wait(runtime.suspects_wanted, SUSPECTS_EVERY_S)
        runtime.suspects_wanted.clear()


async def _send_suspects(runtime: Runtime) -> bool:
    """Send one group of suspects. Returns whether there were any."""
    for lost_attempts, together in SUSPECT_GROUPS:
        attempts = set()
        for claim in await runtime.claim_suspects(lost_attempts, together):
            attempt = asyncio.create_task(send_claimed(runtime, claim))
            attempts.add(attempt)
            runtime.sending.add(attempt)
            attempt.add_done_callback(partial(finished, runtime, set(), Counter()))
        if attempts:
            # What kills a worker does so at once; one whose relay is slow must not hold up the
            # others.
            await asyncio.wait(attempts, timeout=SUSPECT_PATIENCE_S)
            while attempts & runtime.large.waiting:  # it has not done its worst yet
                await asyncio.wait(attempts, timeout=SUSPECT_PATIENCE_S)
            return True
    return False


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
