"""Short locks on a table that others write: try briefly, let them go on, try again."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import asyncpg

LOCK_WAIT_MS = 200  # who waits behind us waits no longer than this and the change itself
PAUSE_S = 0.8
GIVE_UP_S = 300.0

BLOCKERS_SQL = """
SELECT a.pid, a.application_name, now() - a.xact_start AS age
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.relation = 'outbound_emails'::regclass AND l.pid <> pg_backend_pid() AND l.granted
ORDER BY a.xact_start LIMIT 1
"""


class ReportProgress(Protocol):
    """Is told what was done; may raise between two steps, which ends it there."""

    def __call__(self, text: str, /, done: int | None = None, total: int | None = None) -> None:
        """Tell.

        Args:
            text: What was done.
            done, total: Of something that is counted on, how many rows were walked, and of how
                many; an estimate.
        """


class TableBusyError(Exception):
    """Somebody holds the table in a transaction that does not end."""


# Statistics of a table that grows under our hands say little: a stretch of ids is found by the
# primary key.
BY_INDEX = ('enable_seqscan', 'enable_hashjoin', 'enable_mergejoin')


ROWS_SQL = """
SELECT reltuples::bigint FROM pg_class WHERE oid = 'outbound_emails'::regclass
"""


async def count_rows(conn: asyncpg.Connection) -> int | None:
    """Return about how many e-mails there are, by the server's statistics; None: it has none."""
    rows: int = await conn.fetchval(ROWS_SQL)
    return rows if rows > 0 else None


@asynccontextmanager
async def by_index(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Let statements in this session find their rows by an index, whatever the statistics say."""
    for name in BY_INDEX:
        await conn.execute(f'SET {name} = off')
    try:
        yield
    finally:
        for name in BY_INDEX:
            await conn.execute(f'RESET {name}')


@asynccontextmanager
async def _transaction(conn: asyncpg.Connection) -> AsyncIterator[None]:
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'")
        yield


async def briefly(
    conn: asyncpg.Connection,
    change: Callable[[], Awaitable[None]],
    progress: ReportProgress,
    *,
    give_up_s: float = GIVE_UP_S,
) -> None:
    """Run a change in a transaction that waits for no lock longer than LOCK_WAIT_MS.

    When it does not get through, it is run again.

    Raises:
        TableBusyError: it did not within give_up_s; names the session that is in the way. Nothing
        was changed. asyncpg.PostgresError: the change failed; nothing was changed.
    """
    deadline = time.monotonic() + give_up_s
    is_reported = False
    while True:
        try:
            async with _transaction(conn):
                await change()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            blocker = await conn.fetchrow(BLOCKERS_SQL)
            who = (
                f'session {blocker["pid"]} ({blocker["application_name"]})'
                if blocker
                else 'a session'
            )
            if time.monotonic() > deadline:
                age = f', open for {blocker["age"]}' if blocker else ''
                raise TableBusyError(
                    f'{who} holds outbound_emails{age}: end its transaction, then run this again'
                ) from error
            if not is_reported:
                progress(
                    f'waiting for {who} to let go of outbound_emails; nobody else waits meanwhile'
                )
                is_reported = True
            await asyncio.sleep(PAUSE_S)
        else:
            return
