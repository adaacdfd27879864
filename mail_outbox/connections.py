"""The connections that an application may give, as a type checker tells them apart.

No driver is imported: what is awaited to close a connection is awaited to queue on it, and what has
a transaction of its own is no pool and no engine.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class AsyncCloses(Protocol):
    """What is awaited."""

    @property
    def close(self) -> Callable[..., Coroutine[Any, Any, None]]:
        """A method that is awaited."""
        ...


class SyncCloses(Protocol):
    """What is not."""

    @property
    def close(self) -> Callable[..., None]:
        """A method that returns when it is done."""
        ...


class HasTransaction(Protocol):
    """A connection of asyncpg or psycopg."""

    @property
    def transaction(self) -> Callable[..., Any]:
        """A method that begins one, or a savepoint."""
        ...


class HasNested(Protocol):
    """A session or connection of SQLAlchemy."""

    @property
    def begin_nested(self) -> Callable[..., Any]:
        """A method that begins a savepoint."""
        ...


class HasSavepoint(Protocol):
    """A database wrapper of Django."""

    @property
    def savepoint(self) -> Callable[..., Any]:
        """A method that begins a savepoint."""
        ...


class ConnectionProxy(Protocol):
    """`django.db.connection`, which passes everything on."""

    def __getattr__(self, item: str) -> Any:
        """Return an attribute of the thread's connection."""
        ...


class AsyncDriverConnection(AsyncCloses, HasTransaction, Protocol):
    """Of asyncpg and psycopg."""


class AsyncSqlalchemyConnection(AsyncCloses, HasNested, Protocol):
    """AsyncSession, AsyncConnection, async_scoped_session."""


class SyncDriverConnection(SyncCloses, HasTransaction, Protocol):
    """Of psycopg."""


class SyncSqlalchemyConnection(SyncCloses, HasNested, Protocol):
    """Session, Connection, scoped_session."""


class DjangoConnection(SyncCloses, HasSavepoint, Protocol):
    """`django.db.connections['default']`."""


AsyncConnection = AsyncDriverConnection | AsyncSqlalchemyConnection
SyncConnection = SyncDriverConnection | SyncSqlalchemyConnection | DjangoConnection
AnySyncConnection = SyncConnection | ConnectionProxy
