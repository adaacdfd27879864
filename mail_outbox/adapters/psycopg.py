"""psycopg 3: a Connection or an AsyncConnection."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, ClassVar, Literal

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.quota import quota_refusal
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Answer, calls, unsuitable_value


def adapt(conn: Any) -> 'PsycopgDriver | AsyncPsycopgDriver':
    """Return how statements are run on it.

    Raises:
        UnsupportedConnectionError: it is a cursor, for example.
    """
    if isinstance(conn, psycopg.AsyncConnection):
        return AsyncPsycopgDriver(conn)
    if isinstance(conn, psycopg.Connection):
        return PsycopgDriver(conn)
    raise UnsupportedConnectionError(
        f'conn: a {type(conn).__name__} of psycopg is no connection: give its connection'
    )


@lru_cache(maxsize=64)
def _sql(statement: Statement) -> bytes:
    # Bytes: psycopg takes text for SQL only where a type checker can see that it is a constant.
    return statement.written(lambda name: f'%({name})s').encode()


def _begins_with_its_next_statement(
    conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> bool:
    """Tell whether the caller's transaction has yet to begin.

    Then psycopg's transaction() would be all of it, and commit at its end.
    """
    return not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE


class PsycopgDriver:
    """Statements with named values; many rows go as one value.

    The cursor is of psycopg's own class: an application may have chosen one with other placeholders
    or rows.
    """

    is_async: ClassVar[Literal[False]] = False
    errors: ClassVar[tuple[type[Exception], ...]] = (psycopg.Error,)

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return self._conn.info.transaction_status is not TransactionStatus.IDLE

    def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        found: Answer = []
        try:
            with psycopg.Cursor(self._conn, row_factory=tuple_row) as cursor:
                for call, values in calls(statement, rows):
                    cursor.execute(_sql(call), values)
                    found += cursor.fetchall() if call.returns else ()
        except psycopg.DataError as error:
            raise unsuitable_value(error, statement, rows) from error
        except psycopg.DatabaseError as error:
            raise quota_refusal(error) or error from error
        return found

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """See SyncDriver.atomic."""
        if _begins_with_its_next_statement(self._conn):
            self._conn.execute('SELECT')
        with self._conn.transaction():
            yield


class AsyncPsycopgDriver:
    """The same, awaited."""

    is_async: ClassVar[Literal[True]] = True
    errors: ClassVar[tuple[type[Exception], ...]] = (psycopg.Error,)

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return self._conn.info.transaction_status is not TransactionStatus.IDLE

    async def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        found: Answer = []
        try:
            async with psycopg.AsyncCursor(self._conn, row_factory=tuple_row) as cursor:
                for call, values in calls(statement, rows):
                    await cursor.execute(_sql(call), values)
                    found += await cursor.fetchall() if call.returns else ()
        except psycopg.DataError as error:
            raise unsuitable_value(error, statement, rows) from error
        except psycopg.DatabaseError as error:
            raise quota_refusal(error) or error from error
        return found

    @asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """See SyncDriver.atomic."""
        if _begins_with_its_next_statement(self._conn):
            await self._conn.execute('SELECT')
        async with self._conn.transaction():
            yield
