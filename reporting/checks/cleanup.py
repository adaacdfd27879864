"""What the duties may delete, and what keeps them from it."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import asyncpg

from db.checkup import read_worker_role
from db.origins import was_adopted
from db.references import Reference, read_references
from db.retention import OUTBOUND_EMAILS_SQL
from db.sessions import find_problems
from reporting.checks.finding import Finding, note, warning
from reporting.servers import Servers


async def check(
    servers: Servers, session_tables: Collection[str], *, is_retention_given: bool
) -> list[Finding]:
    """Look at the retention, the tables it is for, and those that refer to them.

    Args:
        session_tables: CLEANUP_SESSION_TABLES.
        is_retention_given: Whether EMAIL_RETENTION_DAYS is set by somebody.
    """
    # Operators have other rights than the workers, which clean.
    role = await servers.ask_postgres(read_worker_role)
    problems = await servers.ask_postgres(partial(find_problems, named=session_tables, role=role))
    found = [
        warning(f'cleanup_old_sessions: {what}', 'correct it, or CLEANUP_SESSION_TABLES')
        for what in problems
    ]
    if not is_retention_given and await servers.ask_postgres(was_adopted):
        found.append(
            note(
                'outbound_emails was there before this program: nothing is deleted from it',
                'set EMAIL_RETENTION_DAYS when old e-mails may go',
            )
        )
    references = await servers.ask_postgres(partial(_read_references, role=role))
    return [*found, *judge_references(references)]


async def _read_references(pool: asyncpg.Pool, role: str | None) -> list[Reference]:
    return await read_references(pool, await pool.fetchval(OUTBOUND_EMAILS_SQL), role)


def judge_references(references: Sequence[Reference]) -> Iterator[Finding]:
    """Judge the foreign keys to outbound_emails."""
    for reference in references:
        if reference.holds is None and not reference.refuses:
            what = (
                f'{reference.table} refers to outbound_emails ({reference.name}), '
                'and this role may not read it'
            )
            yield warning(
                f'{what}: no e-mail is deleted', f'GRANT SELECT ON {reference.table} to the worker'
            )
        if not reference.is_indexed:
            what = (
                f'{reference.table} refers to outbound_emails ({reference.name}) without an index'
            )
            yield note(
                f'{what}: each e-mail that is deleted reads it whole',
                'CREATE INDEX CONCURRENTLY on its columns',
            )
