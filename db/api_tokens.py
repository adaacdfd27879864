"""Tokens of the HTTP API: who may do what, for whom, until when.

Only the SHA-256 of a token is stored. A slow hash protects what people choose; a token has 256
random bits, which nobody finds by trying, and a slow hash would cost each request its milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from db.times import Row, rows_of

MOST_TOKENS = 1000  # in use at once: the web server holds all of them in memory


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token that is in use, as the web server needs it."""

    id: int
    name: str
    scopes: frozenset[str]
    organization_id: str | None  # None: of the whole installation
    expires_at: datetime | None


LIVE_TOKENS_SQL = f"""
SELECT id, name, token_hash, scopes, organization_id, expires_at FROM mail_api_tokens
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
ORDER BY id LIMIT {MOST_TOKENS}
"""


async def read_live_tokens(pool: asyncpg.Pool) -> dict[bytes, ApiToken]:
    """Return every token that is neither revoked nor expired, by its hash.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    return {
        row['token_hash']: ApiToken(
            row['id'],
            row['name'],
            frozenset(row['scopes']),
            row['organization_id'],
            row['expires_at'],
        )
        for row in await pool.fetch(LIVE_TOKENS_SQL)
    }


NOTE_USE_SQL = """
UPDATE mail_api_tokens AS t SET last_used_at = GREATEST(t.last_used_at, used.at)
FROM unnest($1::bigint[], $2::timestamptz[]) AS used (id, at) WHERE t.id = used.id
"""


async def note_use(pool: asyncpg.Pool, used: Mapping[int, datetime]) -> None:
    """Write down when tokens were last used, several in one statement."""
    await pool.execute(NOTE_USE_SQL, list(used), list(used.values()))


# The name is checked here and not by catching the index's error: INSERT ... WHERE says at once
# which of both it was. Two at the same moment: the index refuses the second.
ADD_TOKEN_SQL = f"""
INSERT INTO mail_api_tokens (name, token_hash, scopes, organization_id, created_by, expires_at)
SELECT $1, $2, $3, $4, $5, $6
WHERE (SELECT count(*) FROM mail_api_tokens
       WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())) < {MOST_TOKENS}
RETURNING id
"""


class NameTakenError(Exception):
    """A token of this name is there, and not revoked."""


async def add_token(
    pool: asyncpg.Pool,
    name: str,
    token_hash: bytes,
    scopes: Sequence[str],
    *,
    organization_id: str | None,
    created_by: str,
    expires_at: datetime | None,
) -> int | None:
    """Store a token. Returns its id; None when there are MOST_TOKENS in use already.

    Raises:
        NameTakenError.
    """
    try:
        token_id: int | None = await pool.fetchval(
            ADD_TOKEN_SQL, name, token_hash, list(scopes), organization_id, created_by, expires_at
        )
    except asyncpg.UniqueViolationError as error:
        raise NameTakenError(name) from error
    return token_id


REVOKE_SQL = """
UPDATE mail_api_tokens SET revoked_at = now()
WHERE revoked_at IS NULL AND name = $1 RETURNING id
"""


async def revoke_token(pool: asyncpg.Pool, name: str) -> int | None:
    """Revoke the token of this name. Returns its id; None when there is none."""
    token_id: int | None = await pool.fetchval(REVOKE_SQL, name)
    return token_id


READ_TOKENS_SQL = """
SELECT id, name, scopes, organization_id, created_at, created_by, expires_at, revoked_at,
    last_used_at, COALESCE(expires_at <= now(), false) AS is_expired
FROM mail_api_tokens WHERE $1 OR revoked_at IS NULL ORDER BY id
"""


async def read_tokens(pool: asyncpg.Pool, *, with_revoked: bool) -> list[Row]:
    """Return what is known of tokens, the oldest first; the tokens themselves nobody knows."""
    rows: list[dict[str, Any]] = rows_of(await pool.fetch(READ_TOKENS_SQL, with_revoked))
    return rows
