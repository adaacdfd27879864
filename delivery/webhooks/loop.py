"""Whether there is a webhook: without one a worker asks every few seconds and does nothing else."""

import asyncio
import contextlib

import asyncpg
import structlog

from db.errors import DATABASE_DOWN, words_of
from db.webhook_deliveries import has_webhooks
from delivery.runtime import Runtime

log = structlog.get_logger()

LOOK_EVERY_S = 5.0  # whether there is a webhook


async def keep_delivering_webhooks(runtime: Runtime) -> None:
    """Deliver events until the worker stops; then those under way are delivered and recorded."""
    pool, stopping = runtime.stores.pool, runtime.signals.stopping
    while not stopping.is_set():
        if await _has_webhooks(pool):
            # Its HTTP client is loaded by whoever has something to post.
            from delivery.webhooks.deliverer import Deliverer  # noqa: PLC0415

            deliverer = Deliverer(pool, runtime.rules.worker, runtime.rules.webhooks, stopping)
            try:
                await deliverer.run()
            finally:
                await deliverer.close()
        await _wait(stopping, LOOK_EVERY_S)


async def _has_webhooks(pool: asyncpg.Pool) -> bool:
    try:
        return await has_webhooks(pool)
    except DATABASE_DOWN as error:
        log.warning('webhooks.not_read', error=words_of(error))
        return False


async def _wait(stopping: asyncio.Event, wait_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await stopping.wait()
