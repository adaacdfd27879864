"""What PostgreSQL's errors mean.

Whether waiting helps, and whose they are: the statement's or the connection's.
"""

import re
import ssl
from enum import StrEnum
from typing import Any

import asyncpg

# PostgreSQL cannot be reached, or cannot work now: the same statement may pass later, on another
# connection.
DATABASE_DOWN = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ended in the middle of a statement
    # Deadlock or serialization failure: the same statement may pass next time.
    asyncpg.TransactionRollbackError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    # Somebody dropped the session's prepared statements: a pooler, or a program behind it.
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidCachedStatementError,
)

# The server has changed: every connection of ours is as good as this one.
_SERVER_CHANGED = (
    # A standby now, or opened while the database was set read-only.
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
)

# This connection is done for, whatever the next statement is.
_CONNECTION_SPOILT = (
    *_SERVER_CHANGED,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.InvalidCachedStatementError,
)

# pgbouncer has one SQLSTATE, 08P01, for all it has to say; by its words, what waiting does not
# heal.
_POOLER_REFUSES = re.compile(
    r'unsupported startup parameter|no such (user|database)|auth(entication)? failed|not allowed'
    r'|transaction blocks not allowed|wrong password|bouncer config error'
    r'|TLS required|SSL required',
    re.IGNORECASE,
)
STATEMENT_POOLING = 'transaction blocks not allowed'


class ErrorKind(StrEnum):
    """What to make of an error."""

    UNREACHABLE = 'unreachable'  # heals by itself, or when the server is back
    LIMIT = 'limit'  # the server works; this statement took too long
    REFUSED = 'refused'  # waiting does not help: somebody has to change something


def kind_of(error: BaseException) -> ErrorKind:
    """Tell what an error of a connection or a statement means."""
    match error:
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return ErrorKind.LIMIT
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidCatalogNameError():
            return ErrorKind.REFUSED
        case asyncpg.PostgresConnectionError():
            return (
                ErrorKind.REFUSED if _POOLER_REFUSES.search(str(error)) else ErrorKind.UNREACHABLE
            )
        case (
            asyncpg.UnsupportedServerFeatureError()
            | asyncpg.UnsupportedClientFeatureError()
            | ValueError()
        ):
            # Also an address that makes no sense, and an argument that its type does not take.
            return ErrorKind.REFUSED
        case (
            ssl.SSLCertVerificationError() | asyncpg.UndefinedFileError()
        ):  # an extension's library
            return ErrorKind.REFUSED
        case OSError(filename=str()):  # a file that the address names
            return ErrorKind.REFUSED
        case ConnectionError() if 'rejected SSL upgrade' in str(error):
            return ErrorKind.REFUSED
    return ErrorKind.UNREACHABLE if isinstance(error, DATABASE_DOWN) else ErrorKind.REFUSED


def is_spoilt(error: BaseException) -> bool:
    """Whether an error belongs to its connection, which is to be dropped.

    Else it belongs to the statement.
    """
    return isinstance(error, _CONNECTION_SPOILT)


def server_changed(error: BaseException) -> bool:
    """Whether an error concerns all connections to the server."""
    return isinstance(error, _SERVER_CHANGED)


def words_of(error: BaseException) -> str:
    """Return what happened, in one line, with the remedy where there is one."""
    said = str(error).partition('\n')[0] or type(error).__name__
    if isinstance(error, TimeoutError):
        return f'no answer in time: {said}'
    match kind_of(error):
        case ErrorKind.LIMIT:
            return f'a statement ran into its time limit: {said}; see DB_COMMAND_TIMEOUT_S'
        case ErrorKind.REFUSED:
            return f'PostgreSQL refuses: {said}; {remedy_of(error)}'
        case _:
            return said


def remedy_of(error: BaseException) -> str:
    """Say what somebody has to do about an error that waiting does not heal."""
    said = str(error)
    match error:
        case asyncpg.InvalidCatalogNameError():
            return 'create it, or correct DB_NAME or DATABASE_URL, then run `python -m db.migrate`'
        case asyncpg.InvalidAuthorizationSpecificationError():
            return 'correct DB_USER and DB_PASSWORD, or DATABASE_URL'
        case asyncpg.PostgresConnectionError() if STATEMENT_POOLING in said:
            return (
                "set the pooler's pool_mode to transaction or session, or name another port in "
                'DATABASE_URL'
            )
        case asyncpg.ProtocolViolationError() if 'startup parameter' in said:
            return (
                'leave it out of DATABASE_URL, or list it in ignore_startup_parameters of pgbouncer'
            )
        case asyncpg.PostgresConnectionError() | ssl.SSLError() | OSError() | ValueError():
            return 'correct DATABASE_URL, or DB_HOST, DB_USER, DB_PASSWORD and DB_NAME'
        case asyncpg.FeatureNotSupportedError() if 'DATABASE_DIRECT_URL' in said:
            return 'it names the server itself, with the port of PostgreSQL'
        case asyncpg.InsufficientPrivilegeError():
            return 'use a role that may do this in DATABASE_URL or DB_USER'
        case (
            asyncpg.UndefinedObjectError()
            | asyncpg.InvalidParameterValueError()
            | asyncpg.CantChangeRuntimeParamError()
        ):
            return 'correct the options of DATABASE_URL'
    return (
        'see whether DATABASE_URL or DB_NAME names the right database, and `python -m db.migrate` '
        'has run'
    )


DATABASE_EVENTS = {
    ErrorKind.UNREACHABLE: 'postgresql.unreachable',
    ErrorKind.LIMIT: 'postgresql.time_limit',
    ErrorKind.REFUSED: 'postgresql.refused',
}


def log_error(log: Any, what: str, error: BaseException, **fields: Any) -> None:
    """Log that something has to wait, or cannot go on, because of PostgreSQL.

    Args:
        log: A structlog logger.
        what: What waits, such as 'sweep'; the field `during`.
    """
    kind = kind_of(error)
    level = log.error if kind is ErrorKind.REFUSED else log.warning
    level(DATABASE_EVENTS[kind], during=what, error=words_of(error), **fields)
