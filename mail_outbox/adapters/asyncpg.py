"""asyncpg: a connection, or what a pool's `acquire` gives."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal

import asyncpg

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.quota import quota_refusal
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import NUMBERED, Answer, calls, has_literals, unsuitable_value

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
        try:
            # Of many, some would be inserted before asyncpg finds one wrong; and a statement each
            # counts each against a quota, which takes ever longer in one transaction.
            if len(rows) > 1 and has_literals(statement, rows):
                return await self._run_as_json(statement, rows)
            return await self._run(statement, rows)
        except asyncpg.UnknownPostgresError as error:
            raise quota_refusal(error) or error from error
        except asyncpg.DataError as error:
            if len(rows) > 1 or not (statement.literals and NUMBERED.search(str(error))):
                raise unsuitable_value(error, statement, rows) from error
        # asyncpg itself has refused it; PostgreSQL takes '7' for a number, and 7 for a text.
        try:
            async with self.atomic():
                return await self._run_as_json(statement, rows)
        except asyncpg.UnknownPostgresError as error:
            raise quota_refusal(error) or error from error
        except asyncpg.DataError as error:
            raise unsuitable_value(error, statement, rows) from error

    async def _run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        values = [statement.in_order(row) for row in rows]
        if len(values) == 1:
            record = await self._conn.fetchrow(statement.numbered, *values[0])
            return [] if record is None else [tuple(record)]
        return [tuple(row) for row in await self._conn.fetchmany(statement.numbered, values)]

    async def _run_as_json(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        [(call, values)] = calls(statement, rows, as_json=True)
        return [tuple(row) for row in await self._conn.fetch(call.numbered, values['rows'])]

    def atomic(self) -> AbstractAsyncContextManager[Any]:
        """See SyncDriver.atomic."""
        return self._conn.transaction()
