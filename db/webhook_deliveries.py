"""Deliveries of events: claimed, recorded, given up.

A claim is a token and the next_retry_at at which it ends: what its worker does not record by then
is due again, so nobody has to rescue it. Functions here raise asyncpg.PostgresError or OSError when
the connection or the statement fails.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson

from db.results import storable

# An endpoint that fails gets one delivery at a time, and none while it cools down.
FAILURES_COOL = 3


class ClaimedDelivery(NamedTuple):
    """A delivery to make, and where to: as it stands when it is claimed."""

    id: int
    webhook_id: int
    claim_token: UUID
    message_id: UUID
    event_type: str
    payload: str
    attempt: int
    url: str
    secrets: Sequence[str]


# A later event of an e-mail waits for the earlier ones, whoever delivers them. FOR UPDATE inside:
# each endpoint's share is its own, so one with much that waits takes nothing from the others.
CLAIM_DELIVERIES_SQL = """
WITH room AS (
    SELECT w.id, w.url, CASE WHEN w.failures > 0 THEN LEAST(r.room, 1) ELSE r.room END AS room,
        CASE WHEN w.previous_secret_until > now() THEN ARRAY[w.secret, w.previous_secret]
             ELSE ARRAY[w.secret] END AS secrets
    FROM mail_webhooks AS w
    CROSS JOIN LATERAL (
        SELECT COALESCE(($1::text::jsonb ->> w.id::text)::integer, $2::integer) AS room
    ) AS r
    WHERE w.enabled AND (w.cool_until IS NULL OR w.cool_until <= now()) AND r.room > 0
), next AS (
    SELECT d.id, room.url, room.secrets FROM room
    CROSS JOIN LATERAL (
        SELECT d.id FROM mail_webhook_deliveries AS d
        WHERE d.webhook_id = room.id AND d.status = 'waiting' AND d.next_retry_at <= now()
          AND NOT EXISTS (
              SELECT FROM mail_webhook_deliveries AS before
              WHERE before.webhook_id = d.webhook_id AND before.email_id = d.email_id
                AND before.id < d.id AND before.status = 'waiting')
        ORDER BY d.next_retry_at LIMIT room.room FOR UPDATE OF d SKIP LOCKED
    ) AS d
)
UPDATE mail_webhook_deliveries AS d
SET claim_token = gen_random_uuid(), claimed_by = $3, attempts = d.attempts + 1,
    next_retry_at = now() + $4 * interval '1 second', last_attempt_at = now()
FROM next WHERE d.id = next.id AND d.id = ANY(ARRAY(SELECT id FROM next))
RETURNING d.id, d.webhook_id, d.claim_token, d.message_id, d.event_type,
    d.payload::text AS payload, d.attempts AS attempt, next.url, next.secrets
"""


async def claim_deliveries(
    pool: asyncpg.Pool,
    busy: Mapping[int, int],
    *,
    room: int,
    worker: str,
    lease_s: float,
) -> list[ClaimedDelivery]:
    """Claim what is due, for each endpoint as much as it has room.

    Args:
        busy: How much room is left of endpoints that are being delivered to.
        room: Of all others.
        lease_s: After this the claim ends; longer than a delivery takes.
    """
    rows = await pool.fetch(
        CLAIM_DELIVERIES_SQL, orjson.dumps({str(key): left for key, left in busy.items()}).decode(),
        room, worker, lease_s,
    )  # fmt: skip
    return [ClaimedDelivery(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What became of one try.

    Attributes:
        retry_in_s: None: it was delivered.
        is_gone: The receiver wants no more of anything (410).
    """

    claimed: ClaimedDelivery
    duration_s: float
    http_status: int | None = None
    answer: str | None = None
    error: str | None = None
    retry_in_s: float | None = None
    cool_s: float = 0.0
    is_gone: bool = False


# What is not delivered any more is counted until a day passes without any, or it is replayed.
_GIVEN_UP = """given_up = s.given_up
            + CASE WHEN s.given_up = 0 OR w.given_up_at > now() - interval '1 day'
                   THEN w.given_up ELSE 0 END,
        given_up_at = CASE WHEN s.given_up > 0 THEN now() ELSE w.given_up_at END"""

