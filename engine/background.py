"""Background tasks that outlive their own faults."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

log = structlog.get_logger()

RESTART_S = 1.0


def keep_alive(start: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Run a background task until it returns or is cancelled; start it again when it fails.

    Without its beat a worker would lose every lease and send on as if nothing were.
    """
    function = start.func if isinstance(start, partial) else start
    return asyncio.create_task(_restart(start), name=getattr(function, '__name__', None))


def is_cancelled() -> bool:
    """Return whether this task was cancelled and may not know.

    Before Python 3.12 asyncio.wait_for swallows a cancellation that comes together with its result
    (python/cpython issue 86296). Ours of Redis do not use it, see engine.connection; whatever else
    a task awaits may.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _restart(start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while not is_cancelled():
        try:
            await start()
        except Exception:
            log.exception('task.restarted')
            await asyncio.sleep(RESTART_S)
        else:
            return
