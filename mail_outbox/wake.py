"""Waking the workers from an application: Redis first, PostgreSQL when Redis refuses."""

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import asyncpg
    from arq.connections import ArqRedis

# The standard library's: an application has its own way of logging.
log = logging.getLogger(__name__)

ENQUEUE_TIMEOUT_S = 2.0
CHANNEL = 'outbound_emails_due'
# kombu keeps a queue of Celery's as a list, under the name that may be one of ours.
IMPORT_HINT = (
    '`python -m ops import-celery` takes over, or moves out of the way, '
    'what Celery left under that name'
)

NOTIFY_SQL = f"SELECT pg_notify('{CHANNEL}', '')"


async def notify(conn: 'asyncpg.Connection | asyncpg.Pool') -> None:
    """Wake the workers when the caller's transaction commits, or now when it has none open."""
    await conn.execute(NOTIFY_SQL)


async def wake_workers(
    redis: 'ArqRedis',
    pg: 'asyncpg.Connection | asyncpg.Pool',
    email_id: int,
    *,
    queue_name: str | None = None,
) -> Literal['redis', 'notify', 'sweep']:
    """Have a committed e-mail sent at once; never fails, because the sweep delivers it anyway.

    Call it after the commit: a worker that is woken earlier finds no row.

    Args:
        queue_name: 'high_priority' when the workers run with QUEUE_ROUTING; by default the client's
            own default queue.
    Returns:
        What will wake a worker: the job in Redis, a PostgreSQL NOTIFY, or nothing before the next
            sweep.
    """
    # An application that has them has loaded them; one that has not need not.
    import asyncio  # noqa: PLC0415

    import asyncpg  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        async with asyncio.timeout(ENQUEUE_TIMEOUT_S):  # a frozen Redis must not hold up a request
            await redis.enqueue_job('send_email', email_id, _queue_name=queue_name)
    except (RedisError, OSError) as error:
        why = redis_error_text(error, queue_name or redis.default_queue_name)
        log.warning('job.not_enqueued', extra={'email_id': email_id, 'error': why})
    else:
        return 'redis'
    try:
        await notify(pg)
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        why = str(error) or type(error).__name__
        log.warning('wakeup.failed', extra={'email_id': email_id, 'error': why})
        return 'sweep'
    return 'notify'


def redis_error_text(error: BaseException, queue: str) -> str:
    """Return what Redis said about a queue, in words that an operator can act on."""
    if 'WRONGTYPE' in str(error):
        return f'the key {queue!r} is no queue of arq (WRONGTYPE); {IMPORT_HINT}'
    return str(error) or type(error).__name__
