"""One measured run of one contender."""

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender, Site
from bench.outbox import RunFailed, fresh_outbox
from bench.py_spy import profiled
from bench.relay import Relay
from bench.usage import PeakMemory, cpu_s
from dev.processes import last_lines, log_since, spawn
from dev.stack import Stack
from dev.watchdog import Watchdog
from fleet.connection import open_redis, redis_settings

WARM_UP_DEADLINE_S = 60.0
SLOWEST_EMAILS_PER_S = 5.0
STOP_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Measurement:
    """What one run took. CPU and memory are the worker's processes together."""

    contender: str
    emails: int
    wall_s: float
    worker_cpu_s: float
    peak_pss_bytes: int

    @property
    def emails_per_s(self) -> float:
        """From the moment the worker could see the e-mails until the last was recorded as sent."""
        return self.emails / self.wall_s

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds of the worker's processes for 1,000 e-mails."""
        return self.worker_cpu_s / self.emails * 1000


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    stack: Stack
    relay: Relay
    watchdog: Watchdog
    directory: Path
    profiles: Path | None = None

    async def run(self, contender: Contender, emails: int, name: str) -> Measurement:
        """Start the worker, warm it up, give it the e-mails, wait, check.

        Args:
            name: Unique among all runs; letters, digits and underscores.
        Raises:
            RunFailed: the e-mails were not all sent exactly once. The message ends with the worker's log.
        """
        directory = self.directory / name
        directory.mkdir()
        log_path = directory / 'worker.log'
        try:
            async with self._site(contender, name, directory) as site:
                return await self._measure(contender, site, emails, log_path)
        except RunFailed as error:
            log = last_lines(re.sub(r'\n+', '\n', log_since(log_path, 0)))
            raise RunFailed(f'{contender.title}: {error}\n  Last lines of its log:\n{log}') from error

    @contextlib.asynccontextmanager
    async def _site(self, contender: Contender, name: str, directory: Path) -> AsyncIterator[Site]:
        redis = open_redis(redis_settings(self.stack.env['ARQ_REDIS_URL']), 'arq:queue')
        try:
            await redis.flushall()
            async with fresh_outbox(self.stack.postgres, f'bench_{name}') as outbox:
                await contender.prepare(outbox)
                yield Site(self.stack, outbox, redis, self.relay.port, directory)
        finally:
            await redis.aclose()

    async def _measure(self, contender: Contender, site: Site, emails: int, log_path: Path) -> Measurement:
        outbox = site.outbox
        worker = await asyncio.to_thread(spawn, contender.command(site), log_path, self.watchdog)
        try:
            await self._give(contender, site, contender.warm_up_emails)
            await outbox.commit()
            await contender.release(site)
            await outbox.wait_until_sent(worker, WARM_UP_DEADLINE_S)

            warm_at = time.monotonic()
            ids = await self._give(contender, site, emails)
            await asyncio.sleep(max(0.0, warm_at + contender.settle_s - time.monotonic()))
            taken = await asyncio.to_thread(self.relay.count)
            with PeakMemory(worker.pid) as memory, profiled(worker.pid, self.profiles, contender.key):
                cpu_before_s = cpu_s(worker.pid)
                released_at = await outbox.now()
                await outbox.commit()
                await contender.release(site)
                await outbox.wait_until_sent(worker, emails / SLOWEST_EMAILS_PER_S + WARM_UP_DEADLINE_S)
                worker_cpu_s = cpu_s(worker.pid) - cpu_before_s
            if (sunk := await self.relay.settled_count(taken + emails) - taken) != emails:
                raise RunFailed(f'the sink took {sunk} messages for {emails} e-mails')
            wall_s = (await outbox.last_sent_at(ids) - released_at).total_seconds()
            await contender.check(site, ids)
        finally:
            await asyncio.to_thread(self._stop, worker)
        return Measurement(contender.key, emails, wall_s, worker_cpu_s, memory.peak_bytes)

    async def _give(self, contender: Contender, site: Site, emails: int) -> list[int]:
        ids = await site.outbox.insert(emails)
        await contender.hold(site, ids)
        return ids

    def _stop(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        try:
            worker.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        self.watchdog.forget(worker.pid)
