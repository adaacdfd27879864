"""Rows that another system's messages were about: what they become here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from db.adoption.quoting import case, literal
from db.adoption.takeover import CUT_OFF
from db.adoption.words import choose_words, count_words
from db.states import OVER_UNSENT, sql_list
from mail_outbox.envelope import BY_LIFE
from mail_outbox.states import Status


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A message asked for this e-mail: not before a time; a retry also when it had ended."""

    email_id: int
    retry: bool = False
    not_before: datetime | None = None
    lapsed: bool = False  # the message itself had expired: it asks for nothing any more


def merged(requests: Collection[ImportRequest]) -> list[ImportRequest]:
    """Return one request per e-mail.

    It has the earliest time, is a retry if any was one, and lapsed only if all are.
    """
    by_id: dict[int, ImportRequest] = {}
    for request in sorted(requests, key=lambda r: r.lapsed):
        other = by_id.get(request.email_id, request)
        if request.lapsed and not other.lapsed:
            continue
        times = (request.not_before, other.not_before)
        earliest = None if None in times else min(time for time in times if time)
        by_id[request.email_id] = ImportRequest(
            request.email_id, request.retry or other.retry, earliest, lapsed=request.lapsed
        )
    return list(by_id.values())


# What decides, with the type that stands for a column that an adopted table does not have yet.
_DECIDING = {
    'next_retry_at': 'timestamptz',
    'last_attempt_at': 'timestamptz',
    'created_at': 'timestamptz',
    'expires_at': 'timestamptz',
}
# An uncertain e-mail may have been delivered by the worker that had the message, so an operator
# decides about it; so he does about one that has been due for so long that nobody waits for it any
# more, unless somebody asked to retry it.
_JUDGED = f"""
asked AS (
    SELECT * FROM unnest($1::bigint[], $2::boolean[], $3::timestamptz[], $4::boolean[])
        AS a (id, retry, not_before, lapsed)
), judged AS (
    SELECT a.id, f.status, a.retry, a.not_before, a.lapsed, CASE
        WHEN f.status IN ('pending', 'failed')
            OR (a.retry AND f.status IN ({sql_list((*OVER_UNSENT, Status.HELD))})) THEN CASE
            WHEN a.lapsed AND (f.status = 'pending' OR f.next_retry_at IS NOT NULL) THEN 'held'
            WHEN a.lapsed THEN f.status
            WHEN a.retry THEN 'pending'
            WHEN f.expires_at <= now() THEN f.status
            WHEN COALESCE(a.not_before, f.next_retry_at,
                          CASE WHEN f.status = 'failed' THEN f.last_attempt_at END, f.created_at)
                < now() - $5::interval THEN 'held'
            ELSE 'pending' END
        END AS becomes,
        COALESCE(f.expires_at <= now() AND f.status IN ('pending', 'failed') AND NOT a.retry, false)
            AS is_over
    FROM asked AS a LEFT JOIN found AS f ON f.id = a.id
)"""
_OUTCOME = """
CASE WHEN status IS NULL THEN 'missing' WHEN becomes IS NULL THEN status
     WHEN lapsed THEN 'task expired'
     WHEN is_over THEN 'expired' WHEN becomes = 'held' THEN 'held' ELSE 'due' END"""
# Of a row that the other system had, its own word tells the state.
_STATE = (
    "CASE WHEN e.status = 'external' THEN COALESCE(outbox_state(n.status::text), 'external') "
    'ELSE e.status END'
)

PREVIEW_SQL = f"""
WITH found AS (
    SELECT e.id, {_STATE} AS status, e.next_retry_at, e.last_attempt_at, e.created_at, e.expires_at
    FROM mail_outbox AS e JOIN outbound_emails AS n ON n.id = e.id WHERE e.id = ANY($1::bigint[])
), {_JUDGED}
SELECT id, {_OUTCOME} AS outcome FROM judged
"""

COLUMNS_SQL = (
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('outbound_emails') "
    'AND attnum > 0'
)
IS_EXPANDED_SQL = "SELECT to_regclass('mail_outbox') IS NOT NULL"


