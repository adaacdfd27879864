"""The application's sessions and refresh tokens: only their end."""

import asyncpg

# Older than the limit and no longer valid: a session that is still used keeps a later expires_at.
REMOVE_SESSIONS_SQL = """
DELETE FROM sessions
WHERE created_at < now() - $1 * interval '1 day' AND (expires_at IS NULL OR expires_at < now())
"""

REMOVE_REFRESH_TOKENS_SQL = """
DELETE FROM refresh_tokens
WHERE created_at < now() - $1 * interval '1 day' AND (expires_at IS NULL OR expires_at < now())
"""


async def remove_old_sessions(pool: asyncpg.Pool, older_than_days: int) -> tuple[int, int]:
    """Delete what is old and no longer valid.

    Returns:
        How many sessions and how many refresh tokens were deleted.
    """
    sessions = await pool.execute(REMOVE_SESSIONS_SQL, older_than_days)
    tokens = await pool.execute(REMOVE_REFRESH_TOKENS_SQL, older_than_days)
    return int(sessions.split()[-1]), int(tokens.split()[-1])
