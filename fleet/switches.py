"""Keeping a worker's switches as operators set them in PostgreSQL."""

import asyncio
from collections.abc import Callable

import asyncpg
import structlog

from db.errors import DATABASE_DOWN, words_of
from db.switches import read_switches
from delivery.tunables import Switches

log = structlog.get_logger()

LOOK_EVERY_S = 3.0  # for a notification that was missed


async def keep_switches(
    pool: asyncpg.Pool, switches: Switches, changed: asyncio.Event, apply: Callable[[], None]
) -> None:
    """Read the switches now, whenever changed is set, and every few seconds; until cancelled.

    While PostgreSQL is unreachable the last state stands; nothing can be claimed then anyway.

    Args:
        apply: Called after the switches have changed.
    """
    while True:
        changed.clear()
        try:
            if switches.update(await read_switches(pool)):
                log.info(
                    'switches.changed',
                    paused=switches.reasons(),
                    relays=sorted(switches.relays),
                    email_types=switches.email_types,
                    duties=sorted(switches.duties),
                )
                apply()
        except DATABASE_DOWN as error:
            log.debug('switches.not_read', error=words_of(error))
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await changed.wait()
        except TimeoutError:
            continue
