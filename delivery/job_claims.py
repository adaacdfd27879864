"""Claim an e-mail for a job: one at a time, when there is a slot to send it."""

import contextlib
from collections.abc import Iterator

import structlog
from arq import Retry

from db.errors import DATABASE_DOWN, log_error
from delivery.email_jobs import JobResult
from delivery.not_claimable import explain_not_claimable
from delivery.runtime import Runtime
from delivery.steps import SendClaimed
from mail.priority import NORMAL

log = structlog.get_logger()

DATABASE_RETRY_S = 2
OTHERS_RETRY_S = 0.05  # not 0: only a change of its time makes the others hear of a job


async def claim_and_send(runtime: Runtime, email_id: int, send: SendClaimed) -> JobResult:
    """Wait for a slot, claim, and send; or say why the e-mail was not claimed.

    Raises:
        Retry: PostgreSQL does not answer, or this worker stops before its turn comes.
    """
    claimer, tunables = runtime.claimer, runtime.tunables
    # Whether it is urgent matters only where it would wait.
    would_wait = claimer.concurrency.is_full or tunables.rate.per_s
    with _again_without_postgres(email_id):
        priority = await claimer.priority_of(email_id) if would_wait else NORMAL
    async with claimer.concurrency.slot(priority):
        if runtime.signals.stopping.is_set():  # it waited for a slot too long: somebody else's
            raise Retry(defer=OTHERS_RETRY_S)
        with _again_without_postgres(email_id):
            relay_wait_s = tunables.relays.away_for_s()
            claim = None if relay_wait_s else await claimer.claim_one(email_id, priority)
            if claim is None:
                return await explain_not_claimable(runtime, email_id, relay_wait_s)
        return await send(claim)


@contextlib.contextmanager
def _again_without_postgres(email_id: int) -> Iterator[None]:
    try:
        yield
    except DATABASE_DOWN as error:
        log_error(log, 'job', error, email_id=email_id)
        raise Retry(defer=DATABASE_RETRY_S) from error
