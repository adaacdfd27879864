"""The beat of a worker: renew its own leases, rescue those of the dead, drop idle connections."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import asyncpg
import structlog

from db.leases import RESCUE_BATCH, Rescued, renew, rescue
from db.pools import DATABASE_DOWN
from fleet.leases import Leases
from mail.smtp import Relays

log = structlog.get_logger()


async def beat(
    pool: asyncpg.Pool,
    leases: Leases,
    relays: Relays,
    *,
    every_s: float,
    hold_types: Iterable[str],
    on_rescued: Callable[[list[Rescued]], Awaitable[None]],
) -> None:
    """Beat until cancelled. A failing beat is logged; claims that cannot be renewed end by their own deadline.

    Args:
        every_s: A third of the lease, so that one missed beat loses nothing.
        on_rescued: Called with what was rescued, to have it sent at once.
    """
    while True:
        started = time.monotonic()
        relays.close_idle()
        try:
            await _renew(pool, leases, started)
            while rescued := await rescue(pool, hold_types):
                for lost in rescued:
                    log.warning('rescued', email_id=lost.email_id, lost_worker=lost.worker, status=lost.status)
                await on_rescued([r for r in rescued if r.due])
                if len(rescued) < RESCUE_BATCH:
                    break
        except DATABASE_DOWN as error:
            log.warning('beat missed', held=len(leases.held()), error=str(error) or type(error).__name__)
        await asyncio.sleep(max(0.0, every_s - (time.monotonic() - started)))


async def _renew(pool: asyncpg.Pool, leases: Leases, since: float) -> None:
    keys = leases.held()
    if not keys:
        return
    lost = await renew(pool, keys, leases.lease_s)
    leases.renewed(keys, lost, since)
