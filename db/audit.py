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
INSERT INTO mail_audit (actor, token_id, origin, action, details, request_key)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (request_key) WHERE request_key IS NOT NULL DO NOTHING RETURNING id
"""


async def begin_audit(
    pool: asyncpg.Pool,
    actor: Actor,
    action: str,
    details: Mapping[str, Any],
    request_key: str | None = None,
) -> int | None:
    """Write down what is about to be done. Returns the entry's id.

    Args:
        request_key: Of what may be asked twice and is to be done once.
    Returns:
        None when there is an entry with this key already, see entry_of_request.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    entry: int | None = await pool.fetchval(
        BEGIN_AUDIT_SQL, actor.name, actor.token_id, actor.origin, action, dict(details),
        request_key,
    )  # fmt: skip
    return entry


ENTRY_OF_REQUEST_SQL = 'SELECT id FROM mail_audit WHERE request_key = $1'


async def entry_of_request(pool: asyncpg.Pool, request_key: str) -> int | None:
    """Return the entry of a request that was there before."""
    entry: int | None = await pool.fetchval(ENTRY_OF_REQUEST_SQL, request_key)
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
  AND ($3::bigint IS NULL OR $3 = ANY(email_ids)) AND ($5::bigint IS NULL OR id < $5)
ORDER BY id DESC LIMIT $4
"""


async def read_audit(
    pool: asyncpg.Pool,
    *,
    since: Any = None,
    actor: str | None = None,
    email_id: int | None = None,
    limit: int,
    before_id: int | None = None,
) -> list[Row]:
    """Return entries, the newest first.

    Args:
        before_id: Where the page before ended.
    """
    return rows_of(await pool.fetch(READ_AUDIT_SQL, since, actor, email_id, limit, before_id))


READ_ENTRY_SQL = """
SELECT id, at, actor, token_id, origin, action, details, email_ids, finished_at, problem,
    now() AS read_at
FROM mail_audit WHERE id = $1
"""


async def read_entry(pool: asyncpg.Pool, entry: int) -> Row | None:
    """Return one entry with read_at, the database's time; None when there is none."""
    rows = rows_of(await pool.fetch(READ_ENTRY_SQL, entry))
    return rows[0] if rows else None


REMOVE_AUDIT_SQL = "DELETE FROM mail_audit WHERE at < now() - $1 * interval '1 day'"


async def remove_old_audit(pool: asyncpg.Pool, days: float) -> None:
    """Delete what is older than this."""
    await pool.execute(REMOVE_AUDIT_SQL, days)
