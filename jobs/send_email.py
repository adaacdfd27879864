"""Send one e-mail: the way that every e-mail goes, whether a job asked for it or a sweep found it.

claim -> fetch content -> check sender -> render -> leave out suppressed -> sign -> route ->
deliver -> decide -> record. `send_email` claims for a job, delivery.sweeper for all others;
`send_claimed` is the rest. delivery.steps says what each step takes and returns.
"""

import asyncio
import time
from functools import partial
from typing import Any

import structlog

from db.claimed import Claim, LeaseLost
from db.results import Result
from delivery.email_jobs import JobResult, email_id_of, not_claimable
from delivery.steps import Steps, SuppressedError
from engine.refused import ARGUMENTS
from mail.outcome import Delivery, Outcome, Phase, Policy, decide
from mail.priority import HIGH
from mail.progress import Progress
from mail_outbox.envelope import ContentUnavailableError, InvalidEmailError
from mail_outbox.rendered import Rendered

log = structlog.get_logger()

# MongoDB unreachable, no renderer free: long enough not to spin, short enough for a password reset.
CONTENT_RETRY_S = 15.0


async def send_email(ctx: dict[str, Any], email_id: int | str) -> JobResult:
    """Send the e-mail with this id, if it is due and nobody else is sending it.

    Returns:
        {'email_id': 123, 'status': 'sent', 'attempts': 1}; status is the row's state after the
        attempt, 'lease-lost' when somebody else took the e-mail over, or 'not-claimable' when it is
        not to be sent now: then 'state' and 'reason' say why. An e-mail that was sent before is
        'sent' with the reason 'already sent'.
    """
    steps: Steps = ctx['runtime'].steps
    checked = email_id_of(email_id)
    if checked is None:
        log.warning('job.refused', argument=repr(email_id)[:80])
        why = f'{repr(email_id)[:80]} is no id: it must be a positive integer'
        steps.activity.refused.add(
            ARGUMENTS, ctx.get('job_id', ''), why, function='send_email', email_id=None
        )
        return not_claimable(email_id, None, 'the id must be a positive integer')
    steps.activity.asked_for.add(checked)
    try:
        return await steps.claim(checked, partial(send_claimed, steps))
    finally:
        steps.activity.asked_for.discard(checked)


async def send_claimed(steps: Steps, claim: Claim, cycles: int = 0) -> JobResult:
    """Make one attempt under a claim and record how it ended, also when a shutdown ends it.

    Args:
        cycles: How many cycles of the loop to let pass before: it was claimed together with many
            others.
    """
    email = claim.email
    # Each attempt has a task of its own, and so a context.
    structlog.contextvars.bind_contextvars(email_id=email.id, attempt=claim.attempt)
    started = time.monotonic()
    progress = Progress(
        phase=Phase.CONTENT,
        # It gets the next free connection: among others it is lost by chance once more.
        priority=HIGH if claim.suspect else claim.priority,
        before_data=partial(steps.held.check, claim),
        keep=partial(steps.keep_recipients, claim),
    )
    steps.activity.under_way[claim.key] = progress
    try:
        delivery = await attempt(steps, claim, progress, cycles)
        result = _decided(steps.policy, claim, delivery, time.monotonic() - started)
        await steps.record(result, progress)
    except LeaseLost as lost:
        steps.activity.outcomes['lease-lost'] += 1
        log.warning('lease.lost', reason=str(lost))
        return {'email_id': email.id, 'status': 'lease-lost', 'attempts': claim.attempt}
    finally:
        # Whatever happened: a claim that nobody works on must not be renewed.
        steps.held.drop(claim)
        del steps.activity.under_way[claim.key]
    steps.log_attempt(result)
    if progress.cut_off:
        raise asyncio.CancelledError
    decision = result.decision
    if decision.retry_in_s is not None:
        await steps.send_later(email.id, decision.retry_in_s, claim.token.hex)
    attempts = claim.attempt if decision.counts else claim.attempt - 1
    return {'email_id': email.id, 'status': str(decision.status), 'attempts': attempts}


def _decided(policy: Policy, claim: Claim, delivery: Delivery, took_s: float) -> Result:
    decision = decide(
        delivery,
        claim.attempt,
        claim.max_attempts,
        claim.email.email_type,
        policy,
        None if claim.life_left_s is None else claim.life_left_s - took_s,
    )
    return Result(claim, delivery, decision, took_s)


async def attempt(steps: Steps, claim: Claim, progress: Progress, cycles: int = 0) -> Delivery:
    """Make the message and deliver it. However that ends, it becomes a Delivery."""
    try:
        for _ in range(cycles):
            await asyncio.sleep(0)
        async with steps.turn(claim), steps.hold_bytes(claim):
            return await make_and_deliver(steps, claim, progress)
    except SuppressedError as error:
        return Delivery(error.outcome, progress.phase, error=str(error), recipients=error.settled)
    except InvalidEmailError as error:
        return Delivery(Outcome.REJECTED, progress.phase, error=str(error))
    except ContentUnavailableError as error:
        return Delivery(
            Outcome.RELEASED, progress.phase, error=str(error), retry_in_s=CONTENT_RETRY_S
        )
    except asyncio.CancelledError:
        progress.cut_off = True
        return cut_off(progress, Outcome.RELEASED, 'the worker stopped')
    except LeaseLost as error:  # it ran out before the final dot
        return cut_off(progress, Outcome.RELEASED, str(error))
    except Exception as error:
        # A fault of this program. The e-mail gets its state and its next attempt like after any
        # other failure; left in 'sending', its lease would be renewed for ever.
        log.exception('attempt.crashed', phase=progress.phase)
        return cut_off(progress, Outcome.DEFERRED, f'{type(error).__name__}: {error}')


def cut_off(progress: Progress, outcome: Outcome, error: str) -> Delivery:
    """Return the outcome of an attempt that ended where it was.

    It is uncertain if the relay may have the message.
    """
    if progress.reached_data_end:
        outcome = Outcome.UNCERTAIN
    return Delivery(
        outcome, progress.phase, progress.relay, error=error, recipients=progress.recipients
    )


async def make_and_deliver(steps: Steps, claim: Claim, progress: Progress) -> Delivery:
    """Fetch, render, leave out, and hand over to a relay; see attempt for what it raises.

    The recipients are known when the message is: addresses are read while it is rendered, and one
    that cannot be read makes the e-mail dead before anybody is looked up.
    """
    rendered, settled = await fetch_and_render(steps, claim, progress), claim.settled
    if claim.any_suppressed:
        progress.phase = Phase.RECIPIENTS
        rendered, settled = await steps.leave_out_suppressed(
            rendered, settled, claim.email.email_type
        )
    return await steps.deliver(rendered, settled, progress)


async def fetch_and_render(steps: Steps, claim: Claim, progress: Progress) -> Rendered:
    """Return the message; what it was made of is in memory no more."""
    email, content = await steps.fetch(claim)
    await steps.check_senders(email)
    progress.phase = Phase.RENDER
    rendered = await steps.render(claim, email, content)
    progress.traits = steps.read_traits(claim, email, rendered)
    return steps.put_own(email, rendered)
