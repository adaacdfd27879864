"""Those who are measured, by their names."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

from arq import create_pool
from arq.connections import ArqRedis
from arq.constants import result_key_prefix

from bench import environments
from bench.celery_prefork import CeleryPrefork
from bench.contender import HELD_QUEUE, ROOT, Contender, Site
from bench.outbox import Outbox, RunFailed
from configuration.sources import variable_names
from dev.processes import Command
from engine.redis_url import redis_settings
from engine.wire import deserialize
from mail_outbox.wake import notify
from settings import Settings

DEFAULT_CONNECTIONS: int = Settings.model_fields['smtp_max_connections'].default
TOGETHER = 20  # the producer is not measured
RESULTS_DEADLINE_S = 5.0


class OneJobEach(Contender):
    """Our worker, woken for each e-mail by a plain arq producer."""

    key = 'jobs'
    title = 'this worker, one job per e-mail'
    settings: ClassVar[Mapping[str, str]] = {}  # that differ from the defaults
    # It sweeps once, two seconds after its start. That must not send what waits for its jobs, and
    # `check` would tell.
    settle_s = 3.0

    def command(self, site: Site) -> Command:
        """`arq worker.WorkerSettings`, with default settings but the site's.

        An empty variable counts as not set.
        """
        unset = {
            name: ''
            for field, info in Settings.model_fields.items()
            for name in variable_names(field, info)
        }
        servers = {
            name: value for name, value in site.stack.env.items() if not name.startswith('SMTP_')
        }
        environment = {
            **unset,
            **servers,
            'DATABASE_URL': site.outbox.dsn,
            'SMTP_HOST': '127.0.0.1',
            'SMTP_PORT': str(site.relay.port),
            'SMTP_USE_TLS': 'true' if site.relay.ca_file else 'false',
            'SMTP_CA_FILE': str(site.relay.ca_file or ''),
            'SMTP_FROM_EMAIL': 'noreply@example.com',
            'SMTP_FROM_NAME': 'Example Shop',
            'PYTHONPATH': str(ROOT),
            **self.settings,
            **site.settings,
        }
        # Away from the project, where a developer's .env would be read.
        return Command(
            [environments.worker_program('arq'), 'worker.WorkerSettings'],
            cwd=site.directory,
            environment=environment,
        )

    async def hold(self, site: Site, ids: Sequence[int]) -> None:
        """One plain enqueue_job an e-mail."""
        producer = await create_pool(redis_settings(site.stack.env['ARQ_REDIS_URL']))
        try:
            for start in range(0, len(ids), TOGETHER):
                some = ids[start : start + TOGETHER]
                await asyncio.gather(
                    *(producer.enqueue_job('send_email', i, _queue_name=HELD_QUEUE) for i in some)
                )
        finally:
            await producer.aclose()

    async def release(self, site: Site) -> None:
        """Give the queue its name, and touch one job.

        RENAME tells no worker, as an enqueue_job does.
        """
        (job_id,) = await site.redis.zrange(HELD_QUEUE, -1, -1)
        await site.redis.rename(HELD_QUEUE, 'arq:queue')
        await site.redis.zincrby('arq:queue', 1, job_id)

    async def check(self, site: Site, ids: Sequence[int]) -> None:
        """Check that each e-mail has one accepted attempt in the history.

        It was sent by its own job, not by a sweep.
        """
        await _check_history(site.outbox, ids)
        end = (
            time.monotonic() + RESULTS_DEADLINE_S
        )  # a job's result is written a little after its row
        while others := set(ids) - await _sent_by_jobs(site.redis):
            if time.monotonic() > end:
                raise RunFailed(
                    f'{len(others)} of {len(ids)} e-mails were sent by a sweep, not by their jobs'
                )
            await asyncio.sleep(0.1)


async def _sent_by_jobs(redis: ArqRedis) -> set[int]:
    """Return the e-mails for which a send_email job has the result 'sent'."""
    keys = [key async for key in redis.scan_iter(match=f'{result_key_prefix}*', count=1000)]
    results = [deserialize(data) for data in await redis.mget(keys) if data] if keys else []
    return {
        r['r']['email_id']
        for r in results
        if r['f'] == 'send_email' and r['r'].get('status') == 'sent'
    }


class Bulk(OneJobEach):
    """Our worker, given rows only, and woken once."""

    key = 'bulk'
    title = 'this worker, bulk: rows and one wake-up'

    async def hold(self, site: Site, ids: Sequence[int]) -> None:
        """Nothing: the rows are all there is."""

    async def release(self, site: Site) -> None:
        """Ask for a sweep."""
        await site.redis.enqueue_job('process_pending_emails')

    async def check(self, site: Site, ids: Sequence[int]) -> None:
        """Each e-mail has one accepted attempt in the history."""
        await _check_history(site.outbox, ids)


class BulkWide(Bulk):
    """With as many connections as a distant relay asks for.

    Each carries one e-mail a round trip.
    """

    key = 'bulk_wide'
    title = f'this worker, bulk, 32 connections instead of {DEFAULT_CONNECTIONS}'
    settings: ClassVar[Mapping[str, str]] = {'SMTP_MAX_CONNECTIONS': '32'}


class BulkForAll(Bulk):
    """Our workers, given rows only, and all of them woken at once."""

    key = 'bulk_for_all'
    title = 'this worker, bulk, by NOTIFY'

    async def release(self, site: Site) -> None:
        """Notify all: a job would wake one of them only."""
        await notify(site.outbox.conn)


async def _check_history(outbox: Outbox, ids: Sequence[int]) -> None:
    if (attempts := await outbox.accepted_attempts(ids)) != len(ids):
        raise RunFailed(f'{attempts} accepted attempts in the history for {len(ids)} e-mails')


CONTENDERS: dict[str, Contender] = {
    c.key: c for c in (CeleryPrefork(), OneJobEach(), Bulk(), BulkWide(), BulkForAll())
}
BASELINE = CeleryPrefork.key
