"""Send one e-mail: claim, fetch content, render, deliver, decide, record."""

import asyncio
import time
from functools import partial
from typing import Any

import structlog
from arq import Retry
from redis.exceptions import RedisError

from db.claims import Claim, LeaseLost, Result, is_recorded
from db.content import ContentUnavailableError
from db.pools import DATABASE_DOWN
from db.transitions import expire, state_of
from jobs.runtime import Runtime
from mail.deliver import Progress, deliver
from mail.envelope import Content, Email, InvalidEmailError
from mail.outcome import Decision, Delivery, Outcome, Phase, decide
from mail.render import Rendered, render

log = structlog.get_logger()

CONTENT_RETRY_S = 15.0  # MongoDB away: long enough not to spin, short enough for a password reset
RECORD_RETRY_S = 0.5
DATABASE_RETRY_S = 2
LAST_RECORD_S = 5.0
UNSEEN_RETRY_S = 2.0
LOCKED_RETRY_S = 0.2
RENDER_IN_THREAD_BYTES = 256 * 1024  # base64 of more than this would hold up every other e-mail

JobResult = dict[str, Any]


async def send_email(ctx: dict[str, Any], email_id: int) -> JobResult:
    """Send the e-mail with this id, if it is due and nobody else is sending it.

    Returns:
        {'email_id': 123, 'status': 'sent', 'attempts': 1}; status is the row's state after the attempt, 'lease-lost'
        when somebody else took the e-mail over, or 'not-claimable' when it is not to be sent now: then 'state' and
        'reason' say why. An e-mail that was sent before is 'sent' with the reason 'already sent'.
    """
    runtime: Runtime = ctx['runtime']
    if type(email_id) is not int or not 0 < email_id < 2**63:
        log.warning('send_email refused', argument=repr(email_id)[:80])
        return _not_claimable(email_id, None, 'the id must be a positive integer')
    try:
        relay_wait_s = runtime.relays.unavailable_for_s()
        claim = None if relay_wait_s else await runtime.claim_one(email_id)
        if claim is None:
            return await explain_unclaimed(runtime, email_id, relay_wait_s)
    except DATABASE_DOWN as error:
        log.warning('job waits for PostgreSQL', email_id=email_id, error=str(error) or type(error).__name__)
        raise Retry(defer=DATABASE_RETRY_S) from error
    return await send_claimed(runtime, claim)


async def send_claimed(runtime: Runtime, claim: Claim) -> JobResult:
    """Make one attempt under a claim and record how it ended, also when it is cancelled by a shutdown."""
    email_id = claim.email.id
    with structlog.contextvars.bound_contextvars(email_id=email_id, attempt=claim.attempt):
        started = time.monotonic()
        progress = Progress(before_data=partial(runtime.leases.check, claim))
        cancelled = False
        try:
            delivery = await attempt(runtime, claim, progress)
        except asyncio.CancelledError:
            delivery, cancelled = cut_off(progress), True
        except LeaseLost as lost:
            return _lease_lost(runtime, claim, str(lost))
        except Exception as error:
            # A fault of this program. The e-mail gets its state and its next attempt like after any other failure;
            # left in 'sending', its lease would be renewed for ever.
            log.exception('unexpected error', phase=progress.phase)
            outcome = Outcome.UNCERTAIN if progress.reached_data_end else Outcome.DEFERRED
            reason = f'{type(error).__name__}: {error}'
            delivery = Delivery(outcome, progress.phase, progress.relay, error=reason, recipients=progress.recipients)
        policy = runtime.policy
        decision = decide(delivery, claim.attempt, claim.max_attempts, claim.email.email_type, policy)
        recording = asyncio.ensure_future(
            record_result(runtime, Result(claim, delivery, decision, time.monotonic() - started))
        )
        try:
            try:
                await asyncio.shield(recording)
            except asyncio.CancelledError:  # what the relay has answered is still written down, if it can be soon
                cancelled = True
                await asyncio.wait_for(recording, LAST_RECORD_S)
        except LeaseLost as lost:
            return _lease_lost(runtime, claim, str(lost), delivery)
        except TimeoutError:
            log.error('stopped before PostgreSQL took the result', outcome=delivery.outcome)
            raise asyncio.CancelledError from None
        _log_attempt(runtime, claim, delivery, decision, time.monotonic() - started)
        if cancelled:
            raise asyncio.CancelledError
        if decision.retry_in_s is not None:
            await send_later(runtime, email_id, decision.retry_in_s, claim.token.hex)
        attempts = claim.attempt if decision.counts else claim.attempt - 1
        return {'email_id': email_id, 'status': decision.status.value, 'attempts': attempts}


