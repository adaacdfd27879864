"""A Runtime on real servers, in the test's own process."""

import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from delivery.activity import Activity
from delivery.assemble import assemble
from delivery.rules import RetentionRules, Stores, WorkerRules
from delivery.runtime import Runtime
from delivery.tunables import Tunables
from engine.signals import WorkerSignals
from jobs.send_email import send_claimed
from mail.outcome import Policy
from mail.relay.options import RelayOptions, Timeouts, Tls
from mail.relay.pool import Relay
from mail.route import Relays
from mail_outbox.address_fields import Sender
from mail_outbox.outbox import queue_email
from tests.services import other_worker
from tests.services.adopted import conn, worker_pool

__all__ = ['conn', 'worker_pool']  # fixtures


@pytest.fixture
async def runtime(
    stack: Any, pool: Any, mongo: Any, redis: Any, inbox: Any
) -> AsyncIterator[Runtime]:
    context = ssl.create_default_context(cafile=stack.env['SMTP_CA_FILE'])
    relays = [
        Relay(
            RelayOptions(
                name=name,
                host='127.0.0.1',
                port=int(stack.env[f'{prefix}PORT']),
                tls=Tls.STARTTLS,
                tls_context=context,
                username=stack.env[f'{prefix}USER'],
                password=stack.env[f'{prefix}PASSWORD'],
                local_hostname='localhost',
                timeouts=Timeouts(reply_s=30),
            )
        )
        for name, prefix in (('primary', 'SMTP_'), ('backup', 'SMTP_BACKUP_'))
    ]
    runtime = assemble(
        Stores(pool, mongo, redis, stack.env['REDIS_URL']),
        WorkerRules(
            worker='tests@localhost:1',
            queue_name='arq:queue',
            policy=Policy(60, 3600, frozenset({'receipt'})),
            retention=RetentionRules(email_days=90, session_days=90),
            expiry_hours=24,
            lease_s=30,
            max_message_bytes=25_000_000,
        ),
        WorkerSignals(),
        Tunables(Relays(relays), Sender('noreply@example.com', 'Example'), max_emails=50),
        Activity(),
        send_claimed,
    )
    yield runtime
    for made in (runtime, *other_worker.MADE):
        await made.contents.templates.close()  # its processes: none outlives the loop
    other_worker.MADE.clear()


@pytest.fixture
def ctx(runtime: Runtime) -> dict[str, Any]:
    return {'runtime': runtime, 'redis': runtime.stores.redis}


@pytest.fixture
def queue(pool: Any) -> Any:
    """Queue an e-mail in a transaction of its own and return its id."""

    async def queue(recipient: str = 'anna@example.com', **parts: Any) -> int:
        parts = {'subject': 'Hello', 'body_text': 'Hello, Anna.'} | parts
        async with pool.acquire() as conn, conn.transaction():
            return await queue_email(conn, recipient=recipient, **parts)

    return queue


@pytest.fixture
def row(pool: Any) -> Any:
    """Read an e-mail's row."""

    async def row(email_id: int) -> dict[str, Any]:
        return dict(await pool.fetchrow('SELECT * FROM outbound_emails WHERE id = $1', email_id))

    return row
