"""E-mails page by page, the newest first."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from db.selection import OWN_1, OWN_2, SELECTED, Selection
from db.states import IS_FINAL
from db.times import rows_of

LAST_ID = 2**63 - 1

# Of a field that is larger than any that can be sent, the beginning: a page holds up to 200.
_TEXTS = ', '.join(
    f'left({column}, 2000) AS {column}'
    for column in ('from_address', 'recipient', 'cc', 'bcc', 'subject')
)

# By the primary key, backwards from where the last page ended: what is queued meanwhile moves
# nothing. Large columns are not read.
_LISTED = f"""
SELECT id, status, {_TEXTS}, email_type::text AS email_type,
    CASE WHEN octet_length(tags::text) <= 10000 THEN tags END AS tags, priority,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    {IS_FINAL} AS is_final, next_retry_at, last_attempt_at, sent_at, expires_at, created_at,
    relay, smtp_code, enhanced_code, left(COALESCE(last_error, smtp_response), 2000) AS error,
    dead_reason, message_id, user_id::text AS user_id, organization_id::text AS organization_id
FROM mail_outbox
"""
LIST_EMAILS_SQL = f"""
{_LISTED} WHERE id < {OWN_1}::bigint AND {SELECTED} ORDER BY id DESC LIMIT {OWN_2}
"""


async def list_emails(
    pool: asyncpg.Pool, selection: Selection, *, before_id: int = LAST_ID, limit: int
) -> list[dict[str, Any]]:
    """Return what a selection covers, the newest id first.

    Args:
        before_id: Where the page before ended.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; QueryCanceledError when so
        few fit that too many rows were looked at.
    """
    return rows_of(await pool.fetch(LIST_EMAILS_SQL, *selection.parameters, before_id, limit))


LIST_THESE_SQL = f"""
{_LISTED} WHERE id = ANY($1::bigint[])
  AND ($2::text IS NULL OR organization_id::text = $2) ORDER BY id DESC
"""


async def list_these(
    pool: asyncpg.Pool, email_ids: Sequence[int], organization_id: str | None
) -> list[dict[str, Any]]:
    """Return e-mails by their ids, the newest first; only this organisation's, if one is given."""
    return rows_of(await pool.fetch(LIST_THESE_SQL, email_ids, organization_id))


OF_ORGANIZATION_SQL = """
SELECT id FROM mail_outbox WHERE id = ANY($1::bigint[]) AND organization_id::text = $2
"""


async def ids_of_organization(
    pool: asyncpg.Pool, email_ids: list[int], organization_id: str
) -> set[int]:
    """Return those of these e-mails that are this organisation's."""
    return {row['id'] for row in await pool.fetch(OF_ORGANIZATION_SQL, email_ids, organization_id)}
