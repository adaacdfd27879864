"""Run one job as arq's Worker.run_job does, without its four round trips and its second task.

Same keys, same results, same hooks and same log lines: arq's own tests run against this (`make
arq-tests`).
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import arq.worker
import structlog
from arq.constants import retry_key_prefix
from arq.cron import CronJob
from arq.jobs import SerializationError, deserialize_job_raw, serialize_result
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms, truncate
from arq.worker import Function, JobExecutionFailed, Retry, RetryJob, Worker

from engine.batches import Batcher
from engine.claimed_jobs import RETRY_KEY_LIFETIME_S, ClaimedJob, End, write_ends
from engine.refused import (
    ARGUMENTS,
    SET_ASIDE,
    UNKNOWN_FUNCTION,
    UNREADABLE,
    Arguments,
    RefusedJobs,
    read_json_job,
)

Option = TypeVar('Option')

logger = logging.getLogger('arq.worker')

MAX_STARTS = 3  # without an end; as an e-mail's lost attempts
NEVER_ENDED = f'{MAX_STARTS} workers began it, and none came to its end: they were killed, or hung'


class Job(NamedTuple):
    """A job that was read and can be run."""

    claimed: ClaimedJob
    function: Function | CronJob
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tries: int
    enqueued_ms: int

    @property
    def ref(self) -> str:
        """The job's name in log lines."""
        return self.name if isinstance(self.function, CronJob) else f'{self.claimed.id}:{self.name}'


class JobOutcome(NamedTuple):
    """What the job's function did."""

    finished: bool
    success: bool = False
    result: Any = None
    later_ms: int | None = None