# The last attempt is at dead_at; what fails then or later is dead. An endpoint's row is written
# only when something about it changes: it would be the one row that all write.
RECORD_DELIVERIES_SQL = f"""
WITH given AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS r (
        id bigint, claim_token uuid, http_status integer, answer text, error text,
        retry_in_s float8, cool_s float8, duration_s float8, is_gone boolean)
), recorded AS (
    UPDATE mail_webhook_deliveries AS d
    SET status = CASE WHEN r.retry_in_s IS NULL THEN 'delivered'
                      WHEN d.dead_at <= now() THEN 'dead' ELSE 'waiting' END,
        next_retry_at = LEAST(now() + r.retry_in_s * interval '1 second',
                              GREATEST(d.dead_at, now())),
        ended_at = CASE WHEN r.retry_in_s IS NULL OR d.dead_at <= now() THEN now() END,
        claim_token = NULL, claimed_by = NULL, http_status = r.http_status, answer = r.answer,
        error = r.error, duration_ms = r.duration_s * 1000
    FROM given AS r
    WHERE d.id = r.id AND d.id = ANY($2::bigint[]) AND d.status = 'waiting'
      AND d.claim_token = r.claim_token
    RETURNING d.id, d.webhook_id, d.status, r.retry_in_s IS NOT NULL AS has_failed, r.error,
        r.cool_s, r.is_gone, d.status = 'dead' AND d.email_id IS NOT NULL AS is_given_up
), summed AS (
    SELECT webhook_id, count(*) FILTER (WHERE has_failed) AS failed,
        bool_and(has_failed) AS all_failed,
        max(error) AS error, max(cool_s) AS cool_s, bool_or(is_gone) AS is_gone,
        count(*) FILTER (WHERE is_given_up) AS given_up
    FROM recorded GROUP BY webhook_id
), told AS (
    UPDATE mail_webhooks AS w
    SET failures = CASE WHEN s.all_failed THEN w.failures + s.failed ELSE 0 END,
        failing_since = CASE WHEN s.all_failed THEN COALESCE(w.failing_since, now()) END,
        last_error = CASE WHEN s.failed > 0 THEN s.error ELSE w.last_error END,
        cool_until = CASE WHEN NOT s.all_failed THEN NULL
            WHEN s.cool_s > 0 OR w.failures + s.failed >= {FAILURES_COOL}
            THEN now() + interval '1 second' * GREATEST(s.cool_s, LEAST($4::float8,
                $3::float8 * 2 ^ LEAST(w.failures + s.failed - {FAILURES_COOL}, 20))) END,
        last_delivered_at = CASE WHEN s.all_failed THEN w.last_delivered_at ELSE now() END,
        enabled = w.enabled AND NOT s.is_gone,
        disabled_reason = CASE WHEN s.is_gone THEN 'it answered 410 Gone'
            ELSE w.disabled_reason END,
        {_GIVEN_UP}
    FROM summed AS s
    WHERE w.id = s.webhook_id
      AND (s.failed > 0 OR w.failures > 0 OR w.last_delivered_at IS NULL
           OR w.last_delivered_at < now() - interval '10 seconds')
    RETURNING w.id, NOT s.all_failed AS is_back
)
SELECT r.id, r.status, COALESCE(w.failures >= {FAILURES_COOL} AND t.is_back, false) AS is_back
FROM recorded AS r
JOIN mail_webhooks AS w ON w.id = r.webhook_id
LEFT JOIN told AS t ON t.id = r.webhook_id
"""


class RecordedDelivery(NamedTuple):
    """What was written: waiting, delivered or dead; and whether its endpoint has just come back."""

    id: int
    status: str
    is_back: bool


async def record_deliveries(
    pool: asyncpg.Pool, results: Sequence[DeliveryResult], *, cool_s: float, most_cool_s: float
) -> list[RecordedDelivery]:
    """Record results, each only if its claim is still the current one.

    Args:
        cool_s: How long an endpoint cools down after FAILURES_COOL failures; doubled each time.
        most_cool_s: At most.
    """
    rows = [
        {
            'id': result.claimed.id,
            'claim_token': str(result.claimed.claim_token),
            'http_status': result.http_status,
            'answer': None if result.answer is None else storable(result.answer),
            'error': None if result.error is None else storable(result.error),
            'retry_in_s': result.retry_in_s,
            'cool_s': result.cool_s,
            'duration_s': result.duration_s,
            'is_gone': result.is_gone,
        }
        for result in results
    ]
    done = await pool.fetch(
        RECORD_DELIVERIES_SQL, orjson.dumps(rows).decode(), [row['id'] for row in rows], cool_s,
        most_cool_s,
    )  # fmt: skip
    return [RecordedDelivery(*row) for row in done]


