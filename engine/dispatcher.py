"""The arq Worker we run: arq's keys, semantics and wire format, but Redis may come and go."""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from signal import Handlers, Signals, getsignal
from typing import Any

import structlog
import uvloop
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from arq.worker import Worker
from redis.exceptions import RedisError

from engine.background import is_cancelled, keep_alive
from engine.claimed_jobs import End, claim_jobs
from engine.connection import open_redis
from engine.job_events import listen_for_jobs
from engine.job_runner import JobRunner
from engine.signals import WorkerSignals

log = structlog.get_logger()

# RuntimeError is what uvloop says of a write to a connection that has just been closed.
REDIS_DOWN = (RedisError, OSError, asyncio.TimeoutError, RuntimeError)

# How long a killed worker's jobs stay locked. Stock arq locks them for the job timeout, which for
# us is as long as two relays may take to answer; this lock is renewed instead while the job runs.
IN_PROGRESS_S = 30.0
RENEW_EVERY_S = 8.0
RETRY_MAX_S = 2.0
IDLE_MAX_S = 2.0  # cron duties and the health key want a look this often
# A producer waits about as long for Redis before it gives up; what it committed has no job then.
SLOW_S = 0.5
# While jobs run, those that come within this are claimed in one call: one look for a burst, not one
# for each job.
GATHER_S = 0.002
# Below this share of the wanted jobs the worker looks again. Looking at each end would cost one
# round trip a job; waiting for the last would leave the relay idle meanwhile.
REFILL_BELOW = 0.75

# Its absence means that Redis was emptied, and the wake-ups of all that is due with it.
MARKER_KEY = 'email-worker:marker'
MARK_EVERY_S = 5.0


