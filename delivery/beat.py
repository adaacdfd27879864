"""The beat of a worker: renew its own leases, rescue those of dead workers, look after relays."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import asyncpg
import structlog

from db.errors import DATABASE_DOWN, words_of
from db.leases import RESCUE_BATCH, Contact, Rescued, renew, rescue
from db.narrowing import SetAside
from delivery.leases import Leases, now_s
from mail.route import Relays

log = structlog.get_logger()

# More often than leases are renewed: a killed worker's mail waits for its lease and this, and 35 s
# are promised.
RESCUE_EVERY_S = 2.0
LEAST_OUTAGE_S = 5.0  # a slow answer is no outage


async def beat(
    pool: asyncpg.Pool,
    leases: Leases,
    relays: Relays,
    *,
    stopping: asyncio.Event,
    every_s: float,
    hold_types: Iterable[str],
    suspects_wanted: asyncio.Event,
    tell_others: Callable[[], Awaitable[None]],
    set_aside: SetAside,
    answered_at_once: bool = False,
) -> None:
    """Renew, rescue and tidy up until cancelled.

    A failing beat is logged; claims that cannot be renewed end by their own deadline. When
    PostgreSQL was unreachable, all leases may have run out, and most of their workers live and hold
    results: they have a third of a lease to record and renew before anything is rescued.

    Args:
        every_s: How often leases are renewed: a third of the lease, so that one missed beat loses
            nothing.
        suspects_wanted: Set when something was rescued that is to be sent again, and after the
            first look in any case: dead workers' mail may have been rescued before.
        tell_others: Called when something was rescued: all workers share the work.
        set_aside: Rows that cannot be changed.
        answered_at_once: See db.leases.Contact.
    """
    unreachable_s = max(LEAST_OUTAGE_S, (leases.lease_s - every_s) / 2)
    contact = Contact(unreachable_s, leases.lease_s / 3, answered_at_once)
    rescuing = partial(rescue, pool, hold_types, set_aside, contact)
    renewed_at = now_s()
    while True:
        relays.upkeep()
        if stopping.is_set():  # what waits for a relay's rate goes out by another worker
            relays.send_away_waiting()
        try:
            if (begun_at := now_s()) - renewed_at >= every_s - RESCUE_EVERY_S / 2:
                await _renew(pool, leases, begun_at)
                renewed_at = begun_at  # one that failed is tried again next time
            await _rescue(rescuing, contact, suspects_wanted, tell_others)
        except DATABASE_DOWN as error:
            log.warning('lease.not_renewed', held=len(leases.held()), error=words_of(error))
        await asyncio.sleep(min(every_s, RESCUE_EVERY_S))


async def _rescue(
    rescuing: Callable[[], Awaitable[list[Rescued]]],
    contact: Contact,
    suspects_wanted: asyncio.Event,
    tell_others: Callable[[], Awaitable[None]],
) -> None:
    is_first = contact.seen_at is None
    while rescued := await rescuing():
        for lost in rescued:
            log.warning(
                'lease.rescued', email_id=lost.email_id, lost_worker=lost.worker, status=lost.status
            )
        if any(lost.due for lost in rescued):
            # We as well: a worker that has just begun does not hear yet what it tells.
            suspects_wanted.set()
            await tell_others()
        if len(rescued) < RESCUE_BATCH:
            break
    if is_first:
        suspects_wanted.set()


async def _renew(pool: asyncpg.Pool, leases: Leases, since: float) -> None:
    keys = leases.held()
    if keys:
        leases.renewed(keys, await renew(pool, keys, leases.lease_s), since)
