"""What operators read: the outbox, its attempts, duties and services, as plain dicts that become JSON.

Every function raises asyncpg.PostgresError or OSError when PostgreSQL does not answer. Ages (_s)
are in seconds, by the database's clock.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg

from db.content import COLLECTION, Mongo
from db.late import TAKEN_BACK
from db.times import as_row, elapsed_s

Row = dict[str, Any]

# Each branch is one of the table's partial indexes, so what is sent is never read. The states are
# disjoint. A time before 2000 is nobody's: such a row counts as one of that year.
OUTBOX_SQL = """
WITH open AS (
    SELECT status, next_retry_at, attempts, max_attempts, expires_at, lease_expires_at, created_at FROM mail_outbox
    WHERE status IN ('pending', 'failed', 'uncertain') AND next_retry_at IS NOT NULL
    UNION ALL
    SELECT status, created_at, attempts, max_attempts, expires_at, lease_expires_at, created_at FROM mail_outbox
    WHERE status = 'pending' AND next_retry_at IS NULL
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, lease_expires_at, created_at FROM mail_outbox
    WHERE status = 'sending'
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, NULL, created_at FROM mail_outbox
    WHERE status IN ('failed', 'uncertain') AND next_retry_at IS NULL
    UNION ALL
    SELECT status, NULL, attempts, max_attempts, NULL, NULL, created_at FROM mail_outbox WHERE status = 'held'
), judged AS (
    SELECT status, next_retry_at, CASE
        WHEN status = 'sending' AND lease_expires_at < now() - interval '30 seconds' THEN 'stuck'
        WHEN status = 'sending' THEN 'sending'
        WHEN status <> 'pending' AND (next_retry_at IS NULL OR attempts >= max_attempts)
            THEN CASE status WHEN 'failed' THEN 'dead' ELSE 'held' END -- also what has the status `held`
        WHEN expires_at <= now() THEN 'past_expiry'
        WHEN next_retry_at <= now() THEN 'due'
        WHEN status = 'pending' THEN 'scheduled'
        WHEN status = 'failed' THEN 'retrying'
        ELSE 'uncertain' END AS state
    FROM open
)
SELECT * FROM (SELECT count(*) FILTER (WHERE state = 'due') AS due,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE state = 'due'))::float8 AS oldest_due_s,
    count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
    count(*) FILTER (WHERE state = 'sending') AS sending,
    count(*) FILTER (WHERE state = 'stuck') AS stuck,
    count(*) FILTER (WHERE state = 'retrying') AS retrying,
    count(*) FILTER (WHERE state = 'dead') AS dead,
    count(*) FILTER (WHERE state = 'uncertain') AS uncertain,
    count(*) FILTER (WHERE state = 'held') AS held,
    count(*) FILTER (WHERE status = 'held') AS held_unsent,
    count(*) FILTER (WHERE state = 'past_expiry') AS past_expiry
