"""Why an e-mail was not claimed, and who looks again when."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from redis.exceptions import RedisError

from db.transitions import expire
from delivery.neighbours import REMEDY
from delivery.runtime import JobResult, Runtime

log = structlog.get_logger()

UNSEEN_RETRY_S = 2.0
LOCKED_RETRY_S = 0.2
LATEST_WAKE_UP_S = (
    30 * 86400.0
)  # jobs for what comes later (`infinity` is a time, too) would only lie in Redis

REASONS = {
    'failed': 'dead: no further automatic attempt',
    'uncertain': 'waits for an operator',
    'held': 'held until an operator releases or cancels it',
    'external': 'the system that was there before sends it',
}


async def explain_unclaimed(
    runtime: Runtime, email_id: int, relay_wait_s: float = 0.0
) -> JobResult:
    """Say why an e-mail was not claimed, and see to it that it is sent when it can be.

    Args:
        relay_wait_s: How long no relay can be used: then nothing was tried.
    """
    state = await runtime.state_of(email_id)
    if state is None:
        # A producer that enqueues before it commits is early, not wrong: look once more.
        await send_later(runtime, email_id, UNSEEN_RETRY_S, 'unseen')
        return not_claimable(email_id, None, unseen_reason(runtime))
    status = state['status']
    if status == 'sent':  # by a sweep, or by another job for the same id
        return {
            'email_id': email_id,
            'status': 'sent',
            'attempts': state['attempts'],
            'reason': 'already sent',
        }
    if state['past_expiry'] and await expire(runtime.pool, [email_id]):
        return not_claimable(email_id, 'expired', 'its expires_at is over')
    due_in_s = state['due_in_s']
    if state['lost_attempts'] and due_in_s is not None and due_in_s <= 0:
        runtime.suspects_wanted.set()
        return not_claimable(
            email_id, status, 'its last worker was lost; such e-mails are sent one at a time'
        )
    exhausted = status != 'pending' and state['attempts'] >= state['max_attempts']
    if status == 'pending' and due_in_s is None:
        due_in_s = 0.0
    if status in ('pending', 'failed', 'uncertain') and due_in_s is not None and not exhausted:
        if state['email_type'] in runtime.switches.email_types:  # resuming it has workers sweep
            return not_claimable(
                email_id, status, f'e-mails of type {state["email_type"]} are paused'
            )
        # Less than zero: it came due, or was released, between the claim and this look; or somebody
        # has the row locked.
        wait_s = max(due_in_s, relay_wait_s, LOCKED_RETRY_S)
        # The same id for the same time, so that a producer that repeats itself adds no job; a new
        # one for a new look.
        when = round(time.time() + wait_s) if due_in_s > 0 else int(time.time() * 1000)
        await send_later(runtime, email_id, wait_s, f'due:{when}')
        what = 'no relay is available' if relay_wait_s > due_in_s else 'not due'
        if runtime.switches.claims_paused:
            what = 'this worker is paused, left to others'
        return not_claimable(email_id, status, f'{what} for {wait_s:.1f} s')
    if status == 'sending':
        return not_claimable(email_id, status, f'held by {state["claimed_by"]}')
    return not_claimable(email_id, status, REASONS.get(status, status))


def unseen_reason(runtime: Runtime) -> str:
    """Say why there may be no such e-mail. Another application's job is not handed on: its own sweep sends it."""
    if others := runtime.neighbours.names:
        log.warning('job.foreign', workers=others[:10], remedy=REMEDY)
        return 'there is no such e-mail here; perhaps it is one of another application, whose own sweep then sends it'
    return 'there is no such e-mail'


async def send_later(runtime: Runtime, email_id: int, in_s: float, job_key: str) -> None:
    """Have arq wake us when the e-mail is due. Only a wake-up: without it, the next sweep finds the row."""
    if in_s > LATEST_WAKE_UP_S:
        return
    try:
        await runtime.redis.enqueue_job(
            'send_email',
            email_id,
            _job_id=f'send_email:{email_id}:{job_key}',
            _queue_name=runtime.queue_name,
            # By Redis's clock, and never before the database's agrees that it is due.
            _defer_until=datetime.now(UTC)
            + timedelta(seconds=in_s + 0.05 + runtime.signals.redis_ahead_s),
        )
    except (RedisError, OSError) as error:
        log.warning('wakeup.failed', email_id=email_id, error=str(error))


def not_claimable(email_id: Any, state: str | None, reason: str) -> JobResult:
    """Return the result of a job that had nothing to do."""
    plain_id = email_id if isinstance(email_id, int) else repr(email_id)[:80]
    log.info('email.not_claimable', email_id=plain_id, state=state, reason=reason)
    return {'email_id': plain_id, 'status': 'not-claimable', 'state': state, 'reason': reason}
