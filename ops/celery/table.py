"""The table's side of an import: what it needs added, the take-over at the end, the way back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg

from db.adoption.columns import read_columns
from db.adoption.forecast import Expected, forecast
from db.adoption.locks import ReportProgress, TableBusyError
from db.adoption.phases import AdoptionPhase, read_phase
from db.adoption.plan import NotAdoptableError, Plan, is_adopted, plan
from db.adoption.takeover import WrongPhaseError, take_over
from db.adoption.undo import undo as undo_table
from db.import_requests import count_statuses
from db.migrate import ZONE_SQL, alone, connect_directly, migrate
from db.schema import APPLIED_SQL, known_migrations
from engine.urls import place_of
from ops.connect import Connections
from reporting.problems import USAGE, Problem, ProblemError
from reporting.servers import first_connection
from reporting.unreachable import postgres_problem
from settings import Settings

REFUSED = (NotAdoptableError, WrongPhaseError, TableBusyError)


@asynccontextmanager
async def raw_connection(connections: Connections) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection to a database whose schema may not be ours yet."""
    settings = connections.settings
    conn: Any = None
    try:
        connecting = connect_directly(settings.direct_dsn, settings.db_connect_timeout_s)
        conn = await first_connection(connections.addresses, connecting)
        await conn.execute(ZONE_SQL, settings.db_naive_timezone)
        yield conn
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ProblemError(postgres_problem(error, place_of(settings.direct_dsn, 5432))) from error
    finally:
        if conn is not None:
            conn.terminate()


async def look_at_schema(conn: asyncpg.Connection) -> tuple[list[str], dict[str, int] | None]:
    """Return the migrations that are missing, and the e-mails by status."""
    try:
        applied = {row['migration_id'] for row in await conn.fetch(APPLIED_SQL)}
    except asyncpg.UndefinedTableError:
        applied = set()
    if unknown := applied - known_migrations():
        what = (
            f'the database schema is newer than this program: it has {", ".join(sorted(unknown))}'
        )
        raise ProblemError(
            Problem(
                what, 'install the version of this program that belongs to it', exit_status=USAGE
            )
        )
    return sorted(known_migrations() - applied), await count_statuses(conn)


async def expand_table(
    conn: asyncpg.Connection, settings: Settings, progress: ReportProgress
) -> Plan | None:
    """Bring the schema up to this version, and add to an adopted table what it needs.

    Returns:
        What the adopted table is like; None when this program made it, or it is finished.
    Raises:
        ProblemError: why it cannot be; the message says what to do.
    """
    try:
        return await migrate(
            conn,
            settings.email_max_attempts,
            zone=settings.db_naive_timezone,
            progress=progress,
        )
    except REFUSED as error:
        raise ProblemError(Problem(str(error), 'nothing was taken from Celery')) from error
    except Exception as error:
        cause = error.__cause__ or error
        remedy = (
            getattr(cause, 'hint', None)
            or 'nothing of this step was changed; correct it, then run this again'
        )
        raise ProblemError(Problem(f'{error}: {cause}', remedy)) from error


async def expected(conn: asyncpg.Connection, settings: Settings) -> Sequence[Expected]:
    """Say what the take-over will make of the e-mails that no message is about.

    It only reads; there are none when the take-over is done.

    Raises:
        ProblemError: the table cannot be adopted.
    """
    if not await is_adopted(conn) or await read_phase(conn) is AdoptionPhase.TAKEN_OVER:
        return []
    try:
        async with alone(conn, settings.db_naive_timezone):
            planned = await plan(
                conn, zone=settings.db_naive_timezone, max_attempts=settings.email_max_attempts
            )
            return await forecast(
                conn, await read_columns(conn), planned.form, _hold_after(settings)
            )
    except REFUSED as error:
        raise ProblemError(Problem(str(error), 'see docs/migration.md')) from error


async def take_over_table(
    conn: asyncpg.Connection,
    plan: Plan,
    settings: Settings,
    problems: list[Problem],
    progress: ReportProgress,
) -> dict[str, int] | None:
    """Take over the other system's e-mails, unless that is done.

    Returns how many came into which state.
    """
    if await read_phase(conn) is not AdoptionPhase.SHARED:
        return None
    try:
        async with alone(conn, settings.db_naive_timezone):
            return await take_over(
                conn, plan.form, hold_after=_hold_after(settings), progress=progress
            )
    except (*REFUSED, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        problems.append(Problem(f'the table was not taken over: {error}', 'run this again'))
        return None
    except ProblemError as error:  # somebody ended it: what was taken is told
        problems.append(error.problem)
        return None


async def give_back(
    conn: asyncpg.Connection, settings: Settings, progress: ReportProgress
) -> dict[str, int] | None:
    """Undo the adoption of the table.

    Returns how many e-mails were given back; None when it is not adopted.

    Raises:
        ProblemError: it is finished, or somebody holds it.
    """
    if await read_phase(conn) is None:
        return None
    try:
        async with alone(conn, settings.db_naive_timezone):
            planned = await plan(
                conn, zone=settings.db_naive_timezone, max_attempts=settings.email_max_attempts
            )
            return await undo_table(conn, planned.form, progress)
    except REFUSED as error:
        raise ProblemError(
            Problem(str(error), 'the messages were put back; correct it, then run this again')
        ) from error


def _hold_after(settings: Settings) -> timedelta:
    return timedelta(hours=settings.adoption_hold_after_hours)
