"""The beat of a worker: renew its own leases, rescue those of the dead, drop idle connections."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import asyncpg
import structlog

from db.leases import RESCUE_BATCH, renew, rescue
from db.pools import DATABASE_DOWN
from db.troubles import words_of
from fleet.leases import Leases, now_s
from mail.relays import Relays

log = structlog.get_logger()

# More often than leases are renewed: a killed worker's mail waits for its lease and this, and 35 s are promised.
RESCUE_EVERY_S = 2.0


async def beat(
    pool: asyncpg.Pool,
    leases: Leases,
    relays: Relays,
    *,
    stopping: asyncio.Event,
    every_s: float,
    hold_types: Iterable[str],
    on_rescued: Callable[[], Awaitable[None]],
) -> None:
    """Renew, rescue and tidy up until cancelled.

    A failing beat is logged; claims that cannot be renewed end by their own deadline.

    Args:
        every_s: How often leases are renewed: a third of the lease, so that one missed beat loses nothing.
        on_rescued: Called when something was rescued that is to be sent again.
    """
    renewed_at = now_s()
    while True:
        relays.tend()
        if stopping.is_set():  # whose turn does not come soon goes out by another worker
            relays.send_away_waiting()
        try:
            if now_s() - renewed_at >= every_s - RESCUE_EVERY_S / 2:
                renewed_at = now_s()
                await _renew(pool, leases, renewed_at)
            await _rescue(pool, hold_types, on_rescued)
        except DATABASE_DOWN as error:
            log.warning('beat missed', held=len(leases.held()), error=words_of(error))
        await asyncio.sleep(min(every_s, RESCUE_EVERY_S))


async def _rescue(pool: asyncpg.Pool, hold_types: Iterable[str], on_rescued: Callable[[], Awaitable[None]]) -> None:
    while rescued := await rescue(pool, hold_types):
        for lost in rescued:
            log.warning('rescued', email_id=lost.email_id, lost_worker=lost.worker, status=lost.status)
        if any(lost.due for lost in rescued):
            await on_rescued()
        if len(rescued) < RESCUE_BATCH:
            break


async def _renew(pool: asyncpg.Pool, leases: Leases, since: float) -> None:
    keys = leases.held()
    if keys:
        leases.renewed(keys, await renew(pool, keys, leases.lease_s), since)