FROM judged) AS waiting CROSS JOIN (
    -- error: somebody was refused all the same
    SELECT count(*) FILTER (WHERE started_at > now() - interval '1 hour') AS sent_last_hour,
        count(NULLIF(error, '__LATE__')) AS sent_in_part_last_day
    FROM email_attempts WHERE outcome = 'accepted' AND started_at > now() - interval '1 day'
) AS sent
""".replace('__LATE__', TAKEN_BACK)


async def read_outbox(pool: asyncpg.Pool) -> Row:
    """Count the e-mails that are not finished.

    Returns:
        due (a worker may claim it now) and oldest_due_s (None without any), scheduled (pending,
        later), sending, stuck (sending, but the lease ran out more than 30 s ago), retrying
        (failed, with a time), dead (failed, without), uncertain (will be tried again), held (waits
        for an operator: of that status, or uncertain for good), held_unsent (those of that status
        alone), past_expiry, sent_last_hour, sent_in_part_last_day (a relay took it, but not for
        every recipient).
    """
    (row,) = await pool.fetch(OUTBOX_SQL)
    return dict(row)


# The same rows that OUTBOX_SQL counts as due, by whether an operator has paused their type.
PAUSED_DUE_SQL = """
WITH paused AS (SELECT name FROM mail_switches WHERE kind = 'email_type'), open AS (
    SELECT email_type::text, next_retry_at, expires_at FROM mail_outbox
    WHERE status IN ('pending', 'failed', 'uncertain') AND next_retry_at <= now()
      AND (status = 'pending' OR attempts < max_attempts) AND EXISTS (SELECT FROM paused)
    UNION ALL
    SELECT email_type::text, created_at, expires_at FROM mail_outbox
    WHERE status = 'pending' AND next_retry_at IS NULL AND EXISTS (SELECT FROM paused)
), judged AS (
    SELECT next_retry_at, COALESCE(email_type IN (SELECT name FROM paused), false) AS is_paused FROM open
    WHERE expires_at IS NULL OR expires_at > now()
)
SELECT count(*) FILTER (WHERE is_paused) AS due, count(*) FILTER (WHERE NOT is_paused) AS others_due,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE is_paused))::float8 AS oldest_due_s,
    EXTRACT(EPOCH FROM now() - min(GREATEST(next_retry_at, '2000-01-01'))
        FILTER (WHERE NOT is_paused))::float8 AS oldest_other_s
FROM judged
"""


async def read_paused_due(pool: asyncpg.Pool) -> Row:
    """Count the due e-mails whose type is paused, and the others; nothing is read while no type is.

    Returns:
        due and oldest_due_s of the paused types (0 and None without any), others_due and
        oldest_other_s of all others.
    """
    (row,) = await pool.fetch(PAUSED_DUE_SQL)
    return dict(row)


# A lease that runs is the proof of a life: somebody renewed it seconds ago. A duty's run is a
# trace.
SEEN_WORKERS_SQL = f"""
SELECT worker, sum(sending)::bigint AS sending, bool_or(alive) AS alive, max(seen_at) AS last_seen_at,
    {elapsed_s('max(seen_at)')} AS last_seen_s
FROM (
    SELECT claimed_by AS worker, count(*) AS sending, bool_or(lease_expires_at > now()) AS alive,
        max(claimed_at) AS seen_at
    FROM mail_outbox WHERE status = 'sending' GROUP BY claimed_by
    UNION ALL
    SELECT worker, 0, bool_or(finished_at IS NULL AND lease_expires_at > now()),
        max(COALESCE(finished_at, started_at))
    FROM cron_runs WHERE slot > now() - interval '1 hour' AND started_at > now() - interval '1 hour' GROUP BY worker
) AS seen
GROUP BY worker ORDER BY last_seen_at DESC
"""  # noqa: S608 - constants of this module


async def read_seen_workers(pool: asyncpg.Pool) -> list[Row]:
    """Return the workers that left a trace in PostgreSQL within the hour, the latest first.

    Returns:
        worker, sending (e-mails it holds), alive (True: it holds a lease that runs), last_seen_at,
        last_seen_s.
    """
    return _rows(await pool.fetch(SEEN_WORKERS_SQL))


# By the primary key, a few rows of each duty: the table holds weeks of runs, and screens ask every
# few seconds.
DUTIES_SQL = """
WITH RECURSIVE duties AS (
    (SELECT duty FROM cron_runs ORDER BY duty LIMIT 1)
    UNION ALL
    SELECT (SELECT duty FROM cron_runs WHERE duty > duties.duty ORDER BY duty LIMIT 1)
    FROM duties WHERE duties.duty IS NOT NULL
)
SELECT last.duty, slot, worker, started_at, finished_at,
    CASE WHEN finished_at IS NOT NULL THEN outcome WHEN lease_expires_at > now() THEN 'running' ELSE 'cut off' END
        AS outcome, affected, detail, EXTRACT(EPOCH FROM now() - started_at)::float8 AS started_s, (
        SELECT finished_at FROM cron_runs WHERE duty = last.duty AND outcome = 'done' ORDER BY slot DESC LIMIT 1
    ) AS succeeded_at
