"""Which schema this version of the code needs, and whether a database has it."""

from pathlib import Path

import asyncpg

from db.adoption.phases import AdoptionPhase, read_phase

MIGRATIONS_DIR = Path(__file__).parent / 'migrations'

APPLIED_SQL = 'SELECT migration_id FROM public._pogo_migration'
HAS_VIEW_SQL = "SELECT to_regclass('mail_outbox') IS NOT NULL"


class SchemaMismatchError(Exception):
    """The database's schema is older or newer than this program."""


def known_migrations() -> set[str]:
    """Return the ids (file names without ending) of the migrations this version ships."""
    return {path.stem for path in MIGRATIONS_DIR.glob('*.sql')}


async def check_schema(pool: asyncpg.Pool) -> None:
    """Refuse a database that this version must not touch.

    Raises:
        SchemaMismatchError: names the migrations that are missing or unknown, and the remedy.
    """
    try:
        applied = {row['migration_id'] for row in await pool.fetch(APPLIED_SQL)}
    except asyncpg.UndefinedTableError:
        applied = set()
    if missing := known_migrations() - applied:
        raise SchemaMismatchError(
            f'the database schema is older than this program: {", ".join(sorted(missing))} not '
            'applied; '
            'run `python -m db.migrate`'
        )
    if unknown := applied - known_migrations():
        raise SchemaMismatchError(
            f'the database schema is newer than this program: it has {", ".join(sorted(unknown))}; '
            'install the version of this program that belongs to it'
        )
    if not await pool.fetchval(HAS_VIEW_SQL) or await read_phase(pool) is AdoptionPhase.EXPANDING:
        raise SchemaMismatchError(
            'the database schema is older than this program: its outbound_emails is not adopted, '
            'or not to the end; '
            'run `python -m db.migrate`'
        )
