"""Who gets no mail: single addresses and whole domains, each with the reason why.

A key is an address as it stands in the envelope (its domain in the ASCII form), in lower case;
'@example.com' stands for everybody there, and not for its subdomains. `anna+news@` and `anna@` are
two addresses: only her server knows more.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from mail_outbox.envelope import ascii_address, envelope_address

MAX_REASON_CHARS = 500


def suppression_key(text: str) -> str:
    """Return the key for an address, or for a domain given as '@example.com'.

    Raises:
        mail_outbox.envelope.InvalidEmailError: it is neither.
    """
    if text.startswith('@'):
        return ascii_address(f'x{text}').removeprefix('x').lower()
    return envelope_address(text).lower()


SUPPRESSED_SQL = """
SELECT address, reason FROM email_suppressions
WHERE address = ANY($1::text[]) AND (expires_at IS NULL OR expires_at > now())
"""


async def suppressed(pool: asyncpg.Pool, addresses: Sequence[str]) -> dict[str, str]:
    """Look up a whole batch's recipients in one statement.

    Args:
        addresses: As they stand in envelopes, see mail_outbox.envelope.Envelope; of several e-mails
            if need be.
    Returns:
        Those that get no mail, as they were given, each with the reason; its own one before its
        domain's.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    keys = {address: _keys_of(address) for address in addresses}
    wanted = list({key for all_keys in keys.values() for key in all_keys})
    reasons = (
        {row['address']: row['reason'] for row in await pool.fetch(SUPPRESSED_SQL, wanted)}
        if wanted
        else {}
    )
    return {
        address: next(reasons[key] for key in all_keys if key in reasons)
        for address, all_keys in keys.items()
        if not reasons.keys().isdisjoint(all_keys)
    }


def _keys_of(address: str) -> tuple[str, str, str]:
    lower = address.lower()
    return lower, erased_key(lower), lower[lower.rfind('@') :]


def erased_key(key: str) -> str:
    """Return under which key somebody stays on the list whose address was erased.

    It is a hash without a secret: who has an address can see whether it is meant, and who has none
    can only guess.
    """
    return f'sha256-{hashlib.sha256(key.encode()).hexdigest()}@erased.invalid'


ANY_SUPPRESSED_SQL = 'SELECT EXISTS (SELECT FROM email_suppressions)'


async def any_suppressed(pool: asyncpg.Pool) -> bool:
    """Whether the list has any row at all.

    It is a look at one page, for those who would rather not ask for each batch.
    """
    found: bool = await pool.fetchval(ANY_SUPPRESSED_SQL)
    return found


ADD_SQL = """
INSERT INTO email_suppressions AS s (address, reason, source, created_by, expires_at)
SELECT key, $2, $3, $4, $5 FROM unnest($1::text[]) AS k (key)
ON CONFLICT (address) DO UPDATE
SET reason = EXCLUDED.reason, source = EXCLUDED.source, created_by = EXCLUDED.created_by,
    expires_at = EXCLUDED.expires_at, created_at = now()
RETURNING address, xmax = 0 AS is_new
"""


async def add(
    pool: asyncpg.Pool,
    keys: Iterable[str],
    *,
    reason: str,
    source: str = 'operator',
    created_by: str | None = None,
    expires_at: datetime | None = None,
) -> dict[str, bool]:
    """Put keys on the list; one that stands there already gets the new reason and the new end.

    Args:
        keys: From suppression_key.
        source: Who decided: 'operator', 'bounce', 'complaint' ...
    Returns:
        Each key, and whether it is new on the list.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was added.
    """
    rows = await pool.fetch(
        ADD_SQL, list(dict.fromkeys(keys)), reason, source, created_by, expires_at
    )
    return {row['address']: row['is_new'] for row in rows}


REMOVE_SQL = """
DELETE FROM email_suppressions WHERE address = ANY($1::text[]) OR address = ANY($2::text[])
RETURNING address
"""


async def remove(pool: asyncpg.Pool, keys: Iterable[str]) -> set[str]:
    """Take keys off the list. Returns those that stood there."""
    return await _with_erased(pool, REMOVE_SQL, list(keys))


LISTED_SQL = """
SELECT address FROM email_suppressions WHERE address = ANY($1::text[]) OR address = ANY($2::text[])
"""


async def listed(pool: asyncpg.Pool, keys: Iterable[str]) -> set[str]:
    """Return those of these keys that stand on the list, also when their time is over."""
    return await _with_erased(pool, LISTED_SQL, list(keys))


async def _with_erased(pool: asyncpg.Pool, sql: str, keys: Sequence[str]) -> set[str]:
    """Return those keys that stand on the list, as they are or as what was left of them."""
    erased = {erased_key(key): key for key in keys}
    found = await pool.fetch(sql, keys, list(erased))
    return {erased.get(row['address'], row['address']) for row in found}


READ_SQL = """
SELECT address, reason, source, created_at, created_by, expires_at,
    COALESCE(expires_at <= now(), false) AS is_over,
    count(*) OVER () AS total
FROM email_suppressions WHERE $1::text IS NULL OR source = $1
ORDER BY created_at DESC, address LIMIT $2
"""


async def read_suppressions(
    pool: asyncpg.Pool, *, source: str | None = None, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many keys there are, and the newest of them.

    Returns:
        Rows with address, reason, source, created_at, created_by, expires_at, is_over.
    """
    rows = [dict(row) for row in await pool.fetch(READ_SQL, source, limit)]
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows
