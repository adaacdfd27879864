"""Delete sessions and refresh tokens that are long over."""

from typing import Any

from db.sessions import remove_old_sessions
from jobs.runtime import Runtime


async def cleanup_old_sessions(ctx: dict[str, Any]) -> dict[str, Any]:
    """Delete sessions and refresh tokens older than the retention and no longer valid.

    Returns:
        {'affected': rows deleted, 'sessions': 3, 'refresh_tokens': 5}.
    """
    runtime: Runtime = ctx['runtime']
    sessions, tokens = await remove_old_sessions(runtime.pool, runtime.session_retention_days)
    return {'affected': sessions + tokens, 'sessions': sessions, 'refresh_tokens': tokens}
