"""Who gets no mail, or none of a type: single addresses and whole domains, each with the reason.

A key is an address as it stands in the envelope (its domain in the ASCII form), in lower case;
'@example.com' stands for everybody there, and not for its subdomains. `anna+news@` and `anna@` are
two addresses: only her server knows more.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from mail_outbox.envelope import ascii_address, envelope_address
from mail_outbox.suppression import (
    FOUND,
    Asked,
    erased_key,
    keys_and_types,
    keys_of,
    reasons_found,
)

MAX_REASON_CHARS = 500


def suppression_key(text: str) -> str:
    """Return the key for an address, or for a domain given as '@example.com'.

    Raises:
        mail_outbox.envelope.InvalidEmailError: it is neither.
    """
    if text.startswith('@'):
        return ascii_address(f'x{text}').removeprefix('x').lower()
    return envelope_address(text).lower()


SUPPRESSED_SQL = FOUND.written({'keys': '$1::text[]', 'types': '$2::text[]'}.__getitem__)


async def suppressed(
    pool: asyncpg.Pool, addresses: Sequence[str], email_type: str | None = None
) -> dict[str, str]:
    """Look up the recipients of e-mails of one type in one statement, see suppressed_each.

    Returns:
        Those that get no mail, as they were given, each with the reason.
    """
    asked = [(address, email_type) for address in addresses]
    reasons = await suppressed_each(pool, asked)
    return {to: why for to, why in zip(addresses, reasons, strict=True) if why is not None}


async def suppressed_each(pool: asyncpg.Pool, asked: Sequence[Asked]) -> list[str | None]:
    """Look up a whole batch's recipients in one statement.

    Args:
        asked: Addresses as they stand in envelopes, see mail_outbox.envelope.Envelope, each with
            the type of its e-mail; of several e-mails if need be.
    Returns:
        For each why it gets no mail, or None.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    if not asked:
        return []
    found = await pool.fetch(SUPPRESSED_SQL, *keys_and_types(asked))
    return list(reasons_found(asked, map(tuple, found)))


ANY_SUPPRESSED = (
    '(EXISTS (SELECT FROM email_suppressions) OR EXISTS (SELECT FROM email_type_suppressions))'
)
ANY_SUPPRESSED_SQL = f'SELECT {ANY_SUPPRESSED}'


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
ADD_OF_TYPE_SQL = """
INSERT INTO email_type_suppressions AS s
    (address, email_type, reason, source, created_by, expires_at)
SELECT key, $6, $2, $3, $4, $5 FROM unnest($1::text[]) AS k (key)
ON CONFLICT (address, email_type) DO UPDATE
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
    email_type: str | None = None,
) -> dict[str, bool]:
    """Put keys on the list; one that stands there already gets the new reason and the new end.

    Args:
        keys: From suppression_key.
        source: Who decided: 'operator', 'bounce', 'complaint', 'unsubscribe'.
        email_type: They get no mail of this type; None: none at all. Each has entries of its own.
    Returns:
        Each key, and whether it is new on the list.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was added.
    """
    values = [list(dict.fromkeys(keys)), reason, source, created_by, expires_at]
    if email_type is None:
        rows = await pool.fetch(ADD_SQL, *values)
    else:
        rows = await pool.fetch(ADD_OF_TYPE_SQL, *values, email_type)
    return {row['address']: row['is_new'] for row in rows}


REMOVE_SQL = """
DELETE FROM email_suppressions WHERE address = ANY($1::text[]) OR address = ANY($2::text[])
RETURNING address
"""
REMOVE_OF_TYPE_SQL = """
DELETE FROM email_type_suppressions
WHERE (address = ANY($1::text[]) OR address = ANY($2::text[])) AND email_type = $3
RETURNING address
"""


async def remove(
    pool: asyncpg.Pool, keys: Iterable[str], email_type: str | None = None
) -> set[str]:
    """Take keys off the list of those who get no mail, or none of a type.

    Returns:
        Those that stood there.
    """
    sql = REMOVE_SQL if email_type is None else REMOVE_OF_TYPE_SQL
    return await _with_erased(pool, sql, list(keys), email_type)


LISTED_SQL = """
SELECT address FROM email_suppressions WHERE address = ANY($1::text[]) OR address = ANY($2::text[])
"""
LISTED_OF_TYPE_SQL = """
SELECT address FROM email_type_suppressions
WHERE (address = ANY($1::text[]) OR address = ANY($2::text[])) AND email_type = $3
"""


async def listed(
    pool: asyncpg.Pool, keys: Iterable[str], email_type: str | None = None
) -> set[str]:
    """Return those of these keys that stand on the list, also when their time is over."""
    sql = LISTED_SQL if email_type is None else LISTED_OF_TYPE_SQL
    return await _with_erased(pool, sql, list(keys), email_type)


async def _with_erased(
    pool: asyncpg.Pool, sql: str, keys: Sequence[str], email_type: str | None
) -> set[str]:
    """Return those keys that stand on the list, as they are or as what was left of them."""
    erased = {erased_key(key): key for key in keys}
    of_type = () if email_type is None else (email_type,)
    found = await pool.fetch(sql, keys, list(erased), *of_type)
    return {erased.get(row['address'], row['address']) for row in found}


READ_SQL = """
SELECT address, email_type, reason, source, created_at, created_by, expires_at,
    COALESCE(expires_at <= now(), false) AS is_over,
    count(*) OVER () AS total
FROM (
    SELECT address, NULL AS email_type, reason, source, created_at, created_by, expires_at
    FROM email_suppressions
    UNION ALL
    SELECT address, email_type, reason, source, created_at, created_by, expires_at
    FROM email_type_suppressions
) AS s
WHERE ($1::text IS NULL OR source = $1) AND ($2::text IS NULL OR email_type = $2)
  AND ($4::text[] IS NULL OR address = ANY($4))
ORDER BY created_at DESC, address, email_type LIMIT $3
"""


async def read_suppressions(
    pool: asyncpg.Pool,
    *,
    source: str | None = None,
    email_type: str | None = None,
    concerning: str | None = None,
    limit: int,
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many entries there are, and the newest of them.

    Args:
        concerning: Only those that mail to this key is asked for.
    Returns:
        Rows with address, email_type (None: of every type), reason, source, created_at,
        created_by, expires_at, is_over.
    """
    keys = None if concerning is None else [*keys_of(concerning)]
    rows = [dict(row) for row in await pool.fetch(READ_SQL, source, email_type, limit, keys)]
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows
