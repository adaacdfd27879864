"""Django: `django.db.connection`, or one of `django.db.connections`.

As the ORM has it: inside `transaction.atomic()` the e-mail belongs to that transaction, outside of
it each statement commits at once.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, ClassVar, Literal

from django.db import transaction
from django.db.utils import DatabaseError, DataError

from mail_outbox.adapters import UnsupportedConnectionError
from mail_outbox.quota import quota_refusal
from mail_outbox.statement import Row, Statement
from mail_outbox.steps import Answer, calls, unsuitable_value


def adapt(conn: Any) -> 'DjangoDriver':
    """Return how statements are run on it.

    Raises:
        UnsupportedConnectionError: it is no connection, or its database is another than PostgreSQL.
    """
    vendor = getattr(conn, 'vendor', None)
    if vendor is None:
        raise UnsupportedConnectionError(
            f'conn: {type(conn).__name__} of Django is no connection: give django.db.connection'
        )
    if vendor != 'postgresql':
        raise UnsupportedConnectionError(
            f'conn: the outbox is in PostgreSQL, and this is a connection to {vendor}'
        )
    return DjangoDriver(conn)


@lru_cache(maxsize=64)
def _sql(statement: Statement) -> str:
    return statement.written(lambda name: f'%({name})s')


class DjangoDriver:
    """Statements with named values; many rows go as one value."""

    is_async: ClassVar[Literal[False]] = False
    errors: ClassVar[tuple[type[Exception], ...]] = (DatabaseError,)

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    @property
    def in_transaction(self) -> bool:
        """See SyncDriver.in_transaction."""
        return bool(self._conn.in_atomic_block)

    def run(self, statement: Statement, rows: Sequence[Row]) -> Answer:
        """See SyncDriver.run."""
        found: Answer = []
        try:
            with self._conn.cursor() as cursor:
                for call, values in calls(statement, rows):
                    cursor.execute(_sql(call), values)
                    if cursor.description:
                        found += map(tuple, cursor.fetchall())
        except DataError as error:
            raise unsuitable_value(error, statement, rows) from error
        except DatabaseError as error:
            raise quota_refusal(error) or error from error
        return found

    def atomic(self) -> AbstractContextManager[Any]:
        """See SyncDriver.atomic."""
        atomic: AbstractContextManager[Any] = transaction.atomic(using=self._conn.alias)
        return atomic
