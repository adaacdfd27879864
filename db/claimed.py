"""An e-mail that is claimed: small content comes with the claim, large content in its turn."""

import json
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from db.suppressions import ANY_SUPPRESSED
from mail.outcome import Outcome, Settled
from mail.priority import NORMAL, known_priority
from mail_outbox.address_fields import EXTRA_ADDRESSES
from mail_outbox.envelope import NO_EXTRAS, Email, Extras

ClaimKey = tuple[int, UUID]  # of an e-mail and a token


class LeaseLost(Exception):  # noqa: N818 - the design's word
    """Somebody else holds this e-mail now, or an operator changed its state."""


class Claim(NamedTuple):
    """The right to send one e-mail, until the lease runs out."""

    email: Email
    token: UUID
    attempt: int
    max_attempts: int
    claimed_at: datetime
    settled: Settled  # recipients whose outcome an earlier attempt decided
    suspect: bool = False  # the last worker that held it was lost
    any_suppressed: bool = False  # somebody gets no mail: see whether it is one of the recipients
    life_left_s: float | None = None  # when it was claimed; None: it does not expire
    is_whole: bool = True  # else large content is left out: fetch_email gets it
    priority: int = NORMAL
    organization: str | None = None

    @property
    def key(self) -> ClaimKey:
        """What identifies this claim among all claims ever made."""
        return self.email.id, self.token


# What comes with a claim: ordinary mail, whole. Larger content is fetched in its turn, by
# fetch_email, so that no batch takes more than 40 MB, and a worker that large content kills has
# made an attempt, which counts as lost. Both functions tell a size without reading the content; the
# stored size of JSON is that of its compressed form.
_SMALL = {
    'recipient': 'octet_length(e.recipient) <= 16384',
    'subject': 'octet_length(e.subject) <= 4096',
    'body_text': 'octet_length(e.body_text) <= 32768',
    'body_html': 'octet_length(e.body_html) <= 65536',
    'email_type::text': 'octet_length(e.email_type::text) <= 1024',
    'template_id::text': 'octet_length(e.template_id::text) <= 1024',
    'template_data::text': 'pg_column_size(e.template_data) <= 2000',
    'headers::text': 'pg_column_size(e.headers) <= 2000',
    'content_id': 'octet_length(e.content_id) <= 1024',
    'message_id': 'octet_length(e.message_id) <= 1024',
}
# Of few e-mails; all others have NULL there. In the order of Extras.
_FLAGS = ('one_copy_each', 'has_attachments')
_TEXTS = (*EXTRA_ADDRESSES, 'locale', 'traceparent')
_EXTRA_COLUMNS = (*_TEXTS, 'template_version', *_FLAGS)
_HAS_EXTRAS = f'num_nonnulls({", ".join(f"e.{name}" for name in _EXTRA_COLUMNS)}) > 0'
_EXTRAS_BYTES = ' + '.join(f'COALESCE(octet_length(e.{name}), 0)' for name in _TEXTS)
_EXTRAS = f"""json_strip_nulls(json_build_object({
    ', '.join(f"'{name}', e.{name}" for name in _EXTRA_COLUMNS)
}, 'organization_id', e.organization_id::text))::text"""
_FEW_BYTES = 16384
_CONTENT = ', '.join(
    f'CASE WHEN {is_small} THEN e.{column} END' for column, is_small in _SMALL.items()
)
_IS_WHOLE = ' AND '.join([
    *(f'({is_small}) IS NOT FALSE' for is_small in _SMALL.values()),
    f'(NOT {_HAS_EXTRAS} OR {_EXTRAS_BYTES} <= {_FEW_BYTES})',
    'e.calendar IS NULL AND e.raw_message IS NULL',
])  # fmt: skip