# What waits longer than it may is dead, tried or not: an endpoint that cools down gets no tries.
# A claim that is not over yet decides itself.
GIVE_UP_DELIVERIES_SQL = f"""
WITH gone AS (
    UPDATE mail_webhook_deliveries SET status = 'dead', ended_at = now(),
        error = COALESCE(error, 'its endpoint was down or disabled for a day'), claim_token = NULL
    WHERE id = ANY(ARRAY(
        SELECT id FROM mail_webhook_deliveries
        WHERE status = 'waiting' AND dead_at < now() - interval '1 minute'
          AND next_retry_at <= now()
        ORDER BY dead_at LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING webhook_id, email_id
), told AS (
    UPDATE mail_webhooks AS w SET {_GIVEN_UP}
    FROM (SELECT webhook_id, count(email_id) AS given_up FROM gone GROUP BY webhook_id) AS s
    WHERE w.id = s.webhook_id
)
SELECT count(*) FROM gone
"""
# An event behind one of the same e-mail that waits for its next try would be looked at by every
# claim until then.
POSTPONE_BLOCKED_SQL = """
WITH blocked AS (
    SELECT d.id, b.next_retry_at
    FROM mail_webhooks AS w
    CROSS JOIN LATERAL (
        SELECT id, webhook_id, email_id FROM mail_webhook_deliveries
        WHERE webhook_id = w.id AND status = 'waiting' AND next_retry_at <= now()
        ORDER BY next_retry_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ) AS d
    CROSS JOIN LATERAL (
        SELECT max(before.next_retry_at) AS next_retry_at FROM mail_webhook_deliveries AS before
        WHERE before.webhook_id = d.webhook_id AND before.email_id = d.email_id
          AND before.id < d.id AND before.status = 'waiting' AND before.claim_token IS NULL
          AND before.next_retry_at > now() + interval '10 seconds'
    ) AS b
    WHERE w.enabled AND (w.cool_until IS NULL OR w.cool_until <= now())
      AND b.next_retry_at IS NOT NULL
)
UPDATE mail_webhook_deliveries AS d SET next_retry_at = blocked.next_retry_at
FROM blocked WHERE d.id = blocked.id AND d.id = ANY(ARRAY(SELECT id FROM blocked))
"""


async def give_up_deliveries(pool: asyncpg.Pool, batch: int = 1000) -> None:
    """Give up all that waited for too long, in batches: where no webhook is enabled, none delivers.

    Args:
        batch: How many by one statement.
    """
    while await pool.fetchval(GIVE_UP_DELIVERIES_SQL, batch) == batch:
        pass


async def keep_order(pool: asyncpg.Pool, batch: int = 1000) -> None:
    """Give up what waited for too long, and put off what waits behind something."""
    await pool.execute(GIVE_UP_DELIVERIES_SQL, batch)
    await pool.execute(POSTPONE_BLOCKED_SQL, batch)


HASTEN_SQL = """
UPDATE mail_webhook_deliveries SET next_retry_at = now()
WHERE id = ANY(ARRAY(
    SELECT id FROM mail_webhook_deliveries
    WHERE webhook_id = $1 AND status = 'waiting' AND claim_token IS NULL AND next_retry_at > now()
    ORDER BY next_retry_at LIMIT 10000 FOR UPDATE SKIP LOCKED))
"""


async def hasten(pool: asyncpg.Pool, webhook_id: int) -> None:
    """Make due what waits for its next try: its endpoint, which was down, is back."""
    await pool.execute(HASTEN_SQL, webhook_id)


HAS_WEBHOOKS_SQL = 'SELECT EXISTS (SELECT FROM mail_webhooks WHERE enabled)'


async def has_webhooks(pool: asyncpg.Pool) -> bool:
    """Whether anybody wants events."""
    found: bool = await pool.fetchval(HAS_WEBHOOKS_SQL)
    return found
