"""Background tasks that outlive their own faults."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

RESTART_S = 1.0


def keep_alive(start: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Run a background task until it returns or is cancelled; start it again when it fails.

    Without its beat a worker would lose every lease and send on as if nothing were.
    """
    return asyncio.create_task(_restart(start))


async def _restart(start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await start()
        except Exception:
            log.exception('background task failed, starting it again')
            await asyncio.sleep(RESTART_S)
        else:
            return
