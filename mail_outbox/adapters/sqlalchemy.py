"""SQLAlchemy 2: Session, Connection, AsyncSession, AsyncConnection, and scoped sessions.

Statements go through SQLAlchemy, never to the driver below it: that one has no transaction open
until SQLAlchemy begins one, and would commit at once.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, ClassVar, Literal

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.types import NULLTYPE

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.quota import quota_refusal
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Answer, calls, has_literals, unsuitable_value

DATA_EXCEPTION = '22'  # the class of what PostgreSQL says of a value
NO_ENGINE = (
    'conn: the session has an engine for each class, and none of its own: give'
    " `session.connection(bind_arguments={'mapper': ...})` of the database that has the outbox"
)
AUTOCOMMIT = (
    'conn: its isolation level is AUTOCOMMIT, so a rollback would keep the e-mail: give one whose'
    " engine has none, or `engine.execution_options(isolation_level='READ COMMITTED')`"
)


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
    try:
        dialect = (conn.get_bind() if hasattr(conn, 'get_bind') else conn).dialect.name
    except UnboundExecutionError as error:
        raise UnsupportedConnectionError(NO_ENGINE) from error
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


def _refuse_autocommit(conn: Session | Connection) -> None:
    """Refuse a connection on which begin, commit and rollback are words without an effect."""
    connection = conn.connection() if isinstance(conn, Session) else conn
    if getattr(connection.connection.dbapi_connection, 'autocommit', False):
        raise UnsupportedConnectionError(AUTOCOMMIT)


def _said(error: BaseException | None) -> tuple[str, str]:
    """Return PostgreSQL's SQLSTATE and text, as each driver has them."""
    fields = next(iter(getattr(error, 'args', ())), None)
    if isinstance(fields, dict):  # pg8000
        return fields.get('C', ''), fields.get('M', '')
    state = getattr(error, 'sqlstate', None) or getattr(error, 'pgcode', None)  # psycopg2
    return state or '', str(error).strip()


def _run(conn: Session | Connection, statement: Statement, rows: Sequence[Row]) -> Answer:
    if statement.inserts:
        _refuse_autocommit(conn)
    found: Answer = []
    # Its dialects differ in what they take for which type: PostgreSQL alone judges.
    as_json = has_literals(statement, rows)
    try:
        for call, values in calls(statement, rows, as_json=as_json):
            found += _rows(conn.execute(_clause(call), values))
    except DBAPIError as error:
        state, said = _said(error.orig)
        if state.startswith(DATA_EXCEPTION):
            raise unsuitable_value(said, statement, rows) from error
        raise quota_refusal(error) or error from error
    return found


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
        return _run(self._conn, statement, rows)

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """See SyncDriver.atomic."""
        _refuse_autocommit(self._conn)
        with self._conn.begin_nested():
            yield


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
        return await self._conn.run_sync(_run, statement, rows)

    @asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """See SyncDriver.atomic."""
        await self._conn.run_sync(_refuse_autocommit)
        async with self._conn.begin_nested():
            yield
