"""asyncpg: a connection, or what a pool's `acquire` gives."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, Literal

import asyncpg

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import NUMBERED, Answer, calls, unsuitable_value

NO_POOL = (
    'conn: a pool has no transaction; `async with pool.acquire() as conn, conn.transaction():` and'
    ' give the connection'
)


def adapt(conn: Any) -> 'AsyncpgDriver':
    """Return how statements are run on it.

    Raises:
        UnsupportedConnectionError: it is a pool.
    """
    if isinstance(conn, asyncpg.Pool):
        raise UnsupportedConnectionError(NO_POOL)
    return AsyncpgDriver(conn)


class AsyncpgDriver:
    """Statements with numbered values, many rows of them in one round trip."""

    is_async: ClassVar[Literal[True]] = True
    errors: ClassVar[tuple[type[Exception], ...]] = (asyncpg.PostgresError, TimeoutError)

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return self._conn.is_in_transaction()

    async def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        # Some of many may have been inserted before one is found wrong.
        may_be_other = len(rows) > 1 and any(
            row[name] is not None for name in statement.literals for row in rows
        )
        try:
            async with self.atomic() if may_be_other else nullcontext():
                return await self._run(statement, rows)
        except asyncpg.DataError as error:
            if not (statement.literals and NUMBERED.search(str(error))):
                raise unsuitable_value(error, statement, rows) from error
        # asyncpg itself has refused it; PostgreSQL takes '7' for a number, and 7 for a text.
        try:
            async with self.atomic():
                [(call, values)] = calls(statement, rows, as_json=True)
                return [tuple(row) for row in await self._conn.fetch(call.numbered, values['rows'])]
        except asyncpg.DataError as error:
            raise unsuitable_value(error, statement, rows) from error

    async def _run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        values = [statement.in_order(row) for row in rows]
        if len(values) == 1:
            record = await self._conn.fetchrow(statement.numbered, *values[0])
            return [] if record is None else [tuple(record)]
        return [tuple(row) for row in await self._conn.fetchmany(statement.numbered, values)]

    def atomic(self) -> AbstractAsyncContextManager[Any]:
        """See SyncDriver.atomic."""
        return self._conn.transaction()
