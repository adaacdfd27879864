"""Who is logged in at the desk: a session ends with its token, or at its time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg


@dataclass(frozen=True, slots=True)
class DeskSession:
    """A session that is open, with what it allows.

    Attributes:
        token_id: None: an OIDC provider named the person.
        confirmed_at: When the person showed last who it is.
    """

    token_id: int | None
    name: str
    scopes: frozenset[str]
    organization_id: str | None
    expires_at: datetime
    confirmed_at: datetime


@dataclass(frozen=True, slots=True)
class NamedPerson:
    """Whom an OIDC provider names.

    Attributes:
        authenticated_at: When the provider asked who it is.
    """

    name: str
    scopes: Sequence[str]
    authenticated_at: datetime


# What is over goes whenever somebody logs in: there are few, and nobody else looks at them.
REMOVE_ENDED_SQL = 'DELETE FROM mail_desk_sessions WHERE expires_at <= now()'
OPEN_SESSION_SQL = """
INSERT INTO mail_desk_sessions (session_hash, token_id, origin, expires_at)
VALUES ($1, $2, $3, now() + $4::interval)
"""
OPEN_NAMED_SESSION_SQL = """
INSERT INTO mail_desk_sessions (session_hash, origin, expires_at, person, scopes, confirmed_at)
VALUES ($1, $2, now() + $3::interval, $4, $5, LEAST(now(), $6))
"""


async def open_session(
    pool: asyncpg.Pool, session_hash: bytes, of: int | NamedPerson, origin: str, lasts: timedelta
) -> None:
    """Store a session.

    Args:
        session_hash: SHA-256 of the cookie's value.
        of: A token's id, or a person.
        origin: The address it was opened from.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    await pool.execute(REMOVE_ENDED_SQL)
    if isinstance(of, NamedPerson):
        await pool.execute(
            OPEN_NAMED_SESSION_SQL, session_hash, origin, lasts, of.name, list(of.scopes),
            of.authenticated_at,
        )  # fmt: skip
    else:
        await pool.execute(OPEN_SESSION_SQL, session_hash, of, origin, lasts)


FIND_SESSION_SQL = """
SELECT s.token_id, COALESCE(t.name, s.person) AS name, COALESCE(t.scopes, s.scopes) AS scopes,
    t.organization_id, LEAST(s.expires_at, t.expires_at) AS expires_at, s.confirmed_at
FROM mail_desk_sessions AS s LEFT JOIN mail_api_tokens AS t ON t.id = s.token_id
WHERE s.session_hash = $1 AND s.expires_at > now() AND t.revoked_at IS NULL
  AND (t.expires_at IS NULL OR t.expires_at > now())
"""


async def find_session(pool: asyncpg.Pool, session_hash: bytes) -> DeskSession | None:
    """Return an open session whose token, if it has one, is in use."""
    row = await pool.fetchrow(FIND_SESSION_SQL, session_hash)
    if row is None:
        return None
    token_id, name, scopes, organization_id, expires_at, confirmed_at = row
    return DeskSession(token_id, name, frozenset(scopes), organization_id, expires_at, confirmed_at)


CONFIRM_SESSION_SQL = """
UPDATE mail_desk_sessions SET confirmed_at = now() WHERE session_hash = $1
"""


async def confirm_session(pool: asyncpg.Pool, session_hash: bytes) -> None:
    """Note that the person has shown again who it is."""
    await pool.execute(CONFIRM_SESSION_SQL, session_hash)


CLOSE_SESSION_SQL = 'DELETE FROM mail_desk_sessions WHERE session_hash = $1'


async def close_session(pool: asyncpg.Pool, session_hash: bytes) -> None:
    """End a session."""
    await pool.execute(CLOSE_SESSION_SQL, session_hash)
