"""Send one e-mail: claim, fetch content, render, deliver, decide, record."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import structlog
from arq import Retry

from db.claimed import Claim, LeaseLost
from db.pools import DATABASE_DOWN
from db.results import Result
from db.troubles import tell
from delivery.content import fetch_content, fetch_large, large_bytes
from delivery.email_jobs import email_id_of
from delivery.not_claimable import explain_unclaimed, not_claimable, send_later
from delivery.record import keep_recipients, log_attempt, record_to_the_end
from delivery.runtime import JobResult, Runtime
from delivery.suppression import SuppressedError, leave_out_suppressed
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

CONTENT_RETRY_S = 15.0  # MongoDB away, no renderer free: long enough not to spin, short enough for a password reset
DATABASE_RETRY_S = 2
OTHERS_RETRY_S = 0.05  # not 0: only a change of its time makes the others hear of a job
RENDER_IN_THREAD_BYTES = 256 * 1024  # base64 of more than this would hold up every other e-mail
FIELD_CHAR_BYTES = (
    64  # reading a character of addresses or headers takes as long as encoding so many of a body
)


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
        runtime.refused.add(
            ARGUMENTS, ctx.get('job_id', ''), why, function='send_email', email_id=None
        )
        return not_claimable(email_id, None, 'the id must be a positive integer')
    runtime.asked_for.add(checked)
    try:
        return await _send_in_turn(runtime, checked)
    finally:
        runtime.asked_for.discard(checked)


async def _send_in_turn(runtime: Runtime, email_id: int) -> JobResult:
    # Whether it is urgent matters only where it would wait.
    in_line = runtime.places.is_full or runtime.rate.per_s
    with _again_without_postgres(email_id):
        priority = await runtime.priority_of(email_id) if in_line else NORMAL
    async with runtime.places.one(priority):
        if runtime.signals.stopping.is_set():  # it waited for a place too long: somebody else's
            raise Retry(defer=OTHERS_RETRY_S)
        with _again_without_postgres(email_id):
            relay_wait_s = runtime.relays.unavailable_for_s()
            claim = None if relay_wait_s else await runtime.claim_one(email_id, priority)
            if claim is None:
                return await explain_unclaimed(runtime, email_id, relay_wait_s)
        return await send_claimed(runtime, claim)


@contextlib.contextmanager
def _again_without_postgres(email_id: int) -> Iterator[None]:
    try:
        yield
    except DATABASE_DOWN as error:
        tell(log, 'job', error, email_id=email_id)
        raise Retry(defer=DATABASE_RETRY_S) from error


async def send_claimed(runtime: Runtime, claim: Claim, *, turns: int = 0) -> JobResult:
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
        before_data=partial(runtime.leases.check, claim),
        keep=partial(keep_recipients, runtime, claim),
    )
    runtime.under_way[claim.key] = progress
    try:
        delivery = await attempt(runtime, claim, progress, turns)
        took_s = time.monotonic() - started
        life_left_s = None if claim.life_left_s is None else claim.life_left_s - took_s
        decision = decide(
            delivery,
            claim.attempt,
            claim.max_attempts,
            email.email_type,
            runtime.policy,
            life_left_s,
        )
        result = Result(claim, delivery, decision, took_s)
        await record_to_the_end(runtime, result, progress)
    except LeaseLost as lost:
        runtime.outcomes['lease-lost'] += 1
        log.warning('lease.lost', reason=str(lost))
        return {'email_id': email.id, 'status': 'lease-lost', 'attempts': claim.attempt}
    finally:
        # Whatever happened: a claim that nobody works on must not be renewed.
        runtime.leases.drop(claim)
        del runtime.under_way[claim.key]
    log_attempt(runtime, result)
    if progress.cut_off:
        raise asyncio.CancelledError
    if decision.retry_in_s is not None:
        await send_later(runtime, email.id, decision.retry_in_s, claim.token.hex)
    attempts = claim.attempt if decision.counts else claim.attempt - 1
    return {'email_id': email.id, 'status': str(decision.status), 'attempts': attempts}


async def attempt(runtime: Runtime, claim: Claim, progress: Progress, turns: int = 0) -> Delivery:
    """Fetch, render and deliver. However it ends, it is told as a Delivery."""
    try:
        for _ in range(turns):
            await asyncio.sleep(0)
        size_bytes = await large_bytes(runtime, claim)
        if not size_bytes:
            return await fetch_and_deliver(runtime, claim, progress)
        async with runtime.large.share(size_bytes):
            return await fetch_and_deliver(runtime, claim, progress)
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
    """Return the outcome of an attempt that ended where it was: uncertain if the relay may have the message."""
    if progress.reached_data_end:
        outcome = Outcome.UNCERTAIN
    return Delivery(
        outcome, progress.phase, progress.relay, error=error, recipients=progress.recipients
    )


async def fetch_and_deliver(runtime: Runtime, claim: Claim, progress: Progress) -> Delivery:
    """Fetch, render and deliver; see attempt for what it raises."""
    rendered = await fetch_and_render(runtime, claim, progress)
    settled = claim.settled
    if claim.any_suppressed:
        progress.phase = Phase.RECIPIENTS
        rendered, settled = await leave_out_suppressed(runtime, rendered, settled)
    return await deliver(runtime.relays, rendered, settled, progress)


async def fetch_and_render(runtime: Runtime, claim: Claim, progress: Progress) -> Rendered:
    """Return the message; what it was made of is in memory no more."""
    email = claim.email if claim.is_whole else await fetch_large(runtime, claim)
    is_urgent = claim.priority == HIGH
    content = await fetch_content(runtime, email, first=is_urgent)
    progress.phase = Phase.RENDER
    return await render_email(runtime, email, content, first=is_urgent)


async def render_email(
    runtime: Runtime, email: Email, content: Content, *, first: bool = False
) -> Rendered:
    """Fill the template in another process, and render: in a thread when the loop would hang over so much.

    Raises:
        InvalidEmailError: the e-mail, its template or its data is wrong.
        TemplatesUnavailableError: no renderer could be had.
    """
    if content.template is not None:
        filled = await runtime.templates.fill(content.template, email.template_data, first=first)
        email = with_parts(email, filled)
    size_bytes = len(email.body_html or '') + len(email.body_text or '')
    size_bytes += FIELD_CHAR_BYTES * (len(email.recipient) + len(email.headers or ''))
    if content.attachments:
        size_bytes += sum(len(a.data) for a in content.attachments)
    arguments = (email, content, runtime.sender, runtime.max_message_bytes)
    if size_bytes > RENDER_IN_THREAD_BYTES:
        return await asyncio.to_thread(render, *arguments)
    return render(*arguments)
