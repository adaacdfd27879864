"""Write down how an attempt ended, whatever happens to PostgreSQL or to us meanwhile."""

import asyncio

import asyncpg
import structlog

from db import results
from db.claimed import Claim, LeaseLost
from db.pools import DATABASE_DOWN
from db.results import Result
from db.troubles import tell
from delivery.runtime import Runtime
from logs import write_line
from mail.outcome import Outcome, Settled
from mail.relay.transaction import Progress

log = structlog.get_logger()

RECORD_RETRY_S = 0.5
LAST_RECORD_S = 5.0
KEEP_S = 2.0
OUTCOME_EVENTS = {
    Outcome.ACCEPTED: 'email.sent',
    Outcome.DEFERRED: 'email.deferred',
    Outcome.REJECTED: 'email.rejected',
    Outcome.UNCERTAIN: 'email.uncertain',
    Outcome.RELEASED: 'email.released',
}


async def record_to_the_end(runtime: Runtime, result: Result, progress: Progress) -> None:
    """Record, also when this task is cancelled meanwhile: what a relay has answered must not be forgotten.

    Args:
        progress: Told that the task was cancelled.

    Raises:
        LeaseLost: the row is no longer ours.
        CancelledError: a shutdown did not leave enough time; the rescue will find the e-mail
            uncertain.
    """
    if not progress.cut_off:
        try:
            await record_result(runtime, result)
        except asyncio.CancelledError:
            progress.cut_off = True
        else:
            return
    try:
        # Whether the try that was cut off got through, the next one will find out.
        async with asyncio.timeout(LAST_RECORD_S):
            await record_result(runtime, result)
    except TimeoutError:
        log.error('result.lost', outcome=result.delivery.outcome)
        raise asyncio.CancelledError from None


async def record_result(runtime: Runtime, result: Result) -> None:
    """Record, waiting for PostgreSQL as long as it takes: what a relay accepted must not be forgotten.

    Should somebody else take the e-mail over meanwhile, only the attempt is recorded, see db.late.

    Raises:
        LeaseLost: the row is no longer ours.
    """
    while True:
        try:
            recorded = await runtime.record.ask(result)
            if isinstance(recorded, Exception):
                raise recorded
            if recorded:
                return
            break
        except DATABASE_DOWN as error:
            tell(log, 'result', error, outcome=result.delivery.outcome)
            await asyncio.sleep(RECORD_RETRY_S)
    raise LeaseLost(
        f'e-mail {result.claim.email.id} was taken back or over before the outcome was recorded'
    )


async def keep_recipients(runtime: Runtime, claim: Claim, recipients: Settled) -> None:
    """Write down who has the e-mail before the others get it; should PostgreSQL be away, only a crash makes copies."""
    try:
        async with asyncio.timeout(KEEP_S):
            await results.keep_recipients(runtime.pool, claim, recipients, runtime.leases.lease_s)
    except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
        log.warning(
            'recipients.not_recorded',
            email_id=claim.email.id,
            error=str(error) or type(error).__name__,
        )


def log_attempt(runtime: Runtime, result: Result) -> None:
    """Count the outcome and write the e-mail's line."""
    claim, delivery, decision = result.claim, result.delivery, result.decision
    runtime.outcomes[str(delivery.outcome)] += 1  # a third of what .value takes
    runtime.places.ended(came_through=delivery.outcome is not Outcome.RELEASED)
    if runtime.events.wanted:
        tell_listeners(runtime, result)
    line = {
        'status': str(decision.status),
        'relay': delivery.relay,
        'phase': str(delivery.phase),
        'code': delivery.reply.code if delivery.reply else None,
        'error': delivery.error,
        'retry_in_s': round(decision.retry_in_s, 1) if decision.retry_in_s is not None else None,
        'dead_reason': decision.dead_reason,
        'message_id': claim.email.message_id,
        'duration_ms': round(result.duration_s * 1000),
    }
    write_line(
        'info' if delivery.outcome in (Outcome.ACCEPTED, Outcome.RELEASED) else 'warning',
        OUTCOME_EVENTS[delivery.outcome],
        line,
    )


def tell_listeners(runtime: Runtime, result: Result) -> None:
    """Tell those who watch the fleet just now."""
    claim, delivery, decision = result.claim, result.delivery, result.decision
    runtime.events.add(
        delivery.outcome.value,
        email_id=claim.email.id,
        attempt=claim.attempt,
        type=claim.email.email_type,
        status=decision.status.value,
        relay=delivery.relay,
        phase=delivery.phase.value,
        reply=str(delivery.reply)[:300] if delivery.reply else None,
        error=delivery.error[:300] if delivery.error else None,
        duration_ms=round(result.duration_s * 1000),
    )
