"""What keeps a server from answering, in words, and where it is, without the password."""

import asyncpg
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    ResponseError,
)

from db.errors import ErrorKind, kind_of, remedy_of
from reporting.problems import Problem


def postgres_problem(error: Exception, place: str | None) -> Problem:
    """Name what keeps PostgreSQL from answering, and the remedy."""
    if place is None:
        return unreadable('PostgreSQL', 'DATABASE_URL')
    what = str(error) or type(error).__name__
    match kind_of(error):
        case ErrorKind.LIMIT:
            what = f'a statement ran into its time limit: {what}'
            remedy = 'look for locks and load on the server, or raise DB_COMMAND_TIMEOUT_S'
        case ErrorKind.REFUSED:
            remedy = remedy_of(error)
        case _ if isinstance(
            error, asyncpg.PostgresConnectionError | asyncpg.InterfaceError | OSError
        ):
            what = f'does not answer: {what}'
            remedy = 'start it, or correct DB_HOST and DB_PORT, or DATABASE_URL'
        case _:
            remedy = "look into the server's log"
    return Problem(what, remedy, 'PostgreSQL', place)


def redis_problem(error: Exception, place: str | None) -> Problem:
    """Name what keeps Redis from answering, and the remedy."""
    if place is None:
        return unreadable('Redis', 'ARQ_REDIS_URL')
    what = str(error).rstrip('.') or type(error).__name__
    match error:
        case AuthenticationError():
            remedy = 'correct the user and the password in ARQ_REDIS_URL'
        case NoPermissionError():
            remedy = (
                'ask as the user email-operator (docs/deployment.md, Operators), '
                'or give the one in ARQ_REDIS_URL the right'
            )
        case ResponseError() | AuthorizationError():
            remedy = 'check the database number and the rights of the user in ARQ_REDIS_URL'
        case _:
            what, remedy = f'does not answer: {what}', 'start it, or correct ARQ_REDIS_URL'
    return Problem(what, remedy, 'Redis', place)


def mongo_problem(error: Exception, place: str | None) -> Problem:
    """Name what keeps MongoDB from answering, and the remedy."""
    if place is None:
        return unreadable('MongoDB', 'MONGODB_URL')
    what = str(error).partition(' (configured timeouts')[0].partition(', Timeout:')[0][:200]
    return Problem(f'does not answer: {what}', 'start it, or correct MONGODB_URL', 'MongoDB', place)


def unreadable(service: str, variable: str) -> Problem:
    """Say that an address cannot be understood."""
    # Neither the address nor the driver's words are shown: they may hold a piece of the password.
    remedy = 'correct it; special characters in a password are written as %XX'
    return Problem('cannot be understood', remedy, service, f'the address in {variable}')
