"""What becomes of each e-mail, told as it happens to whoever listens just now.

Nobody listens most of the time: then an attempt costs one look at a flag. A listener asks for
SUBSCRIBED_S of events and asks again before they are over; each worker publishes what happened in
batches, and counts what it had to drop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

SUBSCRIBED_S = 10.0
PUBLISH_EVERY_S = 0.2
MAX_WAITING = 5000

Event = dict[str, Any]


class Events:
    """A worker's events that are not published yet."""

    def __init__(self) -> None:
        self.wanted = False  # whether somebody listens: look here before making an event
        self._until = 0.0
        self._waiting: deque[Event] = deque()
        self._dropped = 0
        self._publishing: asyncio.Task[None] | None = None

    def want(self, publish: Callable[[list[Event]], Any]) -> None:
        """Publish what happens in the next seconds."""
        self._until = time.monotonic() + SUBSCRIBED_S
        if self._publishing is None or self._publishing.done():
            self.wanted = True
            self._publishing = asyncio.create_task(self._publish(publish))

    def add(self, kind: str, **told: Any) -> None:
        """Note an event, if there is room."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append({'event': kind, 'at': time.time(), **told})
        else:
            self._dropped += 1

    async def _publish(self, publish: Callable[[list[Event]], Any]) -> None:
        try:
            while time.monotonic() < self._until:
                await asyncio.sleep(PUBLISH_EVERY_S)
                if self._dropped:
                    self._waiting.append(
                        {'event': 'dropped', 'at': time.time(), 'count': self._dropped}
                    )
                    self._dropped = 0
                if self._waiting:
                    batch, self._waiting = list(self._waiting), deque()
                    await publish(batch)
        finally:
            self.wanted = False
            self._waiting.clear()