async def attempt(runtime: Runtime, claim: Claim, progress: Progress) -> Delivery:
    """Fetch, render and deliver. Every fault of the e-mail or of what it needs becomes a Delivery.

    Raises:
        LeaseLost: the claim ran out before DATA.
    """
    progress.phase = Phase.CONTENT
    try:
        content = await fetch_content(runtime, claim.email)
        progress.phase = Phase.RENDER
        rendered = await render_email(runtime, claim.email, content)
    except InvalidEmailError as error:
        return Delivery(Outcome.REJECTED, progress.phase, error=str(error))
    except (ContentUnavailableError, *DATABASE_DOWN) as error:
        return Delivery(Outcome.RELEASED, progress.phase, error=str(error), retry_in_s=CONTENT_RETRY_S)
    return await deliver(runtime.relays, rendered, claim.settled, progress)


async def fetch_content(runtime: Runtime, email: Email) -> Content:
    """Fetch what the e-mail's row only refers to: its template and its attachments.

    Raises:
        InvalidEmailError: they do not exist.
        ContentUnavailableError, asyncpg.PostgresError, OSError: MongoDB or PostgreSQL does not answer.
    """
    template, attachments = None, []
    if email.template_id is not None:
        template = await runtime.fetch_template(email.template_id)
        if template is None:
            raise InvalidEmailError(f'template {email.template_id} does not exist in email_templates')
    if email.content_id is not None:
        attachments = await runtime.fetch_attachments(email.content_id)
        if not attachments:
            raise InvalidEmailError(f'content {email.content_id} has no attachments in MongoDB')
    return Content(template, attachments)


async def render_email(runtime: Runtime, email: Email, content: Content) -> Rendered:
    """Render, in a thread when there is enough to encode that the loop would hang."""
    rendering = partial(render, email, content, runtime.sender, runtime.max_message_bytes)
    size_bytes = sum(len(a.data) for a in content.attachments) + len(email.body_html or '') + len(email.body_text or '')
    return await asyncio.to_thread(rendering) if size_bytes > RENDER_IN_THREAD_BYTES else rendering()


def cut_off(progress: Progress) -> Delivery:
    """Return the outcome of an attempt that a shutdown ended where it was."""
    outcome, error = (
        (Outcome.UNCERTAIN, 'the worker stopped before the reply')
        if progress.reached_data_end
        else (Outcome.RELEASED, 'the worker stopped')
    )
    return Delivery(outcome, progress.phase, progress.relay, error=error, recipients=progress.recipients)


async def record_result(runtime: Runtime, result: Result) -> None:
    """Record, waiting for PostgreSQL as long as it takes: what a relay accepted must not be forgotten.

    Should the lease run out meanwhile, somebody else takes the e-mail as uncertain, and this result is dropped.

    Raises:
        LeaseLost: the claim is no longer ours.
    """
    claim = result.claim
    tries = 0
    try:
        while True:
            tries += 1
            try:
                recorded = await runtime.record(result)
                if isinstance(recorded, Exception):
                    raise recorded
                # A try whose answer was lost may have been committed all the same.
                if recorded or (tries > 1 and await is_recorded(runtime.pool, result)):
                    return
                break
            except DATABASE_DOWN as error:
                log.warning('result waits for PostgreSQL', outcome=result.delivery.outcome, error=str(error))
                await asyncio.sleep(RECORD_RETRY_S)
    finally:
        runtime.leases.drop(claim)
    raise LeaseLost(f'e-mail {claim.email.id} was taken over before its result was recorded')