# In the order of Email's fields and of claim_from.
CLAIMED_COLUMNS = f"""
    e.id, {_CONTENT}, e.message_date,
    CASE WHEN {_HAS_EXTRAS} THEN CASE WHEN {_EXTRAS_BYTES} <= {_FEW_BYTES} THEN {_EXTRAS}
        ELSE json_build_object('has_attachments', e.has_attachments IS TRUE)::text END
        END AS extras,
    e.attempts, e.max_attempts, e.claimed_at,
    -- more than record writes
    CASE WHEN pg_column_size(e.recipient_outcomes) <= 262144 THEN e.recipient_outcomes::text END,
    e.lost_attempts,
    {ANY_SUPPRESSED} AS any_suppressed, -- asked once a statement
    -- not expires_at - now(), which fails for infinity
    EXTRACT(EPOCH FROM e.expires_at::timestamptz)::float8 - EXTRACT(EPOCH FROM now())::float8
        AS life_left_s,
    {_IS_WHOLE} AS is_whole,
    e.priority, left(e.organization_id::text, 500) AS organization,
    EXTRACT(EPOCH FROM e.next_retry_at)::float8 AS due_at
"""


_PLAIN_FIELDS = Email._fields.index('extras')  # of Email, and all are the row's first columns


def claim_from(row: asyncpg.Record, token: UUID) -> Claim:
    """Read a row of CLAIMED_COLUMNS: the fields of Email, then what is the claim's."""
    email_id, recipient, *content = row[:_PLAIN_FIELDS]
    claimed: tuple[Any, ...] = row[_PLAIN_FIELDS + 1 :]
    attempt, max_attempts, claimed_at, outcomes, lost, suppressed, life_left_s, *rest = claimed
    is_whole, priority, organization, _ = rest
    email = Email(email_id, recipient or '', *content)
    if row['extras'] is not None:
        email = email._replace(extras=_extras(row['extras']))
    return Claim(
        email,
        token,
        attempt,
        max_attempts,
        claimed_at,
        settled=_settled(outcomes) if outcomes else {},
        suspect=lost > 0,
        any_suppressed=suppressed,
        life_left_s=life_left_s,
        is_whole=is_whole,
        priority=known_priority(priority),
        organization=organization,
    )


def _extras(stored: str | None) -> Extras:
    return NO_EXTRAS if stored is None else Extras(**json.loads(stored))


def _settled(stored: str) -> Settled:
    """Read recipient_outcomes; what record did not write counts for nothing."""
    try:
        known = json.loads(stored)
        return {
            address: (Outcome(outcome), str(reply)) for address, (outcome, reply) in known.items()
        }
    except (AttributeError, TypeError, ValueError, RecursionError):
        return {}


SIZE_SQL = f"""
SELECT octet_length(e.recipient)::bigint + COALESCE(octet_length(e.subject), 0)
    + COALESCE(octet_length(e.body_text), 0) + COALESCE(octet_length(e.body_html), 0)
    + COALESCE(octet_length(e.template_data::text), 0)
    + COALESCE(octet_length(e.headers::text), 0) + COALESCE(octet_length(e.calendar), 0)
    + COALESCE(octet_length(e.raw_message), 0) + {_EXTRAS_BYTES} AS size_bytes
FROM mail_outbox AS e WHERE e.id = $1 AND e.claim_token = $2
"""


async def size_of(pool: asyncpg.Pool, claim: Claim) -> int:
    """Return how many bytes of content a claimed row holds, without reading them.

    Raises:
        LeaseLost: the claim is no longer ours.
        asyncpg.PostgresError, OSError: connection or statement failure.
    """
    size_bytes: int | None = await pool.fetchval(SIZE_SQL, claim.email.id, claim.token)
    if size_bytes is None:
        raise LeaseLost(f'e-mail {claim.email.id} was taken over before its content was fetched')
    return size_bytes


FETCH_SQL = f"""
SELECT e.id, e.recipient, e.subject, e.body_text, e.body_html, e.email_type::text,
    e.template_id::text,
    e.template_data::text, e.headers::text, e.content_id, e.message_id, e.message_date,
    CASE WHEN {_HAS_EXTRAS} THEN {_EXTRAS} END AS extras, e.calendar, e.raw_message
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
    values: tuple[Any, ...] = tuple(row)
    return Email(*values)._replace(extras=_extras(row['extras']))
