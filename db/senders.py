"""Who may stand in From: single addresses and whole domains, for everybody or an organisation.

A pattern is an address with its domain in the ASCII form, in lower case; '@example.com' stands for
everybody there, and not for its subdomains.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

from db.suppressions import suppression_key
from mail_outbox.senders import UNLISTED, WantedSender, wanted_json

MAY_NOT_WRITE = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)
BY_SETTING = 'SMTP_FROM_EMAIL'  # the source of the address that workers have in that setting


def sender_pattern(text: str) -> str:
    """Return the pattern for an address, or for a domain given as '@example.com'.

    Raises:
        mail_outbox.envelope.InvalidEmailError: it is neither.
    """
    return suppression_key(text)


UNLISTED_SQL = UNLISTED.numbered


async def unlisted_senders(pool: asyncpg.Pool, wanted: Iterable[WantedSender]) -> str | None:
    """Return which of these nobody has allowed, of several e-mails if need be.

    Returns:
        What refuse_unlisted takes.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    unlisted: str | None = await pool.fetchval(UNLISTED_SQL, wanted_json(wanted))
    return unlisted


ADD_SENDERS_SQL = """
INSERT INTO allowed_senders (pattern, organization_id, source, created_by)
SELECT pattern, $2, $3, $4 FROM unnest($1::text[]) AS p (pattern)
ON CONFLICT (pattern, organization_id) DO NOTHING
RETURNING pattern
"""


async def allow_senders(
    pool: asyncpg.Pool,
    patterns: Iterable[str],
    *,
    organization_id: str | None = None,
    source: str = 'operator',
    created_by: str | None = None,
) -> set[str]:
    """Put patterns on the list. Returns those that are new there.

    Args:
        patterns: From sender_pattern.
        organization_id: The only one whose e-mails may use them; None: all may.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was added.
    """
    rows = await pool.fetch(
        ADD_SENDERS_SQL, list(dict.fromkeys(patterns)), organization_id, source, created_by
    )
    return {row['pattern'] for row in rows}


async def note_own_sender(pool: asyncpg.Pool, address: str) -> None:
    """Let applications name the address that e-mails without one are from, as they all may.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    # Doctor names the right that is missing, and whoever names no sender needs none. A database
    # that takes no writes must not keep the worker from starting; a later start notes it.
    with contextlib.suppress(
        asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError
    ):
        await allow_senders(pool, [sender_pattern(address)], source=BY_SETTING)


REMOVE_SENDERS_SQL = """
DELETE FROM allowed_senders
WHERE pattern = ANY($1::text[]) AND organization_id IS NOT DISTINCT FROM $2
RETURNING pattern
"""


async def disallow_senders(
    pool: asyncpg.Pool, patterns: Iterable[str], *, organization_id: str | None = None
) -> set[str]:
    """Take patterns off the list of everybody, or of an organisation. Returns what stood there."""
    rows = await pool.fetch(REMOVE_SENDERS_SQL, list(patterns), organization_id)
    return {row['pattern'] for row in rows}


READ_SENDERS_SQL = """
SELECT pattern, organization_id, source, created_at, created_by, count(*) OVER () AS total
FROM allowed_senders WHERE $1::text IS NULL OR organization_id = $1 OR organization_id IS NULL
ORDER BY organization_id NULLS FIRST, pattern LIMIT $2
"""


async def read_senders(
    pool: asyncpg.Pool, *, organization_id: str | None = None, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many patterns there are, and the first of them.

    Args:
        organization_id: Only what its e-mails may use.
    Returns:
        Rows with pattern, organization_id, source, created_at, created_by.
    """
    rows = [dict(row) for row in await pool.fetch(READ_SENDERS_SQL, organization_id, limit)]
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows


LISTED_SENDERS_SQL = """
SELECT pattern FROM allowed_senders
WHERE pattern = ANY($1::text[]) AND organization_id IS NOT DISTINCT FROM $2
"""


async def listed_senders(
    pool: asyncpg.Pool, patterns: Sequence[str], *, organization_id: str | None = None
) -> set[str]:
    """Return those of these patterns that stand on the list."""
    rows = await pool.fetch(LISTED_SENDERS_SQL, list(patterns), organization_id)
    return {row['pattern'] for row in rows}
