"""What the engine signals to tasks beside its jobs: the worker's end, and the state of Redis."""

import asyncio
import contextlib
from dataclasses import dataclass, field


@dataclass(slots=True)
class WorkerSignals:
    """Events that the engine sets, at one address. Whoever acts on a `..._wanted` clears it first.

    Attributes:
        stopping: Set by the first SIGTERM: nothing new begins.
        redis_unreachable: Set while Redis does not answer.
        sweep_wanted: Something may be due that no job wakes us for: Redis was unreachable, slow or
            emptied, and wake-ups are lost with it.
        urgent_wanted: Redis has more jobs than there is room for; an urgent one may be the last.
        stop_by: The end of the drain time, in time.monotonic() seconds; 0 until stopping is set.
        redis_ahead_s: How far Redis's clock is ahead of ours. Jobs are due by Redis's clock,
            whatever the clocks of the machines say.
    """

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    redis_unreachable: asyncio.Event = field(default_factory=asyncio.Event)
    sweep_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    urgent_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    stop_by: float = 0.0
    redis_ahead_s: float = 0.0


async def wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, or until the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
