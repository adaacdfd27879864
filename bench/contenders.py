"""Those who are measured: how each is started, and how it is given its e-mails all at once."""

import asyncio
import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from arq import create_pool
from arq.connections import ArqRedis
from arq.constants import result_key_prefix

from bench import environments
from bench.outbox import Outbox, RunFailed
from bench.relay import Relay
from configuration.sources import variable_names
from dev.processes import Command
from dev.stack import ARQ_DATABASE, Stack
from engine.redis_url import redis_settings
from engine.wire import deserialize
from mail_outbox.wake import notify
from settings import Settings

ROOT = Path(__file__).parent.parent
DEFAULT_CONNECTIONS: int = Settings.model_fields['smtp_max_connections'].default
TOGETHER = 20  # the producer is not measured
HELD_QUEUE = 'bench:held'
ENQUEUE_DEADLINE_S = 300.0
RESULTS_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Site:
    """Where a run takes place.

    Attributes:
        settings: Environment variables of our worker that differ from the defaults.
    """

    stack: Stack
    outbox: Outbox
    redis: ArqRedis
    relay: Relay
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)


class Contender(ABC):
    """One way to send the e-mails.

    Attributes:
        key: Its name on the command line.
        title: Its name in the table.
        warm_up_emails: Sent before the clock starts, so that every process has its connections.
        settle_s: How long the worker is left alone between the two.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    warm_up_emails: ClassVar[int] = 50
    settle_s: ClassVar[float] = 0.0

    async def prepare(self, outbox: Outbox) -> None:  # noqa: B027 - most need nothing
        """Change the fresh database where this contender needs it."""

    @abstractmethod
    def command(self, site: Site) -> Command:
        """Say how the worker is started."""

    @abstractmethod
    async def hold(self, site: Site, ids: Sequence[int]) -> None:
        """Queue what belongs to these rows, where the worker does not see it yet."""

    @abstractmethod
    async def release(self, site: Site) -> None:
        """Let the worker see it, with one command to Redis."""

    async def check(self, site: Site, ids: Sequence[int]) -> None:  # noqa: B027 - the rows are checked for all
        """Raise RunFailed when what this contender promises beyond `sent` rows is missing."""


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


class CeleryPrefork(Contender):
    """bench/celery_app."""

    key = 'celery'
    title = 'Celery, prefork -c 4, SQLAlchemy, smtplib'
    warm_up_emails = 100  # four processes, each with connections to open

    async def prepare(self, outbox: Outbox) -> None:
        """Allow 'sending' rows without a claim: the previous system had none."""
        await outbox.execute(
            'ALTER TABLE outbound_emails DROP CONSTRAINT outbound_emails_sending_is_claimed'
        )

    def command(self, site: Site) -> Command:
        """`celery worker -c 4` as most people start it."""
        argv = [
            environments.PEERS.program('python'),
            '-m',
            'celery',
            '-A',
            'bench.celery_app.app',
            'worker',
        ]
        return Command(
            [*argv, '-P', 'prefork', '-c', '4', '-l', 'info'],
            cwd=ROOT,
            environment=self.environment(site),
        )

    def environment(self, site: Site) -> dict[str, str]:
        """Return what bench/celery_app reads."""
        return {
            'CELERY_BROKER_URL': site.stack.valkey.url(ARQ_DATABASE),
            'SQLALCHEMY_URL': site.outbox.dsn.replace('postgresql://', 'postgresql+psycopg://', 1),
            'SMTP_HOST': '127.0.0.1',
            'SMTP_PORT': str(site.relay.port),
            'SMTP_CA_FILE': str(site.relay.ca_file or ''),
            'SMTP_FROM_EMAIL': 'noreply@example.com',
            'SMTP_FROM_NAME': 'Example Shop',
        }

    async def hold(self, site: Site, ids: Sequence[int]) -> None:
        """One apply_async an e-mail, by a producer in Celery's environment."""
        command = [
            environments.PEERS.program('python'),
            '-m',
            'bench.celery_app.enqueue',
            HELD_QUEUE,
        ]
        await run_to_end(
            command, os.environ | self.environment(site), json.dumps(list(ids)).encode()
        )

    async def release(self, site: Site) -> None:
        """Give the queue its name."""
        await site.redis.rename(HELD_QUEUE, 'celery')


CONTENDERS: dict[str, Contender] = {
    c.key: c for c in (CeleryPrefork(), OneJobEach(), Bulk(), BulkWide(), BulkForAll())
}
BASELINE = CeleryPrefork.key


async def run_to_end(command: list[str], environment: dict[str, str], stdin: bytes) -> bytes:
    """Run a helping program; return what it printed.

    Raises:
        RunFailed: it failed; with its last words.
    """

    def call() -> subprocess.CompletedProcess[bytes]:
        limit_s = ENQUEUE_DEADLINE_S
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )

    done = await asyncio.to_thread(call)
    if done.returncode:
        raise RunFailed(
            f'{command[2]} ended with status {done.returncode}:\n{done.stderr.decode()[-2000:]}'
        )
    return done.stdout
