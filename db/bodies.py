"""What an e-mail's row holds, by its size: small content comes with the claim, large content is fetched in its turn."""

import asyncpg

from db.claims import Claim, LeaseLost
from mail_outbox.envelope import Email

SIZE_SQL = """
SELECT octet_length(e.recipient)::bigint + COALESCE(octet_length(e.subject), 0) + COALESCE(octet_length(e.body_text), 0)
    + COALESCE(octet_length(e.body_html), 0) + COALESCE(octet_length(e.template_data::text), 0)
    + COALESCE(octet_length(e.headers::text), 0) AS size_bytes
FROM mail_outbox AS e WHERE e.id = $1 AND e.claim_token = $2
"""


async def size_of(pool: asyncpg.Pool, claim: Claim) -> int:
    """Return how many bytes of text a claimed row holds, without reading them.

    Raises:
        LeaseLost: the claim is no longer ours.
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    size_bytes: int | None = await pool.fetchval(SIZE_SQL, claim.email.id, claim.token)
    if size_bytes is None:
        raise LeaseLost(f'e-mail {claim.email.id} was taken over before its content was fetched')
    return size_bytes


FETCH_SQL = """
SELECT e.id, e.recipient, e.subject, e.body_text, e.body_html, e.email_type::text, e.template_id::text,
    e.template_data::text, e.headers::text, e.content_id, e.message_id, e.message_date
FROM mail_outbox AS e WHERE e.id = $1 AND e.claim_token = $2
"""


async def fetch_email(pool: asyncpg.Pool, claim: Claim) -> Email:
    """Fetch the content that was too large to come with the claim.

    Raises:
        InvalidEmailError: the row cannot be read.
        LeaseLost: the claim is no longer ours.
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    row = await pool.fetchrow(FETCH_SQL, claim.email.id, claim.token)
    if row is None:
        raise LeaseLost(f'e-mail {claim.email.id} was taken over before its content was fetched')
    return Email(*row)
