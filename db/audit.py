"""Who changed what, from where and when.

A change is written down before it is made and completed after it, as an attempt is: when PostgreSQL
does not take the first, nothing is changed, and one without finished_at was cut off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from db.times import Row, rows_of


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change."""

    name: str  # a token's name, or a person's login
    origin: str  # an address, or the host where a command was typed
    token_id: int | None = None


BEGIN_AUDIT_SQL = """
INSERT INTO mail_audit (actor, token_id, origin, action, details) VALUES ($1, $2, $3, $4, $5)
RETURNING id
"""


async def begin_audit(
    pool: asyncpg.Pool, actor: Actor, action: str, details: Mapping[str, Any]
) -> int:
    """Write down what is about to be done. Returns the entry's id.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    entry: int = await pool.fetchval(
        BEGIN_AUDIT_SQL, actor.name, actor.token_id, actor.origin, action, dict(details)
    )
    return entry


FINISH_AUDIT_SQL = """
UPDATE mail_audit SET finished_at = now(), email_ids = $2, problem = $3
WHERE id = $1 AND finished_at IS NULL
"""


async def finish_audit(
    pool: asyncpg.Pool, entry: int, email_ids: Sequence[int] = (), problem: str | None = None
) -> None:
    """Complete an entry.

    Args:
        email_ids: What was changed.
        problem: What ended it early.
    """
    await pool.execute(FINISH_AUDIT_SQL, entry, list(email_ids), problem)


ADD_AUDIT_SQL = """
INSERT INTO mail_audit (actor, origin, action, details, email_ids, problem, finished_at)
VALUES ($1, $2, $3, $4, $5, $6, now())
"""


async def add_audit(
    pool: asyncpg.Pool,
    actor: Actor,
    action: str,
    details: Mapping[str, Any],
    email_ids: Sequence[int],
    problem: str | None,
) -> None:
    """Write down what was done."""
    await pool.execute(
        ADD_AUDIT_SQL, actor.name, actor.origin, action, dict(details), list(email_ids), problem
    )


READ_AUDIT_SQL = """
SELECT id, at, actor, token_id, origin, action, details, email_ids, finished_at, problem
FROM mail_audit
WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::text IS NULL OR actor = $2)
  AND ($3::bigint IS NULL OR $3 = ANY(email_ids))
ORDER BY id DESC LIMIT $4
"""


async def read_audit(
    pool: asyncpg.Pool,
    *,
    since: Any = None,
    actor: str | None = None,
    email_id: int | None = None,
    limit: int,
) -> list[Row]:
    """Return entries, the newest first."""
    return rows_of(await pool.fetch(READ_AUDIT_SQL, since, actor, email_id, limit))


REMOVE_AUDIT_SQL = "DELETE FROM mail_audit WHERE at < now() - $1 * interval '1 day'"


async def remove_old_audit(pool: asyncpg.Pool, days: float) -> None:
    """Delete what is older than this."""
    await pool.execute(REMOVE_AUDIT_SQL, days)
