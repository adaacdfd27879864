"""Sweep when somebody asks for it, and on a short interval while Redis is away."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

import structlog

from db.pools import DATABASE_DOWN
from jobs.process_pending_emails import sweep
from jobs.runtime import Runtime

log = structlog.get_logger()

AWAY_EVERY_S = 1.0


async def keep_sweeping(ctx: dict[str, Any]) -> None:
    """Wait for runtime.sweep_wanted, or for Redis to be away; sweep; until the worker stops."""
    runtime: Runtime = ctx['runtime']
    while not runtime.stopping.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AWAY_EVERY_S):
                await runtime.sweep_wanted.wait()
        if not (runtime.sweep_wanted.is_set() or runtime.redis_away.is_set()):
            continue
        runtime.sweep_wanted.clear()
        try:
            await sweep(runtime, set(), Counter())
        except (TimeoutError, *DATABASE_DOWN) as error:
            log.warning('sweep waits for PostgreSQL', error=str(error) or type(error).__name__)
