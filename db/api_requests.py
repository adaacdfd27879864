"""Idempotency keys of the HTTP API: which were used, for what, and what was answered.

A key is claimed and answered in the transaction that queues its e-mails, so that both are there or
neither. Whoever claims the same key meanwhile waits for that transaction to end.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import asyncpg

from db.references import AnyConnection

KEY_HOURS = 24
REMOVE_REQUESTS = 10_000


class RequestKey(NamedTuple):
    """A key as it is known: its owner gave it."""

    owner: str
    idempotency_key: str


class KnownRequest(NamedTuple):
    """What a key was used for before."""

    digest: bytes
    answer: str


# In one order, whoever claims: two that claim the same keys cannot wait for each other. A key that
# is past its time is as good as new.
CLAIM_KEYS_SQL = f"""
INSERT INTO mail_api_requests AS r (owner, idempotency_key, digest)
SELECT owner, idempotency_key, digest
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS asked (owner, idempotency_key, digest)
ORDER BY owner, idempotency_key
ON CONFLICT (owner, idempotency_key) DO UPDATE
SET digest = excluded.digest, answer = NULL, created_at = now()
WHERE r.created_at < now() - interval '{KEY_HOURS} hours'
RETURNING owner, idempotency_key
"""


async def claim_keys(conn: AnyConnection, digests: Mapping[RequestKey, bytes]) -> set[RequestKey]:
    """Claim keys in the caller's transaction. Returns those that were not in use.

    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; the same for the others
        here.
    """
    owners, keys = [key.owner for key in digests], [key.idempotency_key for key in digests]
    rows = await conn.fetch(CLAIM_KEYS_SQL, owners, keys, list(digests.values()))
    return {RequestKey(*row) for row in rows}


READ_REQUESTS_SQL = """
SELECT owner, idempotency_key, digest, answer
FROM mail_api_requests JOIN unnest($1::text[], $2::text[]) AS asked (owner, idempotency_key)
    USING (owner, idempotency_key)
WHERE answer IS NOT NULL
"""


async def read_requests(
    conn: AnyConnection, keys: Collection[RequestKey]
) -> dict[RequestKey, KnownRequest]:
    """Return what keys were used for."""
    owners, names = [key.owner for key in keys], [key.idempotency_key for key in keys]
    return {
        RequestKey(row['owner'], row['idempotency_key']): KnownRequest(row['digest'], row['answer'])
        for row in await conn.fetch(READ_REQUESTS_SQL, owners, names)
    }


ANSWER_REQUESTS_SQL = """
UPDATE mail_api_requests AS r SET answer = given.answer
FROM unnest($1::text[], $2::text[], $3::text[]) AS given (owner, idempotency_key, answer)
WHERE r.owner = given.owner AND r.idempotency_key = given.idempotency_key
"""


async def answer_requests(conn: AnyConnection, answers: Mapping[RequestKey, str]) -> None:
    """Keep the answers of keys that were claimed in this transaction."""
    owners, keys = [key.owner for key in answers], [key.idempotency_key for key in answers]
    await conn.execute(ANSWER_REQUESTS_SQL, owners, keys, list(answers.values()))


# created_at is compared in both places: a key that is renewed while this waits for its row stays.
REMOVE_REQUESTS_SQL = f"""
DELETE FROM mail_api_requests
WHERE created_at < now() - interval '{KEY_HOURS} hours' AND (owner, idempotency_key) IN (
    SELECT owner, idempotency_key FROM mail_api_requests
    WHERE created_at < now() - interval '{KEY_HOURS} hours'
    ORDER BY created_at LIMIT {REMOVE_REQUESTS}
)
"""


async def remove_old_requests(pool: asyncpg.Pool) -> int:
    """Forget one part of the keys that are past their time. Returns how many."""
    return int((await pool.execute(REMOVE_REQUESTS_SQL)).rpartition(' ')[2])
