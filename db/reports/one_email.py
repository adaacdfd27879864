"""One e-mail: its row, its attempts, and what it is made of."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from db.states import HAS_ATTEMPTS, IS_EMPTIED, IS_SCHEDULED
from db.times import Row, rows_of
from mail_outbox.attachments import COLLECTION

if TYPE_CHECKING:  # the driver is imported by whoever has a MongoDB
    from db.mongo import Mongo

# Who may write to the table may write anything: more than this nobody can use.
MOST_CHARS = 100_000
MOST_JSON_BYTES = 100_000


def _some(column: str) -> str:
    """Return a text up to MOST_CHARS."""
    return f'left({column}, {MOST_CHARS}) AS {column}'


def _small(column: str) -> str:
    """Return a JSON value, or how large it is."""
    return (
        f'CASE WHEN octet_length({column}::text) <= {MOST_JSON_BYTES} THEN {column} '
        f"ELSE to_jsonb(octet_length({column}::text) || ' bytes: too large to be shown') END "
        f'AS {column}'
    )


# Bodies of password resets are secrets: they are read only when they are asked for, and no more
# than a screen can use; their sizes tell what is missing.
EMAIL_SQL = f"""
SELECT id, status, {_some('recipient')}, {_some('subject')}, email_type::text AS email_type,
    template_id::text AS template_id, user_id::text AS user_id,
    organization_id::text AS organization_id, priority,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    next_retry_at, expires_at, created_at, updated_at, last_attempt_at, sent_at,
    message_id, message_date, idempotency_key, queued_by, content_id,
    locale, template_version, traceparent,
    claimed_by, claimed_at, lease_expires_at, lost_attempts,
    relay, smtp_code, enhanced_code, {_some('smtp_response')}, {_some('last_error')}, dead_reason,
    feedback_at, {_some('feedback')},
    {_small('recipient_outcomes')}, {_small('headers')}, {_some('from_address')},
    {_some('sender_address')}, {_some('envelope_from')}, {_some('reply_to')}, {_some('cc')},
    {_some('bcc')}, one_copy_each, {_small('tags')}, {_small('metadata')}, has_attachments,
    octet_length(calendar) AS calendar_bytes,
    octet_length(raw_message) AS raw_message_bytes, {IS_EMPTIED} AS is_emptied,
    octet_length(body_text) AS body_text_bytes, octet_length(body_html) AS body_html_bytes,
    octet_length(template_data::text) AS template_data_bytes,
    CASE WHEN $2 THEN left(body_text, 1000000) END AS body_text,
    CASE WHEN $2 THEN left(body_html, 1000000) END AS body_html,
    CASE WHEN $2 THEN left(template_data::text, 1000000) END AS template_data, now() AS read_at
FROM mail_outbox WHERE id = $1::bigint -- an adopted table's ids may be of four bytes: no error then
"""


async def read_email(pool: asyncpg.Pool, email_id: int, *, with_content: bool) -> Row | None:
    """Return one row with read_at, the database's time.

    Bodies and template data are None without with_content.
    """
    row = await pool.fetchrow(EMAIL_SQL, email_id, with_content)
    return dict(row) if row else None


ATTEMPTS_SQL = """
SELECT attempt, started_at, worker, outcome, phase, relay, smtp_code, enhanced_code, reply, error,
    duration_ms
FROM email_attempts WHERE email_id = $1 ORDER BY started_at
"""


async def read_attempts(pool: asyncpg.Pool, email_id: int) -> list[Row]:
    """Return every attempt of one e-mail, the first first."""
    return rows_of(await pool.fetch(ATTEMPTS_SQL, email_id))


STATES_SQL = f"""
SELECT id, status, attempts, max_attempts, next_retry_at, claimed_by, sent_at, dead_reason,
    {IS_EMPTIED} AS is_emptied
FROM mail_outbox WHERE id = ANY($1::bigint[])
"""


async def read_states(pool: asyncpg.Pool, email_ids: Sequence[int]) -> dict[int, Row]:
    """Return what decides whether an operator may change these e-mails; unknown ids are missing."""
    return {row['id']: dict(row) for row in await pool.fetch(STATES_SQL, email_ids)}


# The due index in its own order. What is suspect or over does not stand in anybody's way.
MOST_AHEAD = 20_000  # counted; whoever waits behind so many need not know it better
AHEAD_SQL = f"""
SELECT (
    SELECT count(*) FROM (SELECT FROM mail_outbox
    WHERE {IS_SCHEDULED} AND next_retry_at <= now() AND {HAS_ATTEMPTS} AND lost_attempts <= 0
      AND (expires_at IS NULL OR expires_at > now())
      AND (priority, next_retry_at) < ($1::smallint, $2::timestamptz) LIMIT {MOST_AHEAD}) AS few
) AS ahead, (
    SELECT count(*) FROM email_attempts
    WHERE started_at > now() - interval '1 minute' AND outcome <> 'released'
) AS last_minute
"""


async def read_ahead(pool: asyncpg.Pool, priority: int, due_at: datetime) -> Row:
    """Count what is due before an e-mail of this priority and time.

    Returns:
        ahead, in e-mails up to MOST_AHEAD, and last_minute: the fleet's attempts of that minute.
    """
    (row,) = await pool.fetch(AHEAD_SQL, priority, due_at)
    return dict(row)


TEMPLATE_SQL = """
SELECT id::text AS id, name, octet_length(subject) AS subject_bytes,
    octet_length(body_text) AS body_text_bytes, octet_length(body_html) AS body_html_bytes,
    CASE WHEN $2 THEN subject END AS subject,
    CASE WHEN $2 THEN body_text END AS body_text, CASE WHEN $2 THEN body_html END AS body_html
FROM email_templates WHERE id::text = $1
"""


async def read_template(pool: asyncpg.Pool, template_id: str, *, with_content: bool) -> Row | None:
    """Return a template: id, name, the sizes of its parts; the parts only with_content."""
    row = await pool.fetchrow(TEMPLATE_SQL, template_id, with_content)
    return dict(row) if row else None


async def read_attachments(mongo: 'Mongo', content_id: str) -> list[Row]:
    """Return filename, content_type and cid of an e-mail's attachments, without their data.

    Raises:
        pymongo.errors.PyMongoError: MongoDB does not answer.
    """
    found = mongo[COLLECTION].find(
        {'content_id': content_id}, {'_id': 0, 'filename': 1, 'content_type': 1, 'cid': 1}
    )
    return list(await found.sort('position', 1).to_list(None))
