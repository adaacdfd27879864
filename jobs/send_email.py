"""Send one e-mail: the way that every e-mail goes, whether a job asked for it or a sweep found it.

claim -> fetch content -> render -> leave out suppressed -> sign -> route -> deliver -> decide ->
record. `send_email` claims for a job, delivery.sweeper for all others; `send_claimed` is the rest.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import structlog
from arq import Retry

from db.claimed import Claim, LeaseLost
from db.errors import DATABASE_DOWN, log_error
from db.results import Result
from delivery.claimer import JobResult, not_claimable
from delivery.email_jobs import email_id_of
from delivery.not_claimable import explain_not_claimable
from delivery.runtime import Runtime
from delivery.suppression import SuppressedError
from engine.refused import ARGUMENTS
from mail.deliver import deliver
from mail.outcome import Delivery, Outcome, Phase, decide
from mail.priority import HIGH, NORMAL
from mail.relay.transaction import Progress
from mail.template.renderers import TemplatesUnavailableError, with_parts
from mail_outbox.attachments import ContentUnavailableError
from mail_outbox.envelope import Content, Email, InvalidEmailError
from mail_outbox.render import Rendered, render

log = structlog.get_logger()

# MongoDB unreachable, no renderer free: long enough not to spin, short enough for a password reset.
CONTENT_RETRY_S = 15.0
DATABASE_RETRY_S = 2
OTHERS_RETRY_S = 0.05  # not 0: only a change of its time makes the others hear of a job
RENDER_IN_THREAD_BYTES = 256 * 1024  # base64 of more than this would hold up every other e-mail
# Reading a character of addresses or headers takes as long as encoding so many of a body.
FIELD_CHAR_BYTES = 64


async def send_email(ctx: dict[str, Any], email_id: int | str) -> JobResult:
    """Send the e-mail with this id, if it is due and nobody else is sending it.

    Returns:
        {'email_id': 123, 'status': 'sent', 'attempts': 1}; status is the row's state after the
        attempt, 'lease-lost' when somebody else took the e-mail over, or 'not-claimable' when it is
        not to be sent now: then 'state' and 'reason' say why. An e-mail that was sent before is
        'sent' with the reason 'already sent'.
    """
    runtime: Runtime = ctx['runtime']
    checked = email_id_of(email_id)
    if checked is None:
        log.warning('job.refused', argument=repr(email_id)[:80])
        why = f'{repr(email_id)[:80]} is no id: it must be a positive integer'
        runtime.activity.refused.add(
            ARGUMENTS, ctx.get('job_id', ''), why, function='send_email', email_id=None
        )
        return not_claimable(email_id, None, 'the id must be a positive integer')
    runtime.activity.asked_for.add(checked)
    try:
        return await _claim_and_send(runtime, checked)
    finally:
        runtime.activity.asked_for.discard(checked)


async def _claim_and_send(runtime: Runtime, email_id: int) -> JobResult:
    claimer, tunables = runtime.claimer, runtime.tunables
    # Whether it is urgent matters only where it would wait.
    would_wait = claimer.concurrency.is_full or tunables.rate.per_s
    with _again_without_postgres(email_id):
        priority = await claimer.priority_of(email_id) if would_wait else NORMAL
    async with claimer.concurrency.slot(priority):
        if runtime.signals.stopping.is_set():  # it waited for a slot too long: somebody else's
            raise Retry(defer=OTHERS_RETRY_S)
        with _again_without_postgres(email_id):
            relay_wait_s = tunables.relays.unavailable_for_s()
            claim = None if relay_wait_s else await claimer.claim_one(email_id, priority)
            if claim is None:
                return await explain_not_claimable(runtime, email_id, relay_wait_s)
        return await send_claimed(runtime, claim)


@contextlib.contextmanager
def _again_without_postgres(email_id: int) -> Iterator[None]:
    try:
        yield
    except DATABASE_DOWN as error:
        log_error(log, 'job', error, email_id=email_id)
        raise Retry(defer=DATABASE_RETRY_S) from error


async def send_claimed(runtime: Runtime, claim: Claim, turns: int = 0) -> JobResult:
    """Make one attempt under a claim and record how it ended, also when a shutdown ends it.

    Args:
        turns: How many turns of the loop to let pass before: it was claimed together with many
            others.
    """
    email = claim.email
    # Each attempt has a task of its own, and so a context.
    structlog.contextvars.bind_contextvars(email_id=email.id, attempt=claim.attempt)
    started = time.monotonic()
    progress = Progress(
        phase=Phase.CONTENT,
        urgent=claim.suspect,
        priority=claim.priority,
        before_data=partial(runtime.claimer.leases.check, claim),
        keep=partial(runtime.recorder.keep_recipients, claim),
    )
    runtime.activity.under_way[claim.key] = progress
    try:
        delivery = await attempt(runtime, claim, progress, turns)
        result = _decided(runtime, claim, delivery, time.monotonic() - started)
        await runtime.recorder.record_to_the_end(result, progress)
    except LeaseLost as lost:
        runtime.activity.outcomes['lease-lost'] += 1
        log.warning('lease.lost', reason=str(lost))
        return {'email_id': email.id, 'status': 'lease-lost', 'attempts': claim.attempt}
    finally:
        # Whatever happened: a claim that nobody works on must not be renewed.
        runtime.claimer.leases.drop(claim)
        del runtime.activity.under_way[claim.key]
    runtime.recorder.log_attempt(result)
    if progress.cut_off:
        raise asyncio.CancelledError
    decision = result.decision
    if decision.retry_in_s is not None:
        await runtime.wake_ups.send_later(email.id, decision.retry_in_s, claim.token.hex)
    attempts = claim.attempt if decision.counts else claim.attempt - 1
    return {'email_id': email.id, 'status': str(decision.status), 'attempts': attempts}


def _decided(runtime: Runtime, claim: Claim, delivery: Delivery, took_s: float) -> Result:
    decision = decide(
        delivery,
        claim.attempt,
        claim.max_attempts,
        claim.email.email_type,
        runtime.rules.policy,
        None if claim.life_left_s is None else claim.life_left_s - took_s,
    )
    return Result(claim, delivery, decision, took_s)


async def attempt(runtime: Runtime, claim: Claim, progress: Progress, turns: int = 0) -> Delivery:
    """Make the message and deliver it. However that ends, it becomes a Delivery."""
    try:
        for _ in range(turns):
            await asyncio.sleep(0)
        size_bytes = await runtime.contents.large_bytes(claim)
        if not size_bytes:
            return await make_and_deliver(runtime, claim, progress)
        runtime.sweeper.attempts.check_room()
        async with runtime.contents.large.share(size_bytes):
            return await make_and_deliver(runtime, claim, progress)
    except SuppressedError as error:
        return Delivery(error.outcome, progress.phase, error=str(error), recipients=error.settled)
    except InvalidEmailError as error:
        return Delivery(Outcome.REJECTED, progress.phase, error=str(error))
    except (ContentUnavailableError, TemplatesUnavailableError) as error:
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


async def make_and_deliver(runtime: Runtime, claim: Claim, progress: Progress) -> Delivery:
    """Fetch, render, leave out, and hand over to a relay; see attempt for what it raises.

    The recipients are known when the message is: addresses are read while it is rendered, and one
    that cannot be read makes the e-mail dead before anybody is looked up.
    """
    rendered, settled = await fetch_and_render(runtime, claim, progress), claim.settled
    if claim.any_suppressed:
        progress.phase = Phase.RECIPIENTS
        rendered, settled = await runtime.suppressions.leave_out(rendered, settled)
    # Signing has its place here: it takes `rendered` and returns it with one header more.
    return await deliver(runtime.tunables.relays, rendered, settled, progress)


async def fetch_and_render(runtime: Runtime, claim: Claim, progress: Progress) -> Rendered:
    """Return the message; what it was made of is in memory no more."""
    is_urgent = claim.priority == HIGH
    email = claim.email if claim.is_whole else await runtime.contents.fetch_email(claim)
    content = await runtime.contents.fetch(email, first=is_urgent)
    progress.phase = Phase.RENDER
    return await render_email(runtime, email, content, first=is_urgent)


async def render_email(
    runtime: Runtime, email: Email, content: Content, *, first: bool = False
) -> Rendered:
    """Fill the template in another process, and render: in a thread when the loop would hang.

    Raises:
        InvalidEmailError: the e-mail, its template or its data is wrong.
        TemplatesUnavailableError: no renderer could be had.
    """
    contents = runtime.contents
    if content.template is not None:
        filled = await contents.templates.fill(content.template, email.template_data, first=first)
        email = with_parts(email, filled)
    size_bytes = len(email.body_html or '') + len(email.body_text or '')
    size_bytes += FIELD_CHAR_BYTES * (len(email.recipient) + len(email.headers or ''))
    if content.attachments:
        size_bytes += sum(len(a.data) for a in content.attachments)
    arguments = (email, content, runtime.tunables.sender, contents.max_message_bytes)
    if size_bytes > RENDER_IN_THREAD_BYTES:
        return await asyncio.to_thread(render, *arguments)
    return render(*arguments)