def _preview_before(columns: Collection[str]) -> str:
    """Return PREVIEW_SQL for a table that this program has not touched yet."""
    deciding = ', '.join(
        name if name in columns else f'NULL::{kind} AS {name}' for name, kind in _DECIDING.items()
    )
    return f"""
WITH found AS (
    SELECT id, lower(status::text) AS status, {deciding} FROM outbound_emails
    WHERE id = ANY($1::bigint[])
), {_JUDGED}
SELECT id, {_OUTCOME} AS outcome FROM judged
"""


async def preview(
    conn: asyncpg.Connection, requests: Sequence[ImportRequest], *, hold_after: timedelta
) -> dict[int, str]:
    """Say what make_due would do, also before the table is adopted.

    Args:
        requests: At most one per e-mail, see merged.
        hold_after: What has been due for longer is held for an operator.
    Returns:
        For each e-mail: 'due', 'held', 'task expired', 'missing', or the state it stays in: sent,
        cancelled ...
    """
    sql = PREVIEW_SQL
    if not await conn.fetchval(IS_EXPANDED_SQL):
        sql = _preview_before([row['attname'] for row in await conn.fetch(COLUMNS_SQL)])
    rows = await conn.fetch(sql, *_columns(requests), hold_after)
    return {row['id']: row['outcome'] for row in rows}


MAKE_DUE_SQL = f"""
WITH found AS (
    SELECT e.id, {_STATE} AS status, e.next_retry_at, e.last_attempt_at, e.created_at, e.expires_at
    FROM mail_outbox AS e JOIN outbound_emails AS n ON n.id = e.id WHERE e.id = ANY($1::bigint[])
    ORDER BY e.id FOR UPDATE OF e, n
), {_JUDGED}, made AS (
    UPDATE mail_outbox AS e
    SET status = j.becomes, dead_reason = NULL,
        next_retry_at = CASE
            WHEN j.becomes = 'held' THEN e.next_retry_at
            WHEN j.not_before IS NOT NULL THEN j.not_before
            WHEN j.status = 'pending' THEN LEAST(e.next_retry_at, now())
            ELSE now() END,
        max_attempts = CASE WHEN j.becomes = 'held' OR j.status = 'pending' THEN e.max_attempts
                            ELSE GREATEST(e.max_attempts, e.attempts + 1) END,
        expires_at = CASE WHEN j.retry AND NOT j.lapsed
          AND e.expires_at <= GREATEST(now(), j.not_before)
                          THEN GREATEST(now(), j.not_before) + $6 * interval '1 hour'
                              ELSE e.expires_at END,
        last_error = CASE WHEN j.lapsed
            THEN 'the task of the previous system that was to send it had expired'
                          ELSE e.last_error END,
        updated_at = now()
    FROM judged AS j
    WHERE e.id = j.id AND NOT j.is_over
      AND (j.becomes = 'pending' OR (j.becomes = 'held' AND j.status <> 'held'))
)
SELECT id, {_OUTCOME} AS outcome FROM judged
"""


async def make_due(
    pool: asyncpg.Pool,
    requests: Sequence[ImportRequest],
    *,
    hold_after: timedelta,
    expiry_hours: float,
) -> dict[int, str]:
    """Make e-mails due that a message asked for, and ours if they were not.

    It is one statement; a second time changes nothing.

    One with a time is not due before it, whatever its row says; one that has been due for too long
    is held.

    Args:
        requests: At most one per e-mail, see merged.
        hold_after: See preview.
        expiry_hours: The new life of what had expired and is to be retried.
    Returns:
        As preview.
    Raises:
        asyncpg.PostgresError, OSError: connection or statement failure; nothing was changed.
    """
    rows = await pool.fetch(MAKE_DUE_SQL, *_columns(requests), hold_after, expiry_hours)
    return {row['id']: row['outcome'] for row in rows}


def _columns(
    requests: Sequence[ImportRequest],
) -> tuple[list[int], list[bool], list[datetime | None], list[bool]]:
    return (
        [r.email_id for r in requests],
        [r.retry for r in requests],
        [r.not_before for r in requests],
        [r.lapsed for r in requests],
    )


