"""What happens, as it happens: the events that workers publish while somebody listens."""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from arq.connections import ArqRedis

from db.identity import is_other
from delivery.activity import SUBSCRIBED_S
from fleet import events
from fleet.channel import ask
from fleet.registry import read_workers

ASK_EVERY_S = SUBSCRIBED_S / 2
LOOK_EVERY_S = 2.0  # for workers that come and go
POLL_S = 0.2

Event = dict[str, Any]


class EventWatch:
    """Listens to the workers of one database. Nothing is stored: each event is seen once."""

    def __init__(
        self, redis: ArqRedis, database: str | None, on_silence: Callable[[], None]
    ) -> None:
        """Hear nothing yet.

        Args:
            database: Only workers that serve it, see db.identity; None: all.
            on_silence: Called whenever nobody was there to be asked for events.
        """
        self._redis = redis
        self._database = database
        self._on_silence = on_silence
        self.has_seen_worker = False

    async def batches(self, for_s: float | None) -> AsyncGenerator[list[Event], None]:
        """Yield the events since the last batch, for so many seconds; without end when None."""
        ends_at = time.monotonic() + for_s if for_s else None
        known, look_at, ask_at = await self._own_workers(), 0.0, 0.0
        self.has_seen_worker = bool(known)
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(events.events_channel(self._redis))
            while ends_at is None or time.monotonic() < ends_at:
                batch: list[Event] = []
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + ASK_EVERY_S
                    await self._ask_for_events()
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + LOOK_EVERY_S
                    now = await self._own_workers()
                    batch += [_of_worker(name, 'worker-online') for name in sorted(now - known)]
                    batch += [_of_worker(name, 'worker-offline') for name in sorted(known - now)]
                    ask_at, known = (0.0 if now - known else ask_at), now
                message = await pubsub.get_message(timeout=POLL_S)
                if message is not None:
                    batch += self._own_events(message['data'])
                yield batch

    async def _ask_for_events(self) -> None:
        asked = await ask(self._redis, 'events', timeout_s=1.0)
        self.has_seen_worker |= asked.heard > 0
        if not self.has_seen_worker:
            self._on_silence()

    async def _own_workers(self) -> set[str]:
        workers = await read_workers(self._redis)
        return {w.worker for w in workers if not is_other(w.database, self._database)}

    def _own_events(self, data: bytes) -> list[Event]:
        return [
            event
            for event in events.read_events(data)
            if not is_other(str(event.pop('database', '')), self._database)
        ]


def _of_worker(worker: str, kind: str) -> Event:
    return {'worker': worker, 'event': kind, 'at': time.time()}