class JobRunner(Worker):
    """arq's Worker, as far as a claimed job is concerned.

    The ends of jobs are written together. Of a worker that is killed before that, the locks expire
    and the jobs run again, so their functions must be able to run twice.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._write_ends = Batcher(self._write_each_end, drop_cancelled=False)
        self.refused = RefusedJobs()
        # What a refused job is about, of its arguments: the program knows, arq does not.
        self.subject_of: Callable[
            [Sequence[Any], Mapping[str, Any]], Mapping[str, int | str | None]
        ] = lambda _args, _kwargs: {}

    async def run_claimed(self, claimed: ClaimedJob) -> None:
        """Run a job to its end in Redis."""
        # The task that runs this is the job's own, and so is its context.
        structlog.contextvars.bind_contextvars(job_id=claimed.id)
        job = await self._read(claimed)
        if job is None:
            return
        if job.tries != claimed.tries:  # a retry that was enqueued as such
            key = retry_key_prefix + claimed.id
            await self.pool.setex(key, RETRY_KEY_LIFETIME_S, str(job.tries))
        max_tries = _or(job.function.max_tries, self.max_tries)
        if job.tries > max_tries:
            age_s = (timestamp_ms() - job.enqueued_ms) / 1000
            logger.warning('%6.2fs ! %s max retries %d exceeded', age_s, job.ref, max_tries)
            await self._refuse(job, JobExecutionFailed(f'max {max_tries} retries exceeded'))
            return
        ctx = {
            **self.ctx,
            'job_id': claimed.id,
            'job_try': job.tries,
            'enqueue_time': ms_to_datetime(job.enqueued_ms),
            'score': claimed.score,
        }
        if self.on_job_start:
            await self.on_job_start(ctx)
        started_ms = timestamp_ms()
        outcome = await self._call(job, ctx, started_ms)
        end = self._end(job, outcome, started_ms, timestamp_ms())
        if self.on_job_end:
            await self.on_job_end(ctx)
        await self._write_ends.ask(end)  # stock arq takes two round trips for each
        if not end.finished:
            self.runs_again()
        if self.after_job_end:
            await self.after_job_end(ctx)

    def runs_again(self) -> None:
        """Take note that a job is back in the queue."""

    async def _read(self, claimed: ClaimedJob) -> Job | None:
        """Read a job's body. One that cannot be run is recorded as failed."""
        unread = Job(claimed, NOBODY, '<unknown>', (), {}, claimed.tries, 0)
        # Before anything of it is looked at: reading it may be what held or ended those workers.
        if claimed.starts > MAX_STARTS:  # it would kill one worker after another
            logger.error('job %s is set aside: %s', claimed.id, NEVER_ENDED)
            self._note_refused(SET_ASIDE, claimed, NEVER_ENDED)
            await self._refuse(unread, JobExecutionFailed(f'set aside: {NEVER_ENDED}'))
            return None
        if not claimed.body_bytes:
            logger.warning('job %s expired', claimed.id)
            await self._refuse(unread, JobExecutionFailed('job expired'))
            return None
        body = claimed.body
        if body is None:
            body = f'no job: {claimed.body_bytes} bytes'.encode()
        try:
            # A linear reader: with another, 60 hostile bytes could hold a worker.
            name, args, kwargs, tries, enqueued_ms = deserialize_job_raw(
                body, deserializer=self.job_deserializer
            )
        except SerializationError as error:
            logger.exception('deserializing job %s failed', claimed.id)
            wanted, arguments = read_json_job(claimed.body or b'')
            why = str(error.__cause__ or error)
            self._note_refused(UNREADABLE, claimed, why, wanted, arguments)
            await self._refuse(unread, error)
            return None
        # arq counts a try at each claim, its producers may set it: the larger one counts.
        tries = max(tries or 0, claimed.tries)
        function = self.functions.get(name, NOBODY)
        return await self._runnable(Job(claimed, function, name, args, kwargs, tries, enqueued_ms))

    async def _runnable(self, job: Job) -> Job | None:
        """Return the job, unless it was aborted or has no function here: then it is failed."""
        claimed, name = job.claimed, job.name
        if claimed.aborted:
            age_s = (timestamp_ms() - job.enqueued_ms) / 1000
            logger.info('%6.2fs ⊘ %s:%s aborted before start', age_s, claimed.id, name)
            await self._refuse(job, asyncio.CancelledError())
            return None
        if job.function is NOBODY:  # two applications may share this Redis
            logger.warning('job %s, function %r not found', claimed.id, name)
            why = f'no worker here has a function {name[:80]!r}'
            self._note_refused(UNKNOWN_FUNCTION, claimed, why, name, (job.args, job.kwargs))
            await self._refuse(job, JobExecutionFailed(f'function {name!r} not found'))
            return None
        return job

    def _note_refused(
        self,
        reason: str,
        claimed: ClaimedJob,
        why: str,
        function: str | None = None,
        arguments: Arguments = ((), {}),
    ) -> None:
        subject = self.subject_of(*arguments)
        self.refused.add(reason, claimed.id, why, function=function, **subject)

    async def _refuse(self, job: Job, error: BaseException) -> None:
        self.jobs_failed += 1
        now_ms = timestamp_ms()
        end = self._end(job, JobOutcome(finished=True, result=error), now_ms, now_ms)
        # arq keeps a cron job's lock for a minute, so that no other worker runs the same tick; of
        # one that was refused nothing has run.
        await self._write_ends.ask(end._replace(keep_lock_s=None))

    async def _call(self, job: Job, ctx: dict[str, Any], started_ms: int) -> JobOutcome:
        """Call the job's function, in this task: cancelling or aborting the job cancels it."""
        job_id = job.claimed.id
        timeout_s = _or(job.function.timeout_s, self.job_timeout_s)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has one
        self.job_tasks[job_id] = task
        try:
            self._log_start(job, started_ms)
            async with asyncio.timeout(timeout_s):
                result = await job.function.coroutine(ctx, *job.args, **job.kwargs)
            if logger.isEnabledFor(logging.INFO):
                shown = '' if result is None or not self.log_results else truncate(repr(result))
                logger.info(
                    '%6.2fs ← %s ● %s', (timestamp_ms() - started_ms) / 1000, job.ref, shown
                )
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a job may raise anything
            # The cancellation ends here: this task goes on to write the job's end, and whoever
            # looks at its count (asyncio.timeout, is_cancelled) must not take it for cancelled.
            while isinstance(error, asyncio.CancelledError) and task.uncancel():
                pass
            return self._failed(job, error, (timestamp_ms() - started_ms) / 1000)
        finally:
            del self.job_tasks[job_id]
        self.jobs_complete += 1
        return JobOutcome(finished=True, success=True, result=result)

    def _log_start(self, job: Job, started_ms: int) -> None:
        if logger.isEnabledFor(logging.INFO):
            extra = f' try={job.tries}' if job.tries > 1 else ''
            if (late_ms := started_ms - job.claimed.score) > 1200:
                extra += f' delayed={late_ms / 1000:0.2f}s'
            shown = args_to_string(job.args, job.kwargs)
            logger.info(
                '%6.2fs → %s(%s)%s', (started_ms - job.enqueued_ms) / 1000, job.ref, shown, extra
            )

    def _failed(self, job: Job, error: BaseException, took_s: float) -> JobOutcome:
        """Decide what an exception means: again, again later, or never."""
        if self.retry_jobs and isinstance(error, Retry):
            defer_ms = error.defer_score or 0
            logger.info('%6.2fs ↻ %s retrying job in %0.2fs', took_s, job.ref, defer_ms / 1000)
            self.jobs_retried += 1
            later_ms = defer_ms + timestamp_ms() - job.claimed.score if defer_ms else None
            return JobOutcome(finished=False, later_ms=later_ms)
        cancelled = isinstance(error, asyncio.CancelledError)
        if cancelled and job.claimed.id in self.aborting_tasks:
            logger.info('%6.2fs ⊘ %s aborted', took_s, job.ref)
            self.aborting_tasks.remove(job.claimed.id)
        elif self.retry_jobs and (cancelled or isinstance(error, RetryJob)):
            logger.info('%6.2fs ↻ %s cancelled, will be run again', took_s, job.ref)
            self.jobs_retried += 1
            return JobOutcome(finished=False)
        else:
            if isinstance(error, TypeError):
                self._note_wrong_arguments(job)
            extra = getattr(error, 'extra', None)
            extra = extra() if callable(extra) else extra
            arguments = (took_s, job.ref, type(error).__name__, error)
            logger.error(
                '%6.2fs ! %s failed, %s: %s',
                *arguments,
                extra={'extra': extra},
                exc_info=error,
            )
        self.jobs_failed += 1
        return JobOutcome(finished=True, result=error)

    def _note_wrong_arguments(self, job: Job) -> None:
        """Note a job that its function cannot take; a TypeError may as well come from within it."""
        try:
            inspect.signature(job.function.coroutine).bind(None, *job.args, **job.kwargs)
        except TypeError as error:
            arguments = (job.args, job.kwargs)
            self._note_refused(ARGUMENTS, job.claimed, str(error), job.name, arguments)

    def _end(self, job: Job, outcome: JobOutcome, started_ms: int, finished_ms: int) -> End:
        function = job.function
        for_ever = _or(function.keep_result_forever, self.keep_result_forever)
        keep_result_s = _or(function.keep_result_s, self.keep_result_s)
        result = None
        if outcome.finished and (for_ever or keep_result_s > 0):
            asked = (job.name, job.args, job.kwargs, job.tries, job.enqueued_ms)
            became = (outcome.success, outcome.result, started_ms, finished_ms)
            where = (job.ref, self.queue_name, job.claimed.id)
            serializer = self.job_serializer
            result = serialize_result(*asked, *became, *where, serializer=serializer)
        return End(
            job.claimed.id,
            outcome.finished,
            result,
            None if for_ever else keep_result_s,
            outcome.later_ms,
            arq.worker.keep_cronjob_progress if isinstance(function, CronJob) else None,  # type: ignore[attr-defined]
        )

    async def _write_each_end(self, ends: Sequence[End]) -> list[None]:
        await write_ends(self.pool, self.queue_name, ends)
        return [None] * len(ends)


def _or(own: Option | None, default: Option) -> Option:
    """Return a function's own option, or the worker's where it has none."""
    return default if own is None else own


async def _nobody(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:
    """Stand in for the function of a job that cannot be run."""


NOBODY = Function('<unknown>', _nobody, None, None, None, None)
