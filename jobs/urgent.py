"""Urgent mail that came while other mail keeps this worker busy: it does not wait for the next claim."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

import structlog

from db.due import urgent_due
from db.pools import DATABASE_DOWN
from db.troubles import tell
from delivery.not_claimable import not_claimable
from delivery.runtime import JobResult, Runtime
from jobs.process_pending_emails import Attempt, finished
from jobs.send_email import send_claimed
from mail.priority import HIGH

log = structlog.get_logger()

LOOK_EVERY_S = 0.01  # at most; a look costs PostgreSQL a tenth of a millisecond


async def keep_sending_urgent(ctx: dict[str, Any]) -> None:
    """Wait for runtime.signals.urgent_wanted; send what is urgent and due; until the worker stops.

    Set when a wake-up comes by NOTIFY, which a sweep under way would heed only with its next claim,
    and when more jobs wait in Redis than there is room for: an urgent one may be the last of them.
    As many of them as places.kept are under way beside all other mail; when more than that is
    urgent, the rest takes its turn, first of all.
    """
    runtime: Runtime = ctx['runtime']
    mine: set[Attempt] = set()
    while not runtime.signals.stopping.is_set():
        await runtime.signals.urgent_wanted.wait()
        await asyncio.sleep(0)  # a sweep that begins now takes it along
        if not runtime.signals.urgent_wanted.is_set():
            continue
        runtime.signals.urgent_wanted.clear()
        try:
            await send_urgent(runtime, mine)
        except DATABASE_DOWN as error:
            tell(log, 'urgent mail', error)
        await asyncio.sleep(LOOK_EVERY_S)


async def send_urgent(runtime: Runtime, mine: set[Attempt]) -> None:
    """Start sending what is urgent, due, and not in the hands of a job of this worker.

    Args:
        mine: Gets the attempts; loses those that finished.
    """
    room = runtime.places.kept - len(mine)
    if room <= 0 or runtime.switches.claims_paused or runtime.relays.unavailable_for_s():
        return
    others = [*runtime.asked_for, *(runtime.set_aside.ids() or ())]
    for email_id in await urgent_due(runtime.pool, room, runtime.switches.email_types, others):
        if email_id in runtime.asked_for:  # its job has just come
            continue
        attempt = asyncio.get_running_loop().create_task(_claim_and_send(runtime, email_id))
        mine.add(attempt)
        runtime.asked_for.add(email_id)
        runtime.sending.add(attempt)
        attempt.add_done_callback(partial(_ended, runtime, mine, email_id))


async def _claim_and_send(runtime: Runtime, email_id: int) -> JobResult:
    claim = await runtime.claim_one(email_id, HIGH)
    if claim is None:  # somebody else was faster; or its type is paused
        return not_claimable(email_id, None, 'urgent mail')
    return await send_claimed(runtime, claim)


def _ended(runtime: Runtime, mine: set[Attempt], email_id: int, attempt: Attempt) -> None:
    was_sent = (
        not attempt.cancelled()
        and not attempt.exception()
        and attempt.result()['status'] != 'not-claimable'
    )
    if was_sent and len(mine) >= runtime.places.kept:
        runtime.signals.urgent_wanted.set()  # there may be more than there was room for
    runtime.asked_for.discard(email_id)
    finished(runtime, mine, Counter(), attempt)
