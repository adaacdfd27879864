"""Waking the workers from an application: by a job of arq's, by NOTIFY, or not at all.

Nothing here is needed for an e-mail to be sent: what wakes nobody is found by the next sweep.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import logging

    import asyncpg
    from arq.connections import ArqRedis, RedisSettings

ENQUEUE_TIMEOUT_S = 2.0
MAX_JOBS = 100  # of one call; what is more than that, one sweep sends
CHANNEL = 'outbound_emails_due'
# kombu keeps a queue of Celery's as a list, under the name that may be one of ours.
IMPORT_HINT = (
    '`python -m ops import-celery` takes over, or moves out of the way, '
    'what Celery left under that name'
)

NOTIFY_SQL = f"SELECT pg_notify('{CHANNEL}', '')"

WokenBy = Literal['redis', 'notify', 'sweep']


async def notify(conn: 'asyncpg.Connection | asyncpg.Pool') -> None:
    """Wake the workers when the caller's transaction commits, or now when it has none open."""
    await conn.execute(NOTIFY_SQL)


async def wake(
    email_ids: int | Iterable[int],
    *,
    redis: 'ArqRedis | None' = None,
    pg: 'asyncpg.Connection | asyncpg.Pool | None' = None,
    queue_name: str | None = None,
) -> WokenBy:
    """Have committed e-mails sent at once; never fails, because the sweep delivers them anyway.

    Call it after the commit: a worker that is woken earlier finds no row.

    Args:
        redis: Of `arq.create_pool`; a job for each e-mail, or one sweep when there are many.
        pg: For a NOTIFY, where Redis refuses or there is none.
        queue_name: 'high_priority' when the workers run with QUEUE_ROUTING; by default the client's
            own default queue.
    Returns:
        What will wake a worker: the jobs in Redis, a PostgreSQL NOTIFY, or nothing before the next
            sweep.
    """
    ids = [email_ids] if isinstance(email_ids, int) else list(email_ids)
    if not ids:
        return 'sweep'
    if redis is not None and await _enqueued(redis, ids, queue_name):
        return 'redis'
    if pg is not None and await _notified(pg, ids):
        return 'notify'
    return 'sweep'


async def wake_workers(
    redis: 'ArqRedis',
    pg: 'asyncpg.Connection | asyncpg.Pool',
    email_id: int,
    *,
    queue_name: str | None = None,
) -> WokenBy:
    """Have one committed e-mail sent at once, see wake."""
    return await wake(email_id, redis=redis, pg=pg, queue_name=queue_name)


def wake_sync(
    email_ids: int | Iterable[int],
    redis: 'RedisSettings',
    *,
    queue_name: str | None = None,
) -> WokenBy:
    """Do as wake does, without a loop: for threads of Django's, and scripts.

    Each call has a connection of its own, which takes a few milliseconds; NOTIFY takes none.

    Raises:
        RuntimeError: a loop runs in this thread: await wake.
    """
    import asyncio  # noqa: PLC0415 - who has no loop has not loaded it

    return asyncio.run(_wake_once(email_ids, redis, queue_name))


async def _wake_once(
    email_ids: int | Iterable[int], settings: 'RedisSettings', queue_name: str | None
) -> WokenBy:
    import asyncio  # noqa: PLC0415
    from dataclasses import replace  # noqa: PLC0415

    from arq import create_pool  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        # One attempt, and no longer than a request may wait; arq would try five times.
        async with asyncio.timeout(ENQUEUE_TIMEOUT_S):
            redis = await create_pool(replace(settings, conn_retries=0))
    except (RedisError, OSError) as error:
        log = _log()
        log.warning('job.not_enqueued', extra={'error': str(error) or type(error).__name__})
        return 'sweep'
    try:
        return await wake(email_ids, redis=redis, queue_name=queue_name)
    finally:
        await redis.aclose()


async def _enqueued(redis: 'ArqRedis', ids: list[int], queue_name: str | None) -> bool:
    # An application that has them has loaded them; one that has not need not.
    import asyncio  # noqa: PLC0415

    from redis.exceptions import RedisError  # noqa: PLC0415

    jobs: list[tuple[str, *tuple[int, ...]]] = [('send_email', email_id) for email_id in ids]
    if len(ids) > MAX_JOBS:
        jobs = [('process_pending_emails',)]
    try:
        async with asyncio.timeout(ENQUEUE_TIMEOUT_S):  # a frozen Redis must not hold up a request
            for job in jobs:
                await redis.enqueue_job(*job, _queue_name=queue_name)
    except (RedisError, OSError) as error:
        why = redis_error_text(error, queue_name or redis.default_queue_name)
        log = _log()
        log.warning('job.not_enqueued', extra={'email_id': ids[0], 'error': why})
        return False
    return True


async def _notified(pg: 'asyncpg.Connection | asyncpg.Pool', ids: list[int]) -> bool:
    import asyncpg  # noqa: PLC0415

    refusals = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    try:
        await notify(pg)
    except refusals as error:
        why = str(error) or type(error).__name__
        log = _log()
        log.warning('wakeup.failed', extra={'email_id': ids[0], 'error': why})
        return False
    return True


def _log() -> 'logging.Logger':
    """Return the standard library's logger: an application has its own way of logging."""
    import logging  # noqa: PLC0415 - 3 ms, for what hardly ever happens

    return logging.getLogger(__name__)


def redis_error_text(error: BaseException, queue: str) -> str:
    """Return what Redis said about a queue, in words that an operator can act on."""
    if 'WRONGTYPE' in str(error):
        return f'the key {queue!r} is no queue of arq (WRONGTYPE); {IMPORT_HINT}'
    return str(error) or type(error).__name__