FROM duties CROSS JOIN LATERAL (
    SELECT * FROM cron_runs WHERE duty = duties.duty ORDER BY slot DESC LIMIT 1
) AS last ORDER BY last.duty
"""


async def read_duties(pool: asyncpg.Pool) -> list[Row]:
    """Return the last run of each cron duty: duty, slot, worker, started_at, outcome, affected, detail, ...

    succeeded_at is when a run last ended well, be it this one or an earlier one; None when none
    did.

    detail is what the job returned, or {'error': ...}; text where what was stored is no JSON, as
    when it was too long.
    """
    return [row | {'detail': _detail(row['detail'])} for row in _rows(await pool.fetch(DUTIES_SQL))]


def _detail(stored: str | None) -> Any:
    try:
        return stored and json.loads(stored)
    except ValueError:
        return stored


SERVICES_SQL = """
SELECT DISTINCT ON (service_name) service_name AS service, status, response_time_ms, error_message AS error, checked_at,
    EXTRACT(EPOCH FROM now() - checked_at)::float8 AS checked_s
FROM mail_service_health WHERE checked_at > now() - interval '1 day' ORDER BY service_name, checked_at DESC
"""


async def read_services(pool: asyncpg.Pool) -> list[Row]:
    """Return what the last check within a day said of each service: service, status, response_time_ms, error, ..."""
    return _rows(await pool.fetch(SERVICES_SQL))


ACTIVE_SQL = f"""
SELECT id, claimed_by AS worker, email_type::text AS email_type, relay AS last_relay, COALESCE(attempts, 0) AS attempt,
    COALESCE(max_attempts, 32767) AS max_attempts, claimed_at, {elapsed_s('claimed_at')} AS claimed_s,
    {elapsed_s('now()', 'lease_expires_at')} AS lease_ends_in_s
FROM mail_outbox WHERE status = 'sending' ORDER BY claimed_at, id LIMIT $1
"""  # noqa: S608 - constants of this module


async def read_active(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Return the e-mails that are being sent, the oldest claim first. last_relay is that of an earlier attempt."""
    return _rows(await pool.fetch(ACTIVE_SQL, limit))


SCHEDULED_SQL = f"""
SELECT id, email_type::text AS email_type, status,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts, next_retry_at,
    {elapsed_s('now()', 'next_retry_at')} AS due_in_s, count(*) OVER () AS total
FROM mail_outbox
WHERE status IN ('pending', 'failed', 'uncertain') AND next_retry_at > now()
  AND (status = 'pending' OR attempts < max_attempts)
ORDER BY next_retry_at LIMIT $1
"""  # noqa: S608 - constants of this module


async def read_scheduled(pool: asyncpg.Pool, limit: int) -> tuple[int, list[Row]]:
    """Return how many e-mails have a time to come, and the next of them."""
    rows = _rows(await pool.fetch(SCHEDULED_SQL, limit))
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows


ATTEMPTS_BY_WORKER_SQL = """
SELECT worker, outcome, count(*) AS day, count(*) FILTER (WHERE started_at > now() - interval '1 hour') AS hour
FROM email_attempts WHERE started_at > now() - interval '1 day' GROUP BY worker, outcome ORDER BY worker, outcome
"""


async def count_attempts(pool: asyncpg.Pool) -> list[Row]:
    """Count attempts by worker and outcome: worker, outcome, hour (the last one), day (the last 24 hours)."""
    return _rows(await pool.fetch(ATTEMPTS_BY_WORKER_SQL))


# Bodies of password resets are secrets: they are read only when they are asked for, and no more
# than a screen can use; their sizes tell what is missing.
EMAIL_SQL = """
SELECT id, status, recipient, subject, email_type::text AS email_type, template_id::text AS template_id,
    user_id::text AS user_id, organization_id::text AS organization_id, priority,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    next_retry_at, expires_at, created_at, updated_at, last_attempt_at, sent_at, message_id, message_date,
    idempotency_key, content_id, claimed_by, claimed_at, lease_expires_at, lost_attempts, relay, smtp_code,
    enhanced_code, smtp_response, last_error, dead_reason, recipient_outcomes, headers,
    octet_length(body_text) AS body_text_bytes, octet_length(body_html) AS body_html_bytes,
    octet_length(template_data::text) AS template_data_bytes,
    CASE WHEN $2 THEN left(body_text, 1000000) END AS body_text,
    CASE WHEN $2 THEN left(body_html, 1000000) END AS body_html,
    CASE WHEN $2 THEN left(template_data::text, 1000000) END AS template_data, now() AS read_at
FROM mail_outbox WHERE id = $1
"""


