"""Waking the workers through PostgreSQL: for producers without Redis, and when Redis refuses a job.

Never a trigger: NOTIFY takes a lock of the whole database at commit, which halved concurrent inserts (8,100 to 4,100 a
second). Only a wake-up: a worker that misses it finds the row in its next sweep.
"""

import asyncio
from collections.abc import Callable, Mapping

import asyncpg
import structlog

from db.pools import DATABASE_DOWN

log = structlog.get_logger()

CHANNEL = 'outbound_emails_due'
RESCUED_CHANNEL = 'outbound_emails_rescued'  # due again, because the worker that held them was lost
ALIVE_EVERY_S = 30.0
RECONNECT_S = 1.0
CATCH_UP_S = 2.0  # jobs that wait in Redis come first, and report to those who wait for their result

NOTIFY_SQL = f"SELECT pg_notify('{CHANNEL}', '')"


async def notify(conn: asyncpg.Connection | asyncpg.Pool) -> None:
    """Wake the workers when the caller's transaction commits, or now when it has none open."""
    await conn.execute(NOTIFY_SQL)


NOTIFY_RESCUED_SQL = f"SELECT pg_notify('{RESCUED_CHANNEL}', '')"


async def notify_rescued(pool: asyncpg.Pool) -> None:
    """Tell all workers of e-mails that have lost theirs; they are sent apart from all other mail."""
    await pool.execute(NOTIFY_RESCUED_SQL)


async def listen(
    dsn: str, connect_timeout_s: float, wake: Callable[[], None], others: Mapping[str, Callable[[], None]] | None = None
) -> None:
    """Call wake for every notification until cancelled; reconnect for as long as it takes.

    wake is also called a little after each connect: nobody knows what was notified while nobody listened.

    Args:
        others: What to call for notifications of other channels, by channel.
    """
    while True:
        try:
            conn = await asyncpg.connect(dsn, timeout=connect_timeout_s)
            try:
                for channel, call in {CHANNEL: wake, **(others or {})}.items():
                    await conn.add_listener(channel, lambda *_, call=call: call())
                asyncio.get_running_loop().call_later(CATCH_UP_S, wake)
                while True:  # a connection that broke silently would otherwise never be missed
                    await asyncio.sleep(ALIVE_EVERY_S)
                    await conn.execute('SELECT 1', timeout=connect_timeout_s)
            finally:
                conn.terminate()
        except DATABASE_DOWN as error:
            log.warning('not listening to PostgreSQL', error=str(error) or type(error).__name__)
        await asyncio.sleep(RECONNECT_S)
