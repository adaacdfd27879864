"""What keeps a server from answering, in words, and where it is, without the password."""

from urllib.parse import unquote, urlsplit

import asyncpg
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError

from fleet.troubles import Trouble


def place_of(url: str, default_port: int) -> str | None:
    """Return host:port/database of a URL, or None when a piece of the password may be in it.

    An unquoted / ? or # in a password ends the host's part early, and the rest has the @.
    """
    try:
        parts = urlsplit(url)
        _, _, hosts = parts.netloc.rpartition('@')
        port = parts.port if ',' not in hosts else None
    except ValueError:
        return None
    if '@' in parts.path + parts.query + parts.fragment:
        return None
    if parts.scheme == 'unix':
        return parts.path
    host = unquote(hosts) if ',' in hosts or port is not None else f'{unquote(hosts) or "localhost"}:{default_port}'
    return host + parts.path


def postgres_trouble(error: Exception, place: str | None) -> Trouble:
    """Name what keeps PostgreSQL from answering, and the remedy."""
    if place is None:
        return unreadable('PostgreSQL', 'DATABASE_URL')
    what = str(error) or type(error).__name__
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            remedy = 'correct DB_USER and DB_PASSWORD, or DATABASE_URL'
        case asyncpg.InvalidCatalogNameError():
            remedy = 'create it, or correct DB_NAME, then run `python -m db.migrate`'
        case asyncpg.InsufficientPrivilegeError():
            remedy = 'use a role that may do this'
        case asyncpg.QueryCanceledError():
            remedy = 'look for locks and load on the server, or raise DB_COMMAND_TIMEOUT_S'
        case asyncpg.PostgresConnectionError() | asyncpg.InterfaceError() | OSError():
            what = f'does not answer: {what}'
            remedy = 'start it, or correct DB_HOST and DB_PORT, or DATABASE_URL'
        case _:
            remedy = "look into the server's log"
    return Trouble(what, remedy, 'PostgreSQL', place)


def redis_trouble(error: Exception, place: str | None) -> Trouble:
    """Name what keeps Redis from answering, and the remedy."""
    if place is None:
        return unreadable('Redis', 'ARQ_REDIS_URL')
    what = str(error).rstrip('.') or type(error).__name__
    match error:
        case AuthenticationError():
            remedy = 'correct the user and the password in ARQ_REDIS_URL'
        case ResponseError() | AuthorizationError():
            remedy = 'check the database number and the rights of the user in ARQ_REDIS_URL'
        case _:
            what, remedy = f'does not answer: {what}', 'start it, or correct ARQ_REDIS_URL'
    return Trouble(what, remedy, 'Redis', place)


def unreadable(service: str, variable: str) -> Trouble:
    """Say that an address cannot be understood."""
    # Neither the address nor the driver's words are shown: they may hold a piece of the password.
    remedy = 'correct it; special characters in a password are written as %XX'
    return Trouble('cannot be understood', remedy, service, f'the address in {variable}')
