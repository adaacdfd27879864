"""One measured run of one contender, with one worker or several."""

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.contender import Contender, Site
from bench.outbox import RunFailed, fresh_outbox
from bench.py_spy import profiled
from bench.relay import Relay, RelayKind, running_relay
from bench.usage import PeakMemory, Usage
from dev.processes import last_lines, log_since, spawn
from dev.stack import Stack
from dev.watchdog import Watchdog
from engine.connection import open_redis
from engine.redis_url import redis_settings

WARM_UP_DEADLINE_S = 60.0
SLOWEST_EMAILS_PER_S = 5.0
STOP_DEADLINE_S = 40.0


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        cpu_s: By role: worker, postgres, redis, relay.
        machine_busy: The fraction of all cores that were, by whomever.
        peak_pss_bytes: Of the workers' processes together.
        redis_bytes: What Redis holds at the end, above what it held empty: the results.
    """

    contender: str
    workers: int
    emails: int
    wall_s: float
    cpu_s: dict[str, float]
    machine_busy: float
    peak_pss_bytes: int
    redis_bytes: int

    @property
    def emails_per_s(self) -> float:
        """From the moment the workers could see the e-mails until the last was recorded as sent."""
        return self.emails / self.wall_s

    def cpu_s_per_1000(self, role: str = 'worker') -> float:
        """CPU seconds for 1,000 e-mails, of: worker, postgres, redis, relay."""
        return self.cpu_s[role] / self.emails * 1000

    def as_json(self) -> dict[str, Any]:
        """Return what `Run(**...)` takes."""
        return asdict(self)


@dataclass(frozen=True)
class Order:
    """What a run is to do.

    Attributes:
        name: Unique among all runs; letters, digits and underscores.
        settings: Environment variables of our worker that differ from the defaults.
        profile: Where py-spy's stacks go; what is measured meanwhile is not worth publishing.
    """

    contender: Contender
    relay: Relay
    emails: int
    name: str
    workers: int = 1
    settings: Mapping[str, str] | None = None
    profile: Path | None = None


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    stack: Stack
    watchdog: Watchdog
    directory: Path
    own_sink: bool = False

    @contextlib.contextmanager
    def relay(self, **kind: Any) -> Any:
        """Start a sink; see RelayKind."""
        with running_relay(
            self.directory, self.watchdog, RelayKind(own=self.own_sink, **kind)
        ) as relay:
            yield relay

    async def run(self, order: Order) -> Run:
        """Start the workers, warm them up, give them the e-mails, wait, check.

        Raises:
            RunFailed: the e-mails were not all sent exactly once. The message ends with a worker's
                log.
        """
        async with self.site(order) as site, self.workers(order, site) as workers:
            outbox, contender = site.outbox, order.contender
            before = await asyncio.to_thread(order.relay.count)
            empty_bytes = await _used_bytes(site)
            warm_up = contender.warm_up_emails * order.workers

            def took(count: int) -> bool:
                return order.relay.count() - before >= count

            await self._give(contender, site, warm_up)
            await outbox.commit()
            await contender.release(site)
            await outbox.wait_until_sent(workers, lambda: took(warm_up), WARM_UP_DEADLINE_S)

            warm_at = time.monotonic()
            ids = await self._give(contender, site, order.emails)
            await asyncio.sleep(max(0.0, warm_at + contender.settle_s - time.monotonic()))
            pids = [worker.pid for worker in workers]
            deadline_s = order.emails / SLOWEST_EMAILS_PER_S + WARM_UP_DEADLINE_S
            with PeakMemory(pids) as memory, profiled(pids[0], order.profile):
                usage = Usage(self.roles(order.relay, pids))
                released_at = await outbox.now()
                await outbox.commit()
                await contender.release(site)
                await outbox.wait_until_sent(
                    workers, lambda: took(warm_up + order.emails), deadline_s
                )
                cpu_s, machine_busy = usage.taken()
            taken = (
                await order.relay.settled_count(before + warm_up + order.emails) - before - warm_up
            )
            if taken != order.emails:
                raise RunFailed(f'the sink took {taken} messages for {order.emails} e-mails')
            wall_s = (await outbox.last_sent_at(ids) - released_at).total_seconds()
            await contender.check(site, ids)
            redis_bytes = await _used_bytes(site) - empty_bytes
        return Run(
            contender.key,
            order.workers,
            order.emails,
            wall_s,
            cpu_s,
            machine_busy,
            memory.peak_bytes,
            redis_bytes,
        )

    def roles(self, relay: Relay, workers: list[int]) -> dict[str, list[int]]:
        """Return the processes whose CPU is counted, by role."""
        return {
            'worker': workers,
            'postgres': [self.stack.postgres.pid],
            'redis': [self.stack.valkey.pid],
            'relay': [relay.pid],
        }

    @contextlib.asynccontextmanager
    async def site(self, order: Order) -> AsyncIterator[Site]:
        """Make a fresh database and an empty Redis."""
        directory = self.directory / order.name
        directory.mkdir()
        redis = open_redis(redis_settings(self.stack.env['ARQ_REDIS_URL']), 'arq:queue')
        try:
            await redis.flushall()
            async with fresh_outbox(self.stack.postgres, f'bench_{order.name}') as outbox:
                await order.contender.prepare(outbox)
                yield Site(self.stack, outbox, redis, order.relay, directory, order.settings or {})
        finally:
            await redis.aclose()

    @contextlib.asynccontextmanager
    async def workers(
        self, order: Order, site: Site
    ) -> AsyncIterator[list[subprocess.Popen[bytes]]]:
        """Start the workers, stop them at the end; a run that fails gets the last words of one."""
        log_path = site.directory / 'worker.log'
        command = order.contender.command(site)
        workers = [
            await asyncio.to_thread(
                spawn, command, log_path.with_suffix(f'.{n}.log') if n else log_path, self.watchdog
            )
            for n in range(order.workers)
        ]
        try:
            yield workers
        except RunFailed as error:
            log = last_lines(re.sub(r'\n+', '\n', log_since(log_path, 0)))
            raise RunFailed(
                f'{order.contender.title}: {error}\n  Last lines of its log:\n{log}'
            ) from error
        finally:
            await asyncio.to_thread(stop, workers, self.watchdog)

    async def _give(self, contender: Contender, site: Site, emails: int) -> list[int]:
        ids = await site.outbox.insert(emails)
        await contender.hold(site, ids)
        return ids


async def _used_bytes(site: Site) -> int:
    return int((await site.redis.info('memory'))['used_memory'])


def stop(workers: list[subprocess.Popen[bytes]], watchdog: Watchdog) -> None:
    """End processes in order, and by force those that do not."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        watchdog.forget(worker.pid)
