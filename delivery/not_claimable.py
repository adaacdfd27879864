"""Why an e-mail was not claimed, and who looks again when."""

import time

import structlog

from db.states import CLAIMED
from db.transitions import expire
from delivery.activity import NEIGHBOURS_REMEDY
from delivery.email_jobs import JobResult, not_claimable
from delivery.runtime import Runtime

log = structlog.get_logger()

UNSEEN_RETRY_S = 2.0
LOCKED_RETRY_S = 0.2

REASONS = {
    'failed': 'dead: no further automatic attempt',
    'uncertain': 'waits for an operator',
    'bounced': 'sent already, and it bounced',
    'complained': 'sent already, and its recipient complained',
    'held': 'held until an operator releases or cancels it',
    'external': 'the system that was there before sends it',
}


async def explain_not_claimable(
    runtime: Runtime, email_id: int, relay_wait_s: float = 0.0
) -> JobResult:
    """Say why an e-mail was not claimed, and see to it that it is sent when it can be.

    Args:
        relay_wait_s: How long no relay can be used: then nothing was tried.
    """
    state = await runtime.claimer.state_of(email_id)
    if state is None:
        # A producer that enqueues before it commits is early, not wrong: look once more.
        await runtime.wake_ups.send_later(email_id, UNSEEN_RETRY_S, 'unseen')
        return not_claimable(email_id, None, unseen_reason(runtime.activity.neighbours.names))
    status = state['status']
    if status == 'sent':  # by a sweep, or by another job for the same id
        return {
            'email_id': email_id,
            'status': 'sent',
            'attempts': state['attempts'],
            'reason': 'already sent',
        }
    if state['past_expiry'] and await expire(runtime.stores.pool, [email_id]):
        return not_claimable(email_id, 'expired', 'its expires_at is over')
    due_in_s = state['due_in_s']
    if state['lost_attempts'] and due_in_s is not None and due_in_s <= 0:
        runtime.suspects.wanted.set()
        return not_claimable(
            email_id, status, 'its last worker was lost; such e-mails are sent one at a time'
        )
    exhausted = status != 'pending' and state['attempts'] >= state['max_attempts']
    if status == 'pending' and due_in_s is None:
        due_in_s = 0.0
    if status in CLAIMED and due_in_s is not None and not exhausted:
        if state['email_type'] in runtime.tunables.switches.email_types:
            # Nobody looks again: resuming the type has workers sweep.
            return not_claimable(
                email_id, status, f'e-mails of type {state["email_type"]} are paused'
            )
        away_s = runtime.tunables.relays.types_away().get(state['email_type'], 0.0)
        return await _look_again(runtime, email_id, status, due_in_s, max(relay_wait_s, away_s))
    if status == 'sending':
        return not_claimable(email_id, status, f'held by {state["claimed_by"]}')
    return not_claimable(email_id, status, REASONS.get(status, status))


async def _look_again(
    runtime: Runtime, email_id: int, status: str, due_in_s: float, relay_wait_s: float
) -> JobResult:
    # Less than zero: it came due, or was released, between the claim and this look; or somebody
    # has the row locked.
    wait_s = max(due_in_s, relay_wait_s, LOCKED_RETRY_S)
    # The same id for the same time, so that a producer that repeats itself adds no job; a new
    # one for a new look.
    when = round(time.time() + wait_s) if due_in_s > 0 else int(time.time() * 1000)
    await runtime.wake_ups.send_later(email_id, wait_s, f'due:{when}')
    what = 'no relay is available' if relay_wait_s > due_in_s else 'not due'
    if runtime.tunables.switches.claims_paused:
        what = 'this worker is paused, left to others'
    return not_claimable(email_id, status, f'{what} for {wait_s:.1f} s')


def unseen_reason(neighbours: list[str]) -> str:
    """Say why there may be no such e-mail.

    Another application's job is not handed on: the sweep of that application sends its e-mail.
    """
    if neighbours:
        log.warning(
            'job.foreign',
            workers=neighbours[:10],
            remedy=NEIGHBOURS_REMEDY,
        )
        return (
            'there is no such e-mail here; perhaps it is one of another application, '
            'whose own sweep then sends it'
        )
    return 'there is no such e-mail'
