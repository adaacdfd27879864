"""Waking the workers through PostgreSQL: for producers without Redis, and when Redis refuses a job.

Never a trigger: NOTIFY takes a lock of the whole database at commit, which halved concurrent
inserts (8,100 to 4,100 a second). Only a wake-up: a worker that misses it finds the row in its next
sweep.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import asyncpg
import structlog

from db.connection import is_pooled
from db.errors import DATABASE_DOWN, words_of
from mail_outbox.wake import CHANNEL

log = structlog.get_logger()

RESCUED_CHANNEL = 'outbound_emails_rescued'  # due again, because the worker that held them was lost
ALIVE_EVERY_S = 30.0
RECONNECT_S = 1.0
LOOK_EVERY_S = 5.0
CATCH_UP_S = (
    2.0  # jobs that wait in Redis come first, and report to those who wait for their result
)

NOTIFY_RESCUED_SQL = f"SELECT pg_notify('{RESCUED_CHANNEL}', '')"


async def notify_rescued(pool: asyncpg.Pool) -> None:
    """Tell all workers of e-mails that have lost theirs.

    These are sent apart from all other mail.
    """
    await pool.execute(NOTIFY_RESCUED_SQL)


async def listen(
    dsn: str,
    connect_timeout_s: float,
    wake: Callable[[], None],
    others: Mapping[str, Callable[[], None]] | None = None,
) -> None:
    """Call wake for every notification until cancelled; reconnect for as long as it takes.

    All are also called after each connect: nobody knows what was notified while nobody listened.
    Behind a pooler nothing is heard, and they are called every few seconds instead.

    Args:
        dsn: An address of PostgreSQL without a pooler, if there is one.
        others: What to call for notifications of other channels, by channel.
    """
    calls = {CHANNEL: wake, **(others or {})}
    catch_up_s = CATCH_UP_S
    while True:
        began_at = time.monotonic()
        try:
            conn = await asyncpg.connect(dsn, timeout=connect_timeout_s, statement_cache_size=0)
            try:
                hears = not await is_pooled(conn)
                if hears:
                    await _hear(conn, calls, connect_timeout_s, catch_up_s)
            finally:
                conn.terminate()
            if not hears:
                await _look_instead(calls)
            log.warning('postgresql.listener_ended')
        except DATABASE_DOWN as error:
            log.warning('postgresql.listener_failed', error=words_of(error))
        catch_up_s = 0.0
        await asyncio.sleep(max(0.0, began_at + RECONNECT_S - time.monotonic()))


async def _hear(
    conn: asyncpg.Connection,
    calls: Mapping[str, Callable[[], None]],
    timeout_s: float,
    catch_up_s: float,
) -> None:
    """Listen until the connection has ended."""
    ended = asyncio.Event()
    conn.add_termination_listener(lambda _: ended.set())
    for channel, call in calls.items():
        await conn.add_listener(channel, lambda *_, call=call: call())
    for call in calls.values():
        asyncio.get_running_loop().call_later(catch_up_s, call)
    while not conn.is_closed():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALIVE_EVERY_S):
                await ended.wait()
        if not conn.is_closed():  # a connection that broke silently would otherwise never be missed
            await conn.execute('SELECT 1', timeout=timeout_s)


async def _look_instead(calls: Mapping[str, Callable[[], None]]) -> NoReturn:
    """Call all every few seconds: notifications do not come through a pooler."""
    log.warning(
        'postgresql.notify_unavailable',
        detail=f'a pooler passes no NOTIFY on; the worker looks every {LOOK_EVERY_S:g} s',
        remedy='set DATABASE_DIRECT_URL',
    )
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for call in calls.values():
            call()
