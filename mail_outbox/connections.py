"""The connections that an application may give, as a type checker tells them apart.

No driver is imported: what is awaited to close a connection is awaited to queue on it.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol


class AsyncConnection(Protocol):
    """Of asyncpg a connection, of SQLAlchemy AsyncSession and AsyncConnection, of psycopg too."""

    @property
    def close(self) -> Callable[..., Coroutine[Any, Any, None]]:
        """A method that is awaited."""
        ...


class SyncConnection(Protocol):
    """Session and Connection of SQLAlchemy, Connection of psycopg, Django's database wrapper."""

    @property
    def close(self) -> Callable[..., None]:
        """A method that returns when it is done."""
        ...


class ConnectionProxy(Protocol):
    """`django.db.connection`, which passes everything on."""

    def __getattr__(self, item: str) -> Any:
        """Return an attribute of the thread's connection."""
        ...


AnySyncConnection = SyncConnection | ConnectionProxy
