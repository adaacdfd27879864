"""Count what became of attempts, and what waits where there is much: for pages and metrics."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import structlog

from db.history import (
    FILL_BACK,
    Counted,
    HistoryProgress,
    count_older,
    count_recorded,
    end_filling,
    read_progress,
    read_writers,
    remove_old_history,
)
from db.waiting import count_all_waiting, forget_count, full_parts, read_waiting
from delivery.runtime import Runtime

log = structlog.get_logger()

COUNT_S = 20.0  # a run's time; the rest is for the next one, a minute later
WRITERS_END_S = 10.0  # an attempt is recorded within milliseconds
LOOK_EVERY_S = 0.1
# One statement's work: half a second of the server's here.
MOST_ATTEMPTS, FEW_ATTEMPTS = 100_000, 20_000
SHORTEST, FIRST, LONGEST = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
# Between two counts of all that waits, times as long as it took: a thirtieth of a core.
RESTS = 30
COUNT_ALL_S = 50.0

# Counts what lies between two distances from where counting began.
Count = Callable[[timedelta, timedelta], Awaitable[Counted]]


async def count_history(ctx: dict[str, Any]) -> dict[str, Any]:
    """Count every attempt once, by minute and hour; count what waits, where it is much.

    What a run does not reach, the next one goes on with.

    Returns:
        {'affected': attempts counted}.
    """
    runtime: Runtime = ctx['runtime']
    pool = runtime.stores.pool
    progress = await read_progress(pool)
    affected = 0
    until = await _settled(pool)
    if until is not None:
        affected += await _count_latest(runtime, progress.counted_until, until)
    if progress.filled_back_to is not None:
        affected += await _count_older(runtime, progress.filled_back_to, progress.now - FILL_BACK)
    await _count_waiting(pool, progress)
    if progress.now.minute == 0:
        await remove_old_history(pool)
    return {'affected': affected}


async def _settled(pool: asyncpg.Pool) -> datetime | None:
    """Return up to when nobody can record an attempt any more.

    None: somebody has been writing attempts for seconds; the next run looks again.
    """
    deadline = time.monotonic() + WRITERS_END_S
    until, left = await read_writers(pool)
    while left and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_S)
        left &= (await read_writers(pool))[1]
    if left:
        log.warning('history.not_counted', reason='somebody goes on writing email_attempts')
        return None
    return until


async def _count_latest(runtime: Runtime, since: datetime, until: datetime) -> int:
    """Count up to a time. Returns how many attempts."""

    async def count(first: timedelta, last: timedelta) -> Counted:
        return await count_recorded(runtime.stores.pool, since + first, since + last)

    attempts, _ = await _count_pieces(runtime, count, until - since)
    return attempts


async def _count_older(runtime: Runtime, until: datetime, oldest: datetime) -> int:
    """Count what is of before this version, the latest first. Returns how many attempts."""

    async def count(first: timedelta, last: timedelta) -> Counted:
        return await count_older(runtime.stores.pool, until - last, until - first)

    attempts, done = await _count_pieces(runtime, count, until - oldest)
    if until - done <= oldest:
        await end_filling(runtime.stores.pool)
    return attempts


async def _count_pieces(runtime: Runtime, count: Count, whole: timedelta) -> tuple[int, timedelta]:
    """Count piece by piece until the run's time is over; one piece at least.

    Returns:
        How many attempts, and how much of the whole is done.
    """
    deadline = time.monotonic() + COUNT_S
    attempts, done, piece = 0, timedelta(), FIRST
    while done < whole:
        last = min(done + piece, whole)
        counted, piece = await _count_piece(partial(count, done, last), piece)
        if counted is not None:
            if not counted.is_ours:
                break
            attempts, done = attempts + counted.attempts, last
        if runtime.signals.stopping.is_set() or time.monotonic() > deadline:
            break
    return attempts, done


async def _count_piece(
    count: Callable[[], Awaitable[Counted]], piece: timedelta
) -> tuple[Counted | None, timedelta]:
    """Count a piece. Returns what was counted, and how long the next piece is.

    None: it took too long, and counted nothing.
    """
    try:
        counted = await count()
    except (asyncpg.QueryCanceledError, TimeoutError):
        if piece == SHORTEST:
            raise
        return None, max(piece / 8, SHORTEST)
    if counted.attempts > MOST_ATTEMPTS:
        return counted, max(piece / 4, SHORTEST)
    if counted.attempts < FEW_ATTEMPTS:
        return counted, min(piece * 2, LONGEST)
    return counted, piece


async def _count_waiting(pool: asyncpg.Pool, progress: HistoryProgress) -> None:
    """Count all that waits, where that is too much for everybody who looks."""
    if not full_parts((await read_waiting(pool)).groups):
        await forget_count(pool)
        return
    if progress.waiting_tried_at is not None:
        age = progress.now - progress.waiting_tried_at
        if age < timedelta(seconds=RESTS * (progress.waiting_took_s or 0.0)):
            return
    try:
        await count_all_waiting(pool, COUNT_ALL_S)
    except (asyncpg.QueryCanceledError, TimeoutError):
        log.warning('history.not_counted', reason=f'what waits took over {COUNT_ALL_S:g} s')
