"""What a worker is doing and has done, for those who ask: operators, the registry, its own jobs.

Nobody listens to events most of the time: then an attempt costs one look at a flag. A listener asks
for SUBSCRIBED_S of events and asks again before they are over; each worker publishes what happened
in batches, and counts what it had to drop.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from db.claimed import ClaimKey
from delivery.right_of_way import RightOfWay
from engine.refused import RefusedJobs
from mail.progress import Progress

SUBSCRIBED_S = 10.0
PUBLISH_EVERY_S = 0.2
MAX_UNPUBLISHED = 5000
NEIGHBOURS_REMEDY = (
    'give each application a Redis database of its own: the number at the end of ARQ_REDIS_URL'
)

Event = dict[str, Any]


class Events:
    """A worker's events that are not published yet."""

    def __init__(self) -> None:
        self.wanted = False  # whether somebody listens: look here before making an event
        self._until = 0.0
        self._unpublished: deque[Event] = deque()
        self._dropped = 0
        self._publishing: asyncio.Task[None] | None = None

    def want(self, publish: Callable[[list[Event]], Any]) -> None:
        """Publish what happens in the next seconds."""
        self._until = time.monotonic() + SUBSCRIBED_S
        if self._publishing is None or self._publishing.done():
            self.wanted = True
            self._publishing = asyncio.create_task(self._publish(publish))

    def add(self, kind: str, **fields: Any) -> None:
        """Note an event, if there is room."""
        if len(self._unpublished) < MAX_UNPUBLISHED:
            self._unpublished.append({'event': kind, 'at': time.time(), **fields})
        else:
            self._dropped += 1

    async def _publish(self, publish: Callable[[list[Event]], Any]) -> None:
        try:
            while time.monotonic() < self._until:
                await asyncio.sleep(PUBLISH_EVERY_S)
                if self._dropped:
                    self._unpublished.append(
                        {'event': 'dropped', 'at': time.time(), 'count': self._dropped}
                    )
                    self._dropped = 0
                if self._unpublished:
                    batch, self._unpublished = list(self._unpublished), deque()
                    await publish(batch)
        finally:
            self.wanted = False
            self._unpublished.clear()


class Neighbours:
    """The workers of other databases that were registered at the last look, see fleet.neighbours.

    They take our jobs out of the same Redis database, and we take theirs. A job is a number, and
    means another e-mail in each database: none can be handed on, for nobody can tell whose it is.
    PostgreSQL is the truth, so no e-mail is lost by that: the sweep of its own application sends
    it. But it may be late, and so the worker logs it, the doctor calls it an error, and no command
    of `ops control` goes to the others.
    """

    def __init__(self, database: str = '') -> None:
        self.database = database  # ours, see db.identity
        self.names: list[str] = []


@dataclass(slots=True)
class Activity:
    """What is under way, and the totals since the start.

    Attributes:
        under_way: How far each attempt has come, by its claim's key.
        asked_for: E-mails whose jobs are running here.
        outcomes: How many attempts ended in each outcome.
        refused: Jobs that could not be run.
    """

    neighbours: Neighbours = field(default_factory=Neighbours)
    refused: RefusedJobs = field(default_factory=RefusedJobs)
    under_way: dict[ClaimKey, Progress] = field(default_factory=dict)
    asked_for: set[int] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    events: Events = field(default_factory=Events)
    right_of_way: RightOfWay = field(default_factory=RightOfWay)
