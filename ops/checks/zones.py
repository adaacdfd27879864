"""Times without a zone in an application's table: who writes them on which clocks."""

import asyncpg

from db.zones import compare_zones
from ops.answer import TroubleError
from ops.checks.finding import Finding, Severity
from ops.connect import Connections, first_connection
from reporting.unreachable import place_of, postgres_trouble


async def check(connections: Connections) -> list[Finding]:
    """Compare what sessions, columns and DB_NAIVE_TIMEZONE say."""
    settings = connections.settings
    conn = None
    try:
        # One that asks for no TimeZone: what it has is the server's.
        connecting = asyncpg.connect(
            settings.postgres_dsn,
            timeout=settings.db_connect_timeout_s,
            command_timeout=settings.db_command_timeout_s,
        )
        conn = await first_connection(settings, connecting)
        found = await compare_zones(conn, settings.db_naive_timezone)
    except asyncpg.UndefinedTableError:  # others say so
        return []
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise TroubleError(
            postgres_trouble(error, place_of(settings.postgres_dsn, 5432))
        ) from error
    finally:
        if conn is not None:
            conn.terminate()
    return [Finding(Severity(one.severity), one.what, one.remedy) for one in found]
