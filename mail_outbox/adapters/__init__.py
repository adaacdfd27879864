"""Connections of each driver, made alike: what an application has is what it gives.

Each module is loaded when the first connection of its driver comes.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from mail_outbox.steps import AsyncDriver, SyncDriver

DRIVERS = ('asyncpg', 'sqlalchemy', 'psycopg', 'django')
WANTED = (
    'a connection of asyncpg or psycopg 3, a session or connection of SQLAlchemy, or the connection'
    ' of Django'
)


class UnsupportedConnectionError(TypeError):
    """What was given is no connection that an e-mail can be queued on; the message says why."""


# In an application's tests, what stands in for every connection: see mail_outbox.pytest_plugin.
stand_in: Callable[[Any], SyncDriver | AsyncDriver] | None = None


def driver_of(conn: Any) -> SyncDriver | AsyncDriver:
    """Return how statements are run on a connection of the application's.

    Raises:
        UnsupportedConnectionError: names its type, and what is wanted.
    """
    return real_driver_of(conn) if stand_in is None else stand_in(conn)


def real_driver_of(conn: Any) -> SyncDriver | AsyncDriver:
    """Return the same, whatever stands in."""
    kind: Any = type(conn)
    adapt = _adapter_of(kind)
    if adapt is None:
        raise UnsupportedConnectionError(
            f'conn: {kind.__module__}.{kind.__qualname__} is not {WANTED}'
        )
    return adapt(conn)


@lru_cache(maxsize=256)
def _adapter_of(kind: Any) -> Callable[[Any], SyncDriver | AsyncDriver] | None:
    """Return what adapts a class, or one it is made from: applications subclass sessions."""
    roots = (base.__module__.partition('.')[0] for base in kind.__mro__)
    name = next((root for root in roots if root in DRIVERS), None)
    if name is None:
        return None
    adapt: Callable[[Any], SyncDriver | AsyncDriver] = import_module(f'{__name__}.{name}').adapt
    return adapt
