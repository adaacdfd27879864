"""Waiting on conditions with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.02


class DeadlinePassedError(Exception):
    """Something that had to happen did not happen in time.

    The scenario's row fails with this text.
    """


async def until(
    condition: Callable[[], Any], deadline_s: float, what: str, poll_s: float = POLL_S
) -> Any:
    """Return the first truthy value of condition (plain or async).

    DeadlinePassedError after the deadline.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise DeadlinePassedError(f'not within {deadline_s:.0f} s: {what}')
        await asyncio.sleep(poll_s)