NOT_ENDED_SQL = f"""
SELECT e.id FROM mail_outbox AS e JOIN outbound_emails AS n ON n.id = e.id
WHERE e.id = ANY($1::bigint[])
  AND ({_STATE} IN ('pending', 'held') OR ({_STATE} = 'failed' AND e.next_retry_at IS NOT NULL)
       OR (e.status = 'uncertain' AND e.message_id IS NULL AND e.last_error = {literal(CUT_OFF)}))
"""
# Once adoption was undone: what ended here shows `failed` without an attempt left. Which columns
# there are, nobody knows.
NOT_ENDED_UNDONE_SQL = """
SELECT id FROM outbound_emails AS e
WHERE id = ANY($1::bigint[]) AND (outbox_state(status::text) IN ('pending', 'sending')
    OR (outbox_state(status::text) = 'failed' AND COALESCE((to_jsonb(e) ->> 'attempts')::int, 0)
        < COALESCE((to_jsonb(e) ->> 'max_attempts')::int, 1)))
"""


async def not_ended(conn: asyncpg.Connection, email_ids: Collection[int]) -> set[int]:
    """Return those of these e-mails that are neither sent nor given up.

    Another system may send them.
    """
    sql = NOT_ENDED_SQL if await conn.fetchval(IS_EXPANDED_SQL) else NOT_ENDED_UNDONE_SQL
    return {row['id'] for row in await conn.fetch(sql, list(email_ids))}


# What another system's messages may still be about. Before the take-over e-mails of queue_email are
# none of its.
OPEN_SQL = f"""
SELECT e.id FROM mail_outbox AS e JOIN outbound_emails AS n ON n.id = e.id
WHERE e.id = ANY($1::bigint[]) AND (e.status = 'external' OR NOT $3::boolean)
  AND ({_STATE} IN ('pending', 'sending', 'held')
      OR ({_STATE} = 'failed' AND CASE WHEN e.status = 'external'
      THEN COALESCE(e.attempts, 0) < COALESCE(e.max_attempts, $2)
          ELSE e.next_retry_at IS NOT NULL END))
"""


def _open_before(columns: Collection[str]) -> str:
    """Return OPEN_SQL for a table that this program has not touched yet."""
    attempts, most = (
        name if name in columns else 'NULL::int' for name in ('attempts', 'max_attempts')
    )
    return f"""
WITH found AS (
    SELECT {case('lower(status::text)', choose_words(()).read, 'NULL')} AS state,
        id, {attempts} AS attempts, {most} AS max_attempts
    FROM outbound_emails WHERE id = ANY($1::bigint[])
)
SELECT id FROM found WHERE state IN ('pending', 'sending', 'held')
    OR (state = 'failed' AND COALESCE(attempts, 0) < COALESCE(max_attempts, $2))
"""


async def still_open(
    conn: asyncpg.Connection,
    email_ids: Collection[int],
    *,
    max_attempts: int | None,
    only_theirs: bool,
) -> set[int]:
    """Return those of these e-mails that are open, also before the table is adopted.

    Args:
        max_attempts: Of rows that do not say.
        only_theirs: Not the e-mails that are ours already.
    """
    asked = list(email_ids), max_attempts or BY_LIFE
    if await conn.fetchval(IS_EXPANDED_SQL):
        rows = await conn.fetch(OPEN_SQL, *asked, only_theirs)
    else:
        rows = await conn.fetch(
            _open_before([row['attname'] for row in await conn.fetch(COLUMNS_SQL)]), *asked
        )
    return {row['id'] for row in rows}


LEASED_SQL = (
    "SELECT count(*) FROM mail_outbox WHERE status = 'sending' AND lease_expires_at > now()"
)


async def count_leased(conn: asyncpg.Connection) -> int:
    """Count the e-mails that a living worker of ours is sending; 0 before the table is adopted."""
    return int(await conn.fetchval(LEASED_SQL)) if await conn.fetchval(IS_EXPANDED_SQL) else 0


async def count_statuses(conn: asyncpg.Connection) -> dict[str, int] | None:
    """Count a table's e-mails by their own words, also before it is adopted.

    None: there is no such table.
    """
    if await conn.fetchval("SELECT to_regclass('outbound_emails')") is None:
        return None
    return {str(word): emails for word, emails in (await count_words(conn)).items()}
