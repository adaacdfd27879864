"""SQLAlchemy 2: Session, Connection, AsyncSession, AsyncConnection, and scoped sessions.

Statements go through SQLAlchemy, never to the driver below it: that one has no transaction open
until SQLAlchemy begins one, and would commit at once.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import lru_cache
from typing import Any, ClassVar, Literal

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.types import NULLTYPE

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.envelope import InvalidEmailError
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Answer, calls


def adapt(conn: Any) -> 'SqlalchemyDriver | AsyncSqlalchemyDriver':
    """Return how statements are run on it.

    Raises:
        UnsupportedConnectionError: it is an engine, for example, or its database is another than
            PostgreSQL.
    """
    if isinstance(conn, async_scoped_session | scoped_session):
        conn = conn()  # of this task or thread
    if isinstance(conn, AsyncSession | AsyncConnection):
        _refuse_other_database(conn)
        return AsyncSqlalchemyDriver(conn)
    if isinstance(conn, Session | Connection):
        _refuse_other_database(conn)
        return SqlalchemyDriver(conn)
    raise UnsupportedConnectionError(
        f'conn: {type(conn).__name__} of SQLAlchemy has no transaction: give a session or a'
        ' connection'
    )


def _refuse_other_database(conn: Any) -> None:
    dialect = (conn.get_bind() if hasattr(conn, 'get_bind') else conn).dialect.name
    if dialect != 'postgresql':
        raise UnsupportedConnectionError(
            f'conn: the outbox is in PostgreSQL, and this is a connection to {dialect}'
        )


@lru_cache(maxsize=64)
def _clause(statement: Statement) -> TextClause:
    # Without a type of SQLAlchemy's: PostgreSQL knows what its columns want, text or uuid.
    values = (bindparam(name, type_=NULLTYPE) for name in statement.parameters)
    return text(statement.written(lambda name: f':{name}')).bindparams(*values)


def _rows(result: Any) -> Answer:
    return [tuple(row) for row in result] if result.returns_rows else []


def _unsuitable(error: DBAPIError) -> InvalidEmailError | None:
    """Return what an application can correct: a value that is not of its column's type."""
    orig = error.orig
    state = getattr(orig, 'sqlstate', None) or getattr(orig, 'pgcode', None) or ''
    return InvalidEmailError(str(orig)) if state.startswith('22') else None


class SqlalchemyDriver:
    """Statements with named values; many rows go as one value."""

    is_async: ClassVar[Literal[False]] = False
    errors: ClassVar[tuple[type[Exception], ...]] = (SQLAlchemyError,)

    def __init__(self, conn: Session | Connection) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return self._conn.in_transaction()

    def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        found: Answer = []
        try:
            for call, values in calls(statement, rows):
                found += _rows(self._conn.execute(_clause(call), values))
        except DBAPIError as error:
            if unsuitable := _unsuitable(error):
                raise unsuitable from error
            raise
        return found

    def atomic(self) -> AbstractContextManager[Any]:
        """See SyncDriver.atomic."""
        return self._conn.begin_nested()


class AsyncSqlalchemyDriver:
    """The same, awaited."""

    is_async: ClassVar[Literal[True]] = True
    errors: ClassVar[tuple[type[Exception], ...]] = (SQLAlchemyError,)

    def __init__(self, conn: AsyncSession | AsyncConnection) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return self._conn.in_transaction()

    async def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        found: Answer = []
        try:
            for call, values in calls(statement, rows):
                found += _rows(await self._conn.execute(_clause(call), values))
        except DBAPIError as error:
            if unsuitable := _unsuitable(error):
                raise unsuitable from error
            raise
        return found

    def atomic(self) -> AbstractAsyncContextManager[Any]:
        """See SyncDriver.atomic."""
        return self._conn.begin_nested()
