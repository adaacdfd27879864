"""Deliver events while there is a webhook: claim, post, record, beside the mail and apart from it.

It has one connection to PostgreSQL at a time, so a receiver, however slow, holds up no e-mail.
"""

import asyncio
import contextlib
import time
from collections import Counter

import asyncpg
import structlog

from db.errors import DATABASE_DOWN, words_of
from db.webhook_deliveries import (
    ClaimedDelivery,
    DeliveryResult,
    claim_deliveries,
    has_webhooks,
    hasten,
    keep_order,
    record_deliveries,
)
from delivery.rules import WebhookRules
from delivery.webhooks.post import Poster

log = structlog.get_logger()

POLL_S = 1.0  # whether there is an event
KEEP_ORDER_EVERY_S = 5.0
MOST_AT_ONCE = 100  # to all endpoints
COOL_S, MOST_COOL_S = 10.0, 300.0
RECORD_S = 15.0  # how long a claim lasts after the delivery's time is over


class Deliverer:
    """Delivers while there is a webhook."""

    def __init__(
        self, pool: asyncpg.Pool, worker: str, rules: WebhookRules, stopping: asyncio.Event
    ) -> None:
        self._pool = pool
        self._worker = worker
        self._rules = rules
        self._stopping = stopping
        self._poster = Poster(rules.allowed, rules.timeout_s)
        self._running: dict[asyncio.Task[DeliveryResult], ClaimedDelivery] = {}
        self._unrecorded: list[DeliveryResult] = []
        self._order_kept_at = 0.0

    async def run(self) -> None:
        """Deliver until the last webhook is gone, or the worker stops."""
        while not self._stopping.is_set():
            try:
                await self._record()
                claimed = await self._claim()
                if not claimed and not self._running and not await has_webhooks(self._pool):
                    return
                await self._keep_order()
            except DATABASE_DOWN as error:
                log.warning('webhooks.not_read', error=words_of(error))
            await self._wait_for_something()
        await self._finish()

    async def close(self) -> None:
        """Cut off what is under way: it is delivered again when its claim is over."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._poster.close()

    async def _claim(self) -> list[ClaimedDelivery]:
        room = MOST_AT_ONCE - len(self._running)
        if room <= 0:
            return []
        per_endpoint = self._rules.connections
        running = Counter(claimed.webhook_id for claimed in self._running.values())
        left = {key: max(0, per_endpoint - count) for key, count in running.items()}
        claimed = await claim_deliveries(
            self._pool,
            left,
            room=min(per_endpoint, room),
            worker=self._worker,
            lease_s=self._rules.timeout_s + RECORD_S,
        )
        for delivery in claimed:
            task = asyncio.create_task(self._poster.deliver(delivery))
            self._running[task] = delivery
        return claimed

    async def _wait_for_something(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {stopping, *self._running},
                timeout=POLL_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            stopping.cancel()
        self._collect()

    def _collect(self) -> None:
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            self._unrecorded.append(task.result())

    async def _record(self) -> None:
        results, self._unrecorded = self._unrecorded, []
        if not results:
            return
        try:
            recorded = await record_deliveries(
                self._pool, results, cool_s=COOL_S, most_cool_s=MOST_COOL_S
            )
        except DATABASE_DOWN:
            self._unrecorded = results + self._unrecorded
            raise
        status = {delivery.id: delivery.status for delivery in recorded}
        for result in results:
            _tell(result, status.get(result.claimed.id))
        back = {delivery.id for delivery in recorded if delivery.is_back}
        for webhook_id in {r.claimed.webhook_id for r in results if r.claimed.id in back}:
            await hasten(self._pool, webhook_id)

    async def _keep_order(self) -> None:
        now = time.monotonic()
        if now - self._order_kept_at >= KEEP_ORDER_EVERY_S:
            self._order_kept_at = now
            await keep_order(self._pool)

    async def _finish(self) -> None:
        if self._running:
            await asyncio.wait(self._running, timeout=self._rules.timeout_s)
            self._collect()
        with contextlib.suppress(*DATABASE_DOWN):  # they are delivered again
            await self._record()


def _tell(result: DeliveryResult, status: str | None) -> None:
    claimed = result.claimed
    fields = {
        'webhook_id': claimed.webhook_id,
        'delivery_id': claimed.id,
        'event_type': claimed.event_type,
        'attempt': claimed.attempt,
        'http_status': result.http_status,
        'duration_ms': round(result.duration_s * 1000),
    }
    if status is None:
        log.warning('webhook.claim_lost', **fields)
    elif result.retry_in_s is None:
        log.info('webhook.delivered', **fields)
    elif status == 'dead':
        log.error('webhook.dead', error=result.error, **fields)
    else:
        log.warning('webhook.deferred', error=result.error, retry_in_s=result.retry_in_s, **fields)