class Dispatcher(JobRunner):
    """arq's Worker that outlives Redis.

    ctx['dispatcher'] is this object: on_startup finds the signals there, and the operators' side of
    the worker what it controls.
    """

    # wraps: arq picks the options it knows out of WorkerSettings by this signature.
    @functools.wraps(Worker.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # arq's command has no loop yet and takes the current one
            asyncio.set_event_loop(uvloop.new_event_loop())
        super().__init__(*args, **kwargs)
        # A closed terminal ends its worker in order, unless nohup has it stay.
        if self._handle_signals and getsignal(Signals.SIGHUP) is not Handlers.SIG_IGN:
            drains = bool(self._job_completion_wait)
            self._add_signal_handler(
                Signals.SIGHUP, self.handle_sig_wait_for_completion if drains else self.handle_sig
            )
        self.signals = WorkerSignals()
        self.ctx['dispatcher'] = self
        self.job_started_at: dict[str, float] = {}  # seconds since 1970, of the running jobs
        # Set when a job was enqueued, or one has ended while others may wait for its slot.
        self._look = asyncio.Event()
        self._hears = False  # whether Redis publishes new jobs
        self._next_due_ms = math.inf
        self._listening: asyncio.Task[None] | None = None
        self._more = False  # whether Redis had more jobs than there was room for
        # Below max_jobs, what keeps us busy.
        self.wanted_jobs: Callable[[], int] = lambda: self.max_jobs
        # What the log says of an error of Redis; the program may know more of the queue's key.
        self.error_text: Callable[[BaseException, str], str] = lambda error, _: repr(error)
        self._retry_s = 0.1
        self._is_slow = False
        self._renewed_at = 0.0
        self._marked_at = 0.0

    async def main(self) -> None:
        """Start, then poll until cancelled. Unlike arq's own, does not need Redis for either."""
        if self._pool is None:
            if self.redis_settings is None:
                raise RuntimeError('either redis_settings or redis_pool is needed')
            self._pool = open_redis(
                self.redis_settings,
                self.queue_name,
                job_serializer=self.job_serializer,
                job_deserializer=self.job_deserializer,
                expires_extra_ms=self.expires_extra_ms,
            )
        self.ctx['redis'] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        self._listening = keep_alive(
            functools.partial(
                listen_for_jobs, self.pool, self.queue_name, self._look.set, self._set_hearing
            )
        )
        log.info('worker.started', queue=self.queue_name, functions=sorted(self.functions))
        while True:
            await self._poll_iteration()
            if is_cancelled():
                raise asyncio.CancelledError
            if self.burst and await self._burst_is_over():
                await asyncio.gather(*self.tasks.values())
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._look.wait()
                if self.tasks:
                    await asyncio.sleep(GATHER_S)
            self._look.clear()

    def _set_hearing(self, hears: bool) -> None:
        self._hears = hears

    def _idle_s(self) -> float:
        """Return how long there is nothing to do unless something happens."""
        if not self._hears:
            return self.poll_delay_s
        return min(IDLE_MAX_S, max(0.001, (self._next_due_ms - timestamp_ms()) / 1000))

    async def _burst_is_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            return True
        return not await self.pool.zcard(self.queue_name)

    async def _poll_iteration(self) -> None:
        since = time.monotonic()
        try:
            await self.heart_beat()
            if self.allow_pick_jobs:
                await self._claim_jobs()
            if self.allow_abort_jobs:
                await self._cancel_aborted_jobs()
            await self._renew_in_progress()
            await self._notice_emptied()
        except REDIS_DOWN as error:
            if self.burst:
                raise
            if not self.signals.redis_unreachable.is_set():
                self.signals.redis_unreachable.set()
                self.signals.sweep_wanted.set()  # from now on nobody else asks for it
                log.error(
                    'redis.unreachable',
                    error=self.error_text(error, self.queue_name),
                )
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
        else:
            if self.signals.redis_unreachable.is_set():
                self.signals.redis_unreachable.clear()
                # For what was refused, or lost with the last second before the end.
                self.signals.sweep_wanted.set()
                log.info('redis.reconnected')
            self._note_slowness(since)
            self._retry_s = 0.1

    def _note_slowness(self, since: float) -> None:
        """Ask for a sweep when Redis was so slow that producers gave up, though no call failed."""
        took_s = time.monotonic() - since
        was_slow, self._is_slow = self._is_slow, took_s > SLOW_S
        if self._is_slow:
            self.signals.sweep_wanted.set()
            if not was_slow:
                log.warning('redis.slow', took_s=round(took_s, 1))

    async def _claim_jobs(self) -> None:
        """Lock and start as many due jobs as there is room for."""
        room = min(self.max_jobs, self.wanted_jobs()) - len(self.tasks)
        if self.burst and self.max_burst_jobs >= 0:
            room = min(room, self.max_burst_jobs - self._jobs_started())
        if room < 1:
            self._next_due_ms, self._more = math.inf, True  # a job that ends makes us look again
            self.signals.urgent_wanted.set()
            return
        claims = await claim_jobs(
            self.pool,
            self.queue_name,
            room,
            lock_s=IN_PROGRESS_S,
            aborts=bool(self.allow_abort_jobs),
        )
        ahead_ms = claims.redis_now_ms - timestamp_ms()
        self.signals.redis_ahead_s = ahead_ms / 1000
        self._next_due_ms = claims.next_due_ms - ahead_ms  # by our own clock
        self._more = len(claims.jobs) == room
        if self._more:
            self.signals.urgent_wanted.set()
        for job in claims.jobs:
            self.job_started_at[job.id] = time.time()
            task = self.loop.create_task(self.run_claimed(job))
            self.tasks[job.id] = task
            task.add_done_callback(functools.partial(self._job_ended, job.id))

    def pick_jobs(self, *, pick: bool) -> None:
        """Claim jobs, or leave them in Redis for now. A worker that is stopping claims none."""
        self.allow_pick_jobs = pick and not self.signals.stopping.is_set()
        # What is due must not keep the loop awake while nothing may be claimed.
        self._next_due_ms = math.inf
        self._look.set()

    async def _write_each_end(self, ends: Sequence[End]) -> list[None]:
        since = time.monotonic()
        try:
            return await super()._write_each_end(ends)
        finally:
            self._note_slowness(since)

    def runs_again(self) -> None:
        """Look for it: Redis publishes no event for a job that never left the queue."""
        self._look.set()

    def _job_ended(self, job_id: str, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(job_id, None)
        self.job_started_at.pop(job_id, None)
        # One look for many that end, as long as others keep us busy.
        if (
            not self._hears
            or not self.tasks
            or (self._more and len(self.tasks) <= self.wanted_jobs() * REFILL_BELOW)
        ):
            self._look.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # It could not be finished in Redis: its lock runs out, it runs again, and finds its
            # e-mail sent.
            log.warning('job.not_finished', job_id=job_id, error=str(error) or type(error).__name__)

    async def _renew_in_progress(self) -> None:
        if time.monotonic() - self._renewed_at < RENEW_EVERY_S:
            return
        self._renewed_at = time.monotonic()
        # A lock that has expired is not made again (PEXPIRE): another worker may have the job.
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, int(IN_PROGRESS_S * 1000))
            await pipe.execute()

    async def _notice_emptied(self) -> None:
        if time.monotonic() - self._marked_at < MARK_EVERY_S:
            return
        # At the first look a missing marker only means that this Redis is new.
        if await self.pool.set(MARKER_KEY, self.queue_name, nx=True) and self._marked_at:
            log.error('redis.emptied')
            self.signals.sweep_wanted.set()
        self._marked_at = time.monotonic()

    def handle_sig(self, signum: Signals) -> None:
        """Stop now: no new claims, running jobs are cancelled and release what they hold."""
        self._stop_by(0)
        super().handle_sig(signum)

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Stop in order: no new claims, running jobs may finish within the drain time."""
        self._stop_by(self._job_completion_wait)
        super().handle_sig_wait_for_completion(signum)

    def _stop_by(self, drain_s: float) -> None:
        if not self.signals.stopping.is_set():
            self.signals.stopping.set()
            self.signals.stop_by = time.monotonic() + drain_s

    async def close(self) -> None:
        """End what arq ends, whether Redis answers or not."""
        if not self._handle_signals:
            self.handle_sig(Signals.SIGUSR1)
        if not self._pool:
            return
        if self._listening is not None:
            self._listening.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        try:
            await self.pool.delete(self.health_check_key)
        except REDIS_DOWN as error:
            log.warning('worker.health_key_not_deleted', error=str(error))
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None
        # `arq --watch` runs us again.
        self.signals.stopping.clear()
        self.allow_pick_jobs = True
