"""Celery as most people run it, see bench/celery_app."""

import json
import os
from collections.abc import Sequence

from bench import environments
from bench.contender import HELD_QUEUE, ROOT, Contender, Site, run_to_end
from bench.outbox import Outbox
from dev.processes import Command
from dev.stack import ARQ_DATABASE


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
