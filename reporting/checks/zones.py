"""Times without a zone in an application's table: who writes them on which clocks."""

import asyncpg

from db.zones import compare_zones
from engine.urls import place_of
from reporting.checks.finding import Finding, Severity
from reporting.problems import ProblemError
from reporting.servers import Servers, first_connection
from reporting.unreachable import postgres_problem


async def check(servers: Servers) -> list[Finding]:
    """Compare what sessions, columns and DB_NAIVE_TIMEZONE say."""
    addresses = servers.addresses
    conn = None
    try:
        # One that asks for no TimeZone: what it has is the server's.
        connecting = asyncpg.connect(
            addresses.postgres_dsn,
            timeout=addresses.postgres_connect_timeout_s,
            command_timeout=addresses.postgres_command_timeout_s,
        )
        conn = await first_connection(addresses, connecting)
        found = await compare_zones(conn, addresses.naive_timezone)
    except asyncpg.UndefinedTableError:  # others say so
        return []
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ProblemError(
            postgres_problem(error, place_of(addresses.postgres_dsn, 5432))
        ) from error
    finally:
        if conn is not None:
            conn.terminate()
    return [Finding(Severity(one.severity), one.what, one.remedy) for one in found]
