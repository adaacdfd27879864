"""Record how attempts ended, whatever happens to PostgreSQL or to us meanwhile."""

import asyncio
from collections.abc import Sequence

import asyncpg
import structlog

from db import results
from db.claimed import Claim, ClaimKey, LeaseLost
from db.errors import DATABASE_DOWN, log_error
from db.late import record_beside_row, record_late
from db.narrowing import STATEMENT_IS_WRONG, Narrowed, SetAside, give_up_rows
from db.results import Result
from delivery.activity import Activity
from delivery.attempt_spans import AttemptSpans
from delivery.concurrency import Concurrency
from delivery.dead_addresses import DeadAddresses
from delivery.rules import RetentionRules, WorkerRules
from engine.batches import Batcher
from logs import hide_addresses, write_line
from mail.outcome import Outcome, Settled
from mail.priority import HIGH
from mail.progress import Progress
from mail_outbox.states import Status

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

# Whether the claim was still ours; an error for a result that cannot be stored.
Recorded = bool | Exception


class Recorder:
    """The results of one worker's attempts on their way to PostgreSQL.

    Attributes:
        spans: Where attempts are traced, if they are.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        rules: WorkerRules,
        activity: Activity,
        concurrency: Concurrency,
        set_aside: SetAside,
    ) -> None:
        self._pool = pool
        self._rules = rules
        self._activity = activity
        self._concurrency = concurrency
        self._set_aside = set_aside
        self._dead_addresses = DeadAddresses(pool, rules.feedback)
        self.spans: AttemptSpans | None = None
        # What happened is to be known, whoever asks: no result is taken back.
        self.batched = Batcher(self._record_each, drop_cancelled=False)

    async def record_to_the_end(self, result: Result, progress: Progress) -> None:
        """Record, also when this task is cancelled meanwhile.

        What a relay has answered must not be forgotten: the e-mail would be sent twice.

        Args:
            progress: Learns that the task was cancelled.

        Raises:
            LeaseLost: the row is no longer ours.
            CancelledError: a shutdown did not leave enough time; the rescue will find the e-mail
                uncertain.
        """
        if not progress.cut_off:
            try:
                await self.record(result)
            except asyncio.CancelledError:
                progress.cut_off = True
            else:
                return
        try:
            # Whether the try that was cut off got through, the next one will find out.
            async with asyncio.timeout(LAST_RECORD_S):
                await self.record(result)
        except TimeoutError:
            log.error('result.lost', outcome=result.delivery.outcome)
            raise asyncio.CancelledError from None

    async def record(self, result: Result) -> None:
        """Record, waiting for PostgreSQL as long as it takes.

        Should somebody else take the e-mail over meanwhile, only the attempt is recorded, see
        db.late.

        Raises:
            LeaseLost: the row is no longer ours.
        """
        while True:
            try:
                recorded = await self.batched.ask(result)
                if isinstance(recorded, Exception):
                    raise recorded
                if recorded:
                    return
                break
            except DATABASE_DOWN as error:
                log_error(log, 'result', error, outcome=result.delivery.outcome)
                await asyncio.sleep(RECORD_RETRY_S)
        raise LeaseLost(
            f'e-mail {result.claim.email.id} was taken back or over before the outcome was recorded'
        )

    async def keep_recipients(self, claim: Claim, recipients: Settled) -> None:
        """Record who has the e-mail before the others get it.

        Should PostgreSQL be unreachable, the others get theirs all the same: only a crash then
        makes copies.
        """
        try:
            async with asyncio.timeout(KEEP_S):
                await results.keep_recipients(self._pool, claim, recipients, self._rules.lease_s)
        except (*DATABASE_DOWN, asyncpg.PostgresError) as error:
            log.warning(
                'recipients.not_recorded',
                email_id=claim.email.id,
                error=str(error) or type(error).__name__,
            )

    async def _record_each(self, ended: Sequence[Result]) -> list[Recorded]:
        """Record a batch; when PostgreSQL objects to it, one by one: one result spoils no other."""
        worker = self._rules.worker
        if all(result.claim.priority != HIGH for result in ended):
            await self._activity.right_of_way.given()
        try:
            recorded = await self._write(ended)
            # A claim that is gone still leaves its attempt.
            if is_any_late := len(recorded) < len(ended):
                late = [result for result in ended if result.claim.key not in recorded]
                settled = await record_late(self._pool, late, worker=worker)
                await self._empty([result for result in late if result.claim.key in settled])
                recorded = recorded | settled
        except DATABASE_DOWN:
            raise
        # TypeError: it cannot even be written as JSON.
        except (asyncpg.PostgresError, TypeError) as error:
            if len(ended) == 1:
                return [await self._record_beside_row(ended[0], error)]
            return [answer for result in ended for answer in await self._record_each([result])]
        await self._dead_addresses.note(ended)
        if not is_any_late:
            return [True] * len(ended)
        return [result.claim.key in recorded for result in ended]

    async def _write(self, ended: Sequence[Result]) -> set[ClaimKey]:
        """Write results down; with them goes the content of what was sent, where that is wanted."""
        pool, worker, retention = self._pool, self._rules.worker, self._rules.retention
        # A hot path: results are looked through only where somebody asked for it.
        over = [r for r in ended if _is_over(r, retention)] if retention.drop_content else []
        if not over:
            return await results.record(pool, ended, worker=worker)
        try:
            recorded = await results.record(pool, over, worker=worker, drops=True)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as error:  # no grant, or the application wants it to stay
            if len(ended) > 1 and not isinstance(error, STATEMENT_IS_WRONG):
                raise  # each by itself: the others' goes
            log.warning('content.not_deleted', error=str(error))
            return await results.record(pool, ended, worker=worker)
        if others := [result for result in ended if not _is_over(result, retention)]:
            recorded |= await results.record(pool, others, worker=worker)
        return recorded

    async def _empty(self, late: Sequence[Result]) -> None:
        """Delete the content of what was sent and recorded late, where that is wanted."""
        retention = self._rules.retention
        over = [result.claim.email.id for result in late if _is_over(result, retention)]
        try:
            if over:
                await results.drop_content(self._pool, over)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as error:
            log.warning('content.not_deleted', error=str(error))

    async def _record_beside_row(self, result: Result, error: Exception) -> Exception:
        """Keep what a row refuses to take: the attempt by itself, and in the row the reason.

        The e-mail is not sent again, for its relay may have it.
        """
        try:
            await record_beside_row(self._pool, result, error, worker=self._rules.worker)
        except DATABASE_DOWN:
            raise
        except asyncpg.PostgresError as also:
            log.exception('attempt.not_recorded', email_id=result.claim.email.id, error=str(also))
        refused = Narrowed(refused={result.claim.email.id: error})
        may_be_there = result.delivery.outcome in (Outcome.ACCEPTED, Outcome.UNCERTAIN)
        status = Status.UNCERTAIN if may_be_there else Status.FAILED
        await give_up_rows(self._pool, refused, self._set_aside, status, result.claim.token)
        return error

    def log_attempt(self, result: Result) -> None:
        """Count the outcome and write the e-mail's line."""
        claim, delivery, decision = result.claim, result.delivery, result.decision
        self._activity.outcomes[str(delivery.outcome)] += 1  # a third of what .value takes
        came_through = delivery.outcome is not Outcome.RELEASED
        self._concurrency.ended(claim.priority, came_through=came_through)
        if self._activity.events.wanted:
            self._publish(result)
        if self.spans is not None:
            self.spans.note(result)
        retry_in_s = decision.retry_in_s
        line = {
            'status': str(decision.status),
            'relay': delivery.relay,
            'phase': str(delivery.phase),
            'code': delivery.reply.code if delivery.reply else None,
            'error': hide_addresses(delivery.error),
            'retry_in_s': round(retry_in_s, 1) if retry_in_s is not None else None,
            'dead_reason': decision.dead_reason,
            'message_id': claim.email.message_id,
            'duration_ms': round(result.duration_s * 1000),
        }
        write_line(
            'info' if delivery.outcome in (Outcome.ACCEPTED, Outcome.RELEASED) else 'warning',
            OUTCOME_EVENTS[delivery.outcome],
            line,
        )

    def _publish(self, result: Result) -> None:
        """Add the attempt to the events of those who watch the fleet just now."""
        claim, delivery, decision = result.claim, result.delivery, result.decision
        self._activity.events.add(
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


def _is_over(result: Result, retention: RetentionRules) -> bool:
    """Tell whether what an e-mail says is needed no more, and not to be kept."""
    return result.decision.status is Status.SENT and retention.drops(result.claim.email.email_type)
