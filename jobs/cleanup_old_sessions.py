"""Delete sessions and refresh tokens that are long over."""

from typing import Any

import structlog

from db.sessions import MADE_HERE, Cleaned, clean
from delivery.runtime import Runtime

log = structlog.get_logger()


async def cleanup_old_sessions(ctx: dict[str, Any]) -> dict[str, Any]:
    """Delete sessions and refresh tokens older than the retention and no longer valid.

    Only from tables that this program made, and from those that CLEANUP_SESSION_TABLES names; from
    one that was there before, the first run deletes nothing and reports what it would.

    Returns:
        {'affected': rows deleted, 'sessions': 3, 'refresh_tokens': 5}, with each other table that
        is named; and, by table and where there are any, 'held' and 'refused' rows, what was
        'reported', and 'notes' for people.
    """
    runtime: Runtime = ctx['runtime']
    retention = runtime.rules.retention
    cleaned = await clean(runtime.stores.pool, retention.session_tables, retention.session_days)
    for name, done in cleaned.items():
        _tell(name, done)
    deleted = dict.fromkeys(MADE_HERE, 0) | {name: done.deleted for name, done in cleaned.items()}
    details = {
        'held': {name: done.held for name, done in cleaned.items() if done.held},
        'refused': {name: done.refused for name, done in cleaned.items() if done.refused},
        'reported': {
            name: done.reported for name, done in cleaned.items() if done.reported is not None
        },
        'notes': {name: done.note for name, done in cleaned.items() if done.note},
    }
    return (
        {'affected': sum(deleted.values())}
        | deleted
        | {name: found for name, found in details.items() if found}
    )


def _tell(name: str, done: Cleaned) -> None:
    if done.reported is not None:
        log.warning('cleanup.reported', table=name, rows=done.reported)
    if done.note:
        log.warning('cleanup.skipped', table=name, reason=done.note)
