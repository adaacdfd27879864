"""The open e-mails: counted by what becomes of them, and those that are sent now or next."""

from collections import Counter
from collections.abc import Iterable

import asyncpg

from db.history import MINUTE_SPAN_S, MOST_LATEST
from db.late import TAKEN_BACK
from db.states import HAS_ATTEMPTS, IS_CLAIMED, IS_SENDING
from db.times import Row, elapsed_s, rows_of
from db.waiting import Group, Waiting, read_waiting

STATES = (
    'due', 'scheduled', 'sending', 'stuck', 'retrying', 'dead', 'uncertain', 'held', 'past_expiry',
)  # fmt: skip

# Minutes that are counted, and the attempts since. Some of these at most: at a great rate a duty
# has counted nearly all of them. error: somebody was refused all the same.
SENT_SQL = f"""
WITH progress AS (
    SELECT counted_until FROM mail_history_progress
), counted AS (
    SELECT dimension, at, attempts FROM mail_history
    WHERE span_s = {MINUTE_SPAN_S} AND dimension IN ('all', 'in part')
      AND at > now() - interval '1 day' AND outcome = 'accepted'
), latest AS (
    SELECT started_at, error FROM email_attempts
    WHERE recorded_at >= GREATEST((SELECT counted_until FROM progress), now() - interval '1 day')
      AND started_at > now() - interval '1 day' AND outcome = 'accepted' LIMIT {MOST_LATEST}
)
SELECT (SELECT COALESCE(sum(attempts), 0) FROM counted
        WHERE dimension = 'all' AND at > now() - interval '1 hour')::bigint
    + (SELECT count(*) FROM latest WHERE started_at > now() - interval '1 hour') AS sent_last_hour,
    (SELECT COALESCE(sum(attempts), 0) FROM counted WHERE dimension = 'in part')::bigint
    + (SELECT count(NULLIF(error, '{TAKEN_BACK}')) FROM latest) AS sent_in_part_last_day
"""


async def read_outbox(pool: asyncpg.Pool) -> Row:
    """Count the e-mails that are not finished.

    Returns:
        due (a worker may claim it now) and oldest_due_s (None without any), scheduled (pending,
        later), sending, stuck (sending, but the lease ran out more than 30 s ago), retrying
        (failed, with a time), dead (failed, without), uncertain (will be tried again), held (waits
        for an operator: of that status, or uncertain for good), held_unsent (those of that status
        alone), past_expiry, sent_last_hour, sent_in_part_last_day (a relay took it, but not for
        every recipient); counted_s and is_at_least, see db.waiting.Waiting.
    """
    waiting = await read_waiting(pool)
    [sent] = await pool.fetch(SENT_SQL)
    return outbox_row(waiting) | dict(sent)


def outbox_row(waiting: Waiting) -> Row:
    """Add the parts up, by state."""
    emails: Counter[str] = Counter()
    for group in waiting.groups:
        emails[group.state] += group.emails
    return {
        'due': emails['due'],
        'oldest_due_s': _oldest_s(waiting, waiting.groups),
        **{state: emails[state] for state in STATES[1:]},
        'held_unsent': sum(group.emails for group in waiting.groups if group.part == 'held'),
        'counted_s': waiting.counted_s,
        'is_at_least': waiting.is_at_least,
    }


def _oldest_s(waiting: Waiting, groups: Iterable[Group]) -> float | None:
    times = [g.oldest_due_at_s for g in groups if g.oldest_due_at_s is not None]
    return waiting.now_s - min(times) if times else None


ANY_PAUSED_SQL = "SELECT EXISTS (SELECT FROM mail_switches WHERE kind = 'email_type')"
NONE_PAUSED = {'due': 0, 'others_due': 0, 'oldest_due_s': None, 'oldest_other_s': None}


async def read_paused_due(pool: asyncpg.Pool) -> Row:
    """Count the due e-mails whose type is paused, and the others.

    Nothing is read while no type is paused.

    Returns:
        due and oldest_due_s of the paused types (0 and None without any), others_due and
        oldest_other_s of all others.
    """
    if not await pool.fetchval(ANY_PAUSED_SQL):
        return dict(NONE_PAUSED)
    waiting = await read_waiting(pool)
    due = [group for group in waiting.groups if group.state == 'due']
    paused = [group for group in due if group.is_paused]
    others = [group for group in due if not group.is_paused]
    return {
        'due': sum(group.emails for group in paused),
        'others_due': sum(group.emails for group in others),
        'oldest_due_s': _oldest_s(waiting, paused),
        'oldest_other_s': _oldest_s(waiting, others),
    }


ACTIVE_SQL = f"""
SELECT id, claimed_by AS worker, email_type::text AS email_type, relay AS last_relay,
    COALESCE(attempts, 0) AS attempt, COALESCE(max_attempts, 32767) AS max_attempts,
    claimed_at, {elapsed_s('claimed_at')} AS claimed_s,
    {elapsed_s('now()', 'lease_expires_at')} AS lease_ends_in_s
FROM mail_outbox WHERE {IS_SENDING} ORDER BY claimed_at, id LIMIT $1
"""


async def read_active(pool: asyncpg.Pool, limit: int) -> list[Row]:
    """Return the e-mails that are being sent, the oldest claim first.

    last_relay is the relay of an earlier attempt.
    """
    return rows_of(await pool.fetch(ACTIVE_SQL, limit))


SCHEDULED_SQL = f"""
SELECT id, email_type::text AS email_type, status,
    COALESCE(attempts, 0) AS attempts, COALESCE(max_attempts, 32767) AS max_attempts,
    next_retry_at, {elapsed_s('now()', 'next_retry_at')} AS due_in_s, count(*) OVER () AS total
FROM mail_outbox
WHERE {IS_CLAIMED} AND next_retry_at > now() AND {HAS_ATTEMPTS}
ORDER BY next_retry_at LIMIT $1
"""


async def read_scheduled(pool: asyncpg.Pool, limit: int) -> tuple[int, list[Row]]:
    """Return how many e-mails have a time to come, and the next of them."""
    rows = rows_of(await pool.fetch(SCHEDULED_SQL, limit))
    total = max((row.pop('total') for row in rows), default=0)
    return total, rows