async def read_email(pool: asyncpg.Pool, email_id: int, *, with_content: bool) -> Row | None:
    """Return one row with read_at, the database's time; bodies and template data only with_content."""
    row = await pool.fetchrow(EMAIL_SQL, email_id, with_content)
    return dict(row) if row else None


ATTEMPTS_SQL = """
SELECT attempt, started_at, worker, outcome, phase, relay, smtp_code, enhanced_code, reply, error, duration_ms
FROM email_attempts WHERE email_id = $1 ORDER BY started_at
"""


async def read_attempts(pool: asyncpg.Pool, email_id: int) -> list[Row]:
    """Return every attempt of one e-mail, the first first."""
    return _rows(await pool.fetch(ATTEMPTS_SQL, email_id))


STATES_SQL = """
SELECT id, status, attempts, max_attempts, next_retry_at, claimed_by, sent_at, dead_reason
FROM mail_outbox WHERE id = ANY($1::bigint[])
"""


async def read_states(pool: asyncpg.Pool, email_ids: Sequence[int]) -> dict[int, Row]:
    """Return what decides whether an operator may change these e-mails; unknown ids are missing."""
    return {row['id']: dict(row) for row in await pool.fetch(STATES_SQL, email_ids)}


# The due index in its own order. What is suspect or over does not stand in anybody's way.
AHEAD_SQL = """
SELECT (
    SELECT count(*) FROM mail_outbox
    WHERE status IN ('pending', 'failed', 'uncertain') AND next_retry_at IS NOT NULL AND next_retry_at <= now()
      AND (status = 'pending' OR attempts < max_attempts) AND lost_attempts = 0
      AND (expires_at IS NULL OR expires_at > now()) AND (priority, next_retry_at) < ($1::smallint, $2::timestamptz)
) AS ahead, (
    SELECT count(*) FROM email_attempts WHERE started_at > now() - interval '1 minute' AND outcome <> 'released'
) AS last_minute
"""


async def read_ahead(pool: asyncpg.Pool, priority: int, due_at: datetime) -> Row:
    """Count the due e-mails that a sweep takes before one of this priority and time, and the last minute's attempts."""
    (row,) = await pool.fetch(AHEAD_SQL, priority, due_at)
    return dict(row)


TEMPLATE_SQL = """
SELECT id::text AS id, name, octet_length(subject) AS subject_bytes, octet_length(body_text) AS body_text_bytes,
    octet_length(body_html) AS body_html_bytes, CASE WHEN $2 THEN subject END AS subject,
    CASE WHEN $2 THEN body_text END AS body_text, CASE WHEN $2 THEN body_html END AS body_html
FROM email_templates WHERE id::text = $1
"""


async def read_template(pool: asyncpg.Pool, template_id: str, *, with_content: bool) -> Row | None:
    """Return a template: id, name, the sizes of its parts; the parts themselves only with_content."""
    row = await pool.fetchrow(TEMPLATE_SQL, template_id, with_content)
    return dict(row) if row else None


async def read_attachments(mongo: Mongo, content_id: str) -> list[Row]:
    """Return filename, content_type and cid of an e-mail's attachments, without their data.

    Raises:
        pymongo.errors.PyMongoError: MongoDB does not answer.
    """
    found = mongo[COLLECTION].find(
        {'content_id': content_id}, {'_id': 0, 'filename': 1, 'content_type': 1, 'cid': 1}
    )
    return list(await found.sort('position', 1).to_list(None))


def _rows(records: Sequence[asyncpg.Record]) -> list[Row]:
    return [as_row(record) for record in records]