async def send_later(runtime: Runtime, email_id: int, in_s: float, job_key: str) -> None:
    """Have arq wake us when the e-mail is due. Only a wake-up: without it, the next sweep finds the row."""
    try:
        await runtime.redis.enqueue_job(
            'send_email',
            email_id,
            _job_id=f'send_email:{email_id}:{job_key}',
            _queue_name=runtime.queue_name,
            _defer_by=in_s + 0.05,  # never before the database's clock agrees that it is due
        )
    except (RedisError, OSError) as error:
        log.warning('retry left to the sweep', email_id=email_id, error=str(error))


async def explain_unclaimed(runtime: Runtime, email_id: int, relay_wait_s: float = 0.0) -> JobResult:
    """Say why an e-mail was not claimed, and see to it that it is sent when it can be.

    Args:
        relay_wait_s: How long no relay can be used: then nothing was tried.
    """
    state = await state_of(runtime.pool, email_id)
    if state is None:
        # A producer that enqueues before it commits is early, not wrong: look once more.
        await send_later(runtime, email_id, UNSEEN_RETRY_S, 'unseen')
        return _not_claimable(email_id, None, 'there is no such e-mail')
    status = state['status']
    if status == 'sent':  # by a sweep, or by another job for the same id
        return {'email_id': email_id, 'status': 'sent', 'attempts': state['attempts'], 'reason': 'already sent'}
    if state['past_expiry'] and await expire(runtime.pool, [email_id]):
        return _not_claimable(email_id, 'expired', 'its expires_at is over')
    due_in_s = state['due_in_s']
    if state['lost_attempts'] and due_in_s is not None and due_in_s <= 0:
        runtime.suspects_wanted.set()
        return _not_claimable(email_id, status, 'its last worker was lost; such e-mails are sent one at a time')
    exhausted = status != 'pending' and state['attempts'] >= state['max_attempts']
    if status == 'pending' and due_in_s is None:
        due_in_s = 0.0
    if status in ('pending', 'failed', 'uncertain') and due_in_s is not None and not exhausted:
        # Less than zero: it came due, or was released, between the claim and this look; or somebody has the row locked.
        wait_s = max(due_in_s, relay_wait_s, LOCKED_RETRY_S)
        await send_later(runtime, email_id, wait_s, f'due:{int((time.time() + wait_s) * 1000)}')
        what = 'no relay is available' if relay_wait_s > due_in_s else 'not due'
        return _not_claimable(email_id, status, f'{what} for {wait_s:.1f} s')
    reasons = {
        'sending': f'held by {state["claimed_by"]}',
        'failed': 'dead: no further automatic attempt',
        'uncertain': 'waits for an operator',
    }
    return _not_claimable(email_id, status, reasons.get(status, status))


def _not_claimable(email_id: Any, state: str | None, reason: str) -> JobResult:
    plain_id = email_id if isinstance(email_id, int) else repr(email_id)[:80]
    log.info('not claimable', email_id=plain_id, state=state, reason=reason)
    return {'email_id': plain_id, 'status': 'not-claimable', 'state': state, 'reason': reason}


def _lease_lost(runtime: Runtime, claim: Claim, reason: str, delivery: Delivery | None = None) -> JobResult:
    runtime.leases.drop(claim)
    runtime.outcomes['lease-lost'] += 1
    log.warning('lease lost', reason=reason, outcome=delivery.outcome if delivery else None)
    return {'email_id': claim.email.id, 'status': 'lease-lost', 'attempts': claim.attempt}


def _log_attempt(runtime: Runtime, claim: Claim, delivery: Delivery, decision: Decision, duration_s: float) -> None:
    runtime.outcomes[delivery.outcome.value] += 1
    level = log.info if delivery.outcome in (Outcome.ACCEPTED, Outcome.RELEASED) else log.warning
    level(
        delivery.outcome.value,
        status=decision.status.value,
        relay=delivery.relay,
        phase=delivery.phase.value,
        code=delivery.reply.code if delivery.reply else None,
        error=delivery.error,
        retry_in_s=round(decision.retry_in_s, 1) if decision.retry_in_s is not None else None,
        dead_reason=decision.dead_reason,
        message_id=claim.email.message_id,
        duration_ms=round(duration_s * 1000),
    )
