"""Who is logged in at the desk: a session belongs to a token of the API, and ends with it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg


@dataclass(frozen=True, slots=True)
class DeskSession:
    """A session that is open, with what its token allows."""

    token_id: int
    name: str
    scopes: frozenset[str]
    organization_id: str | None
    expires_at: datetime


# What is over goes whenever somebody logs in: there are few, and nobody else looks at them.
REMOVE_ENDED_SQL = 'DELETE FROM mail_desk_sessions WHERE expires_at <= now()'
OPEN_SESSION_SQL = """
INSERT INTO mail_desk_sessions (session_hash, token_id, origin, expires_at)
VALUES ($1, $2, $3, now() + $4::interval)
"""


async def open_session(
    pool: asyncpg.Pool, session_hash: bytes, token_id: int, origin: str, lasts: timedelta
) -> None:
    """Store a session.

    Args:
        session_hash: SHA-256 of the cookie's value.
        origin: The address it was opened from.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    await pool.execute(REMOVE_ENDED_SQL)
    await pool.execute(OPEN_SESSION_SQL, session_hash, token_id, origin, lasts)


FIND_SESSION_SQL = """
SELECT t.id, t.name, t.scopes, t.organization_id,
    LEAST(s.expires_at, t.expires_at) AS expires_at
FROM mail_desk_sessions AS s JOIN mail_api_tokens AS t ON t.id = s.token_id
WHERE s.session_hash = $1 AND s.expires_at > now() AND t.revoked_at IS NULL
  AND (t.expires_at IS NULL OR t.expires_at > now())
"""


async def find_session(pool: asyncpg.Pool, session_hash: bytes) -> DeskSession | None:
    """Return an open session whose token is in use."""
    row = await pool.fetchrow(FIND_SESSION_SQL, session_hash)
    if row is None:
        return None
    token_id, name, scopes, organization_id, expires_at = row
    return DeskSession(token_id, name, frozenset(scopes), organization_id, expires_at)


CLOSE_SESSION_SQL = 'DELETE FROM mail_desk_sessions WHERE session_hash = $1'


async def close_session(pool: asyncpg.Pool, session_hash: bytes) -> None:
    """End a session."""
    await pool.execute(CLOSE_SESSION_SQL, session_hash)
