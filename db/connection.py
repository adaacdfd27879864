"""A connection to PostgreSQL: a session of its own, or one that a pooler lends.

Such a pooler lends sessions for one transaction.

pgbouncer and its like refuse the parameters that a session starts with, or forget them silently,
and give two statements in a row to two sessions. There each statement travels in a transaction of
its own, which sets for itself what it needs: three round trips more, and nothing is left in a
session that belongs to somebody else.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import asyncpg
import structlog
from asyncpg.transaction import Transaction

from db.errors import is_spoilt, server_changed

log = structlog.get_logger()

T = TypeVar('T')

# What a pooler passes on by itself.
PASSED_ON = ('application_name', 'timezone')
REFUSED_PARAMETER = 'startup parameter'

# An answer in a word, without a statement to prepare: whether we talk to the process that greeted
# us, in our settings. A pooler greets with a process number of its own.
OWN_SESSION_QUESTION = 'SELECT WHERE pg_backend_pid() = {pid}'
AND_LIMIT_QUESTION = " AND current_setting('statement_timeout')::interval = '{limit_ms} ms'"
YES = 'SELECT 1'
ROLLBACK_TIMEOUT_S = 5.0  # of a task that was cancelled, maybe because the server does not answer

# A server's session that a pooler opened while the database was read-only stays so for an hour; it
# is between two of our statements, and nobody else's.
END_READ_ONLY_SESSION_SQL = """
SELECT pg_terminate_backend(pg_backend_pid())
WHERE current_setting('default_transaction_read_only') = 'on'
"""


class Connection(asyncpg.Connection):
    """A connection of asyncpg's that tells its pool of errors of its own.

    It works behind a pooler, too.

    Attributes:
        begin_sql: What begins a transaction behind a pooler; None in a session of our own.
        is_spoilt: Whether an error showed that the connection is of no more use.
    """

    begin_sql: str | None = None
    is_spoilt = False
    on_server_changed: Callable[[], Awaitable[None]] | None = None
    _begins = False

    @property
    def is_pooled(self) -> bool:
        """Whether there is a pooler between us and the server."""
        return self.begin_sql is not None

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().fetch, *args, **kwargs))

    async def fetchrow(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().fetchrow, *args, **kwargs))

    async def fetchval(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().fetchval, *args, **kwargs))

    async def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().fetchmany, *args, **kwargs))

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().execute, *args, **kwargs))

    async def executemany(self, *args: Any, **kwargs: Any) -> Any:
        """See asyncpg."""
        return await self._ask(partial(super().executemany, *args, **kwargs))

    def transaction(self, **kwargs: Any) -> Transaction:
        """See asyncpg; behind a pooler the transaction has our settings."""
        return _OwnSettings(self, **kwargs) if self.is_pooled else super().transaction(**kwargs)

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            if self.begin_sql is None or self._begins or self.is_in_transaction():
                return await ask()
            return await self._ask_in_transaction(ask, self.begin_sql)
        except Exception as error:
            await self._judge(error)
            if isinstance(error, asyncpg.InterfaceError) and type(error).__name__ == 'DataError':
                # An argument that does not fit: the statement's fault, not a connection's.
                raise asyncpg.DataError(str(error)) from error
            raise

    async def _ask_in_transaction(self, ask: Callable[[], Awaitable[T]], begin_sql: str) -> T:
        try:
            await super().execute(begin_sql)
            answer = await ask()
        except BaseException:
            await self._roll_back()
            raise
        await super().execute('COMMIT')
        return answer

    async def _roll_back(self) -> None:
        try:
            if not self.is_closed():
                await super().execute('ROLLBACK', timeout=ROLLBACK_TIMEOUT_S)
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ):
            self.is_spoilt = True

    async def _judge(self, error: Exception) -> None:
        if not is_spoilt(error):
            return
        if self.is_pooled and isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            await self._end_lent_session()
        self.is_spoilt = (
            True  # dropped when it is given back: until then, a transaction may want to roll back
        )
        if server_changed(error) and self.on_server_changed is not None:
            await self.on_server_changed()

    async def _end_lent_session(self) -> None:
        try:
            await super().execute(END_READ_ONLY_SESSION_SQL)
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            OSError,
        ):
            return  # it is gone, as we asked, or never was


class _OwnSettings(Transaction):
    """A transaction that makes our settings its own."""

    def __init__(
        self,
        connection: Connection,
        *,
        isolation: Any = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> None:
        super().__init__(connection, isolation, readonly, deferrable)
        self._ours = connection

    async def start(self) -> None:
        """See asyncpg."""
        is_outermost = not self._ours.is_in_transaction()
        self._ours._begins = True  # noqa: SLF001 - one thing in two classes
        try:
            await super().start()
        finally:
            self._ours._begins = False  # noqa: SLF001
        if is_outermost and self._ours.begin_sql is not None:
            await self._ours.execute(self._ours.begin_sql.removeprefix('BEGIN;'))


class Connector:
    """Opens connections with the settings of one pool, and recognises a pooler.

    Args:
        settings: Parameters of the session; by statement_timeout, in ms, we see whether the server
            has taken them.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = settings
        self.is_pooled = False
        self.pool: asyncpg.Pool | None = None

    async def connect(self, dsn: str | None = None, **options: Any) -> Any:
        """Open a connection; asyncpg.Pool calls it.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: see asyncpg; pooled by the
            statement is refused.
        """
        if not self.is_pooled:
            conn = await self._open_session(dsn, options)
            if conn is not None:
                return self._watched(conn)
        return self._watched(await self._open_pooled(dsn, options))

    async def _open_session(self, dsn: str | None, options: dict[str, Any]) -> Connection | None:
        """Return a session with our settings, or None when there is a pooler in between."""
        try:
            conn: Connection = await asyncpg.connect(
                dsn,
                **options
                | {'connection_class': Connection, 'server_settings': dict(self.settings)},
            )
        except asyncpg.ProtocolViolationError as error:
            if REFUSED_PARAMETER in str(error) and any(
                name in str(error) for name in self._own_parameters()
            ):
                return None
            raise
        try:
            question = OWN_SESSION_QUESTION.format(pid=conn.get_server_pid())
            question += AND_LIMIT_QUESTION.format(limit_ms=self.settings['statement_timeout'])
            if await conn.execute(question) == YES:
                return conn
        except BaseException:
            conn.terminate()
            raise
        conn.terminate()
        return None

    def _own_parameters(self) -> list[str]:
        return [name for name in self.settings if name not in PASSED_ON]

    async def _open_pooled(self, dsn: str | None, options: dict[str, Any]) -> Connection:
        own = {name: self.settings[name] for name in PASSED_ON if name in self.settings}
        without_session = {
            'connection_class': Connection,
            'server_settings': own,
            'statement_cache_size': 0,
        }
        conn: Connection = await asyncpg.connect(dsn, **options | without_session)
        try:
            assignments = ''.join(
                f"SET LOCAL {name}='{value}';" for name, value in self._set_by_us().items()
            )
            begin_sql = f'BEGIN;{assignments}'
            if not self.is_pooled:
                await conn.execute(begin_sql)  # a pooler by the statement refuses it
                await conn.execute('ROLLBACK')
                log.debug(
                    'postgresql.pooler_found', detail='each statement is a transaction of its own'
                )
                self.is_pooled = True
            conn.begin_sql = begin_sql
        except BaseException:
            conn.terminate()
            raise
        return conn

    def _set_by_us(self) -> dict[str, str]:
        return {name: value for name, value in self.settings.items() if name != 'application_name'}

    def _watched(self, conn: Connection) -> Connection:
        conn.on_server_changed = self._expire
        return conn

    async def _expire(self) -> None:
        if self.pool is not None:
            await self.pool.expire_connections()


async def keep_or_drop(conn: Any) -> None:
    """End a connection that is of no more use when it is given back to its pool.

    Others are left as they are.

    It saves the round trip with which asyncpg resets a session: nothing here changes one.
    """
    if conn.is_spoilt:
        conn.terminate()


async def is_pooled(conn: asyncpg.Connection) -> bool:
    """Whether there is a pooler between this connection and the server."""
    return bool(await conn.execute(OWN_SESSION_QUESTION.format(pid=conn.get_server_pid())) != YES)
