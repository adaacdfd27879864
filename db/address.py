"""Addresses of PostgreSQL, as asyncpg reads them."""

from asyncpg import connect_utils

# What asyncpg takes besides the address: nothing is given.
PARAMETERS = (
    'host port user password passfile database ssl service servicefile direct_tls'
    ' server_settings target_session_attrs krbsrvname gsslib'
)


def check_postgres_url(url: str) -> None:
    """Read an address of PostgreSQL as asyncpg will.

    Args:
        url:
            postgresql://user:password@host:port,host:port/database?target_session_attrs=read-write,
            for example.
    Raises:
        ValueError: it makes no sense; the message has no piece of it but the name of a file that
            cannot be read.
    """
    try:
        connect_utils._parse_connect_dsn_and_args(dsn=url, **dict.fromkeys(PARAMETERS.split()))  # type: ignore[attr-defined]  # noqa: SLF001
    except OSError as error:
        raise ValueError(
            f'{error.filename or "a certificate file"} that it names cannot be read'
        ) from None
    except Exception:  # noqa: BLE001 - asyncpg has no error of its own for each; its words may hold the password
        raise ValueError('its hosts, ports or options make no sense') from None
