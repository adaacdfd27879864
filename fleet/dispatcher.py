"""The arq Worker we run: arq's keys, semantics and wire format, but Redis may come and go."""

import asyncio
import functools
import time
from signal import Signals
from typing import Any

import structlog
import uvloop
from arq.constants import in_progress_key_prefix
from arq.worker import Worker
from redis.exceptions import RedisError

from fleet.connection import open_redis

log = structlog.get_logger()

REDIS_DOWN = (RedisError, OSError, asyncio.TimeoutError)

# How long a killed worker's jobs stay locked. Stock arq locks them for the job timeout, which for us is as long as two
# relays may take to answer; this lock is renewed instead while the job runs.
IN_PROGRESS_S = 60.0
RENEW_EVERY_S = 15.0
RETRY_MAX_S = 2.0


class Dispatcher(Worker):
    """arq's Worker that outlives Redis.

    ctx has two events for the jobs: 'stopping' is set by the first SIGTERM, 'redis_away' while Redis does not answer;
    and 'stop_by', the end of the drain time in time.monotonic() seconds.
    """

    # wraps: arq picks the options it knows out of WorkerSettings by this signature.
    @functools.wraps(Worker.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # arq's command has no loop yet and takes the current one
            asyncio.set_event_loop(uvloop.new_event_loop())
        super().__init__(*args, **kwargs)
        self.in_progress_timeout_s = IN_PROGRESS_S
        self.ctx['stopping'] = asyncio.Event()
        self.ctx['redis_away'] = asyncio.Event()
        self.ctx['stop_by'] = 0.0
        self._retry_s = 0.1
        self._renewed_at = 0.0

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
        log.info('worker started', queue=self.queue_name, functions=sorted(self.functions))
        while True:
            await self._poll_iteration()
            if self.burst and await self._burst_is_over():
                await asyncio.gather(*self.tasks.values())
                return
            await asyncio.sleep(self.poll_delay_s)

    async def _burst_is_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            return True
        return not await self.pool.zcard(self.queue_name)

    async def _poll_iteration(self) -> None:
        try:
            await super()._poll_iteration()
            await self._renew_in_progress()
        except REDIS_DOWN as error:
            if self.burst:
                raise
            await self._wait_for_redis(error)
        else:
            if self.ctx['redis_away'].is_set():
                self.ctx['redis_away'].clear()
                log.info('redis is back')
            self._retry_s = 0.1

    async def _wait_for_redis(self, error: BaseException) -> None:
        """Note that Redis is away, tidy up as arq's own poll would have, and pause before the next look."""
        if not self.ctx['redis_away'].is_set():
            self.ctx['redis_away'].set()
            log.error('redis is away, going on without it', error=str(error) or type(error).__name__)
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                self._log_unfinished(job_id, task)
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def _log_unfinished(self, job_id: str, task: asyncio.Task[Any]) -> None:
        """Report a job whose end could not be written to Redis. It may run again there, and find nothing to do."""
        if not task.cancelled() and task.exception() is not None:
            log.warning('job not finished in redis', job_id=job_id, error=str(task.exception()))

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start jobs as arq does; give back the slot it took for the job at which Redis failed."""
        try:
            await super().start_jobs(job_ids)
        except REDIS_DOWN:
            self._release_sem_dec_counter_on_complete()
            raise

    async def _renew_in_progress(self) -> None:
        if time.monotonic() - self._renewed_at < RENEW_EVERY_S:
            return
        self._renewed_at = time.monotonic()
        running = [job_id for job_id, task in self.tasks.items() if not task.done()]
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in running:
                pipe.pexpire(in_progress_key_prefix + job_id, int(IN_PROGRESS_S * 1000))
            await pipe.execute()

    def handle_sig(self, signum: Signals) -> None:
        """Stop now: no new claims, running jobs are cancelled and release what they hold."""
        self._stop_by(0)
        super().handle_sig(signum)

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Stop in order: no new claims, running jobs may finish within the drain time."""
        self._stop_by(self._job_completion_wait)
        super().handle_sig_wait_for_completion(signum)

    def _stop_by(self, drain_s: float) -> None:
        if not self.ctx['stopping'].is_set():
            self.ctx['stopping'].set()
            self.ctx['stop_by'] = time.monotonic() + drain_s

    async def close(self) -> None:
        """End what arq ends, whether Redis answers or not."""
        if not self._handle_signals:
            self.handle_sig(Signals.SIGUSR1)
        if not self._pool:
            return
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        try:
            await self.pool.delete(self.health_check_key)
        except REDIS_DOWN as error:
            log.warning('redis is away at the end', error=str(error))
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.pool.close(close_connection_pool=True)
        self._pool = None
