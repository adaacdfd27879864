"""Hearing of new jobs from Redis itself, so that nobody has to ask for them all the time."""

import asyncio
from collections.abc import Callable

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError, ResponseError

log = structlog.get_logger()

# K: events by key; z: changes of sorted sets, which is what arq's queues are.
WANTED_EVENTS = frozenset('Kz')
NEW_JOB_EVENTS = frozenset({b'zadd', b'zincr'})
SILENCE_S = 4.0  # below the client's own time-out for a reply
RECONNECT_S = 1.0


async def listen_for_jobs(
    redis: ArqRedis, queue_name: str, on_job: Callable[[], None], on_hearing: Callable[[bool], None]
) -> None:
    """Call on_job whenever a job is put into the queue, by whatever producer, until cancelled.

    Args:
        on_hearing: Told True when jobs can be heard of, False when they cannot, for as long as that lasts: then they
            have to be asked for.
    """
    while True:
        try:
            if not await _events_are_on(redis):
                return
            async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(f'__keyspace@{redis.connection_pool.connection_kwargs["db"]}__:{queue_name}')
                on_hearing(True)
                on_job()  # those enqueued while nobody listened
                while True:
                    message = await pubsub.get_message(timeout=SILENCE_S)
                    if message is not None and message['data'] in NEW_JOB_EVENTS:
                        on_job()
        except (RedisError, OSError) as error:
            log.debug('not listening for jobs', error=str(error))
        finally:
            on_hearing(False)
        await asyncio.sleep(RECONNECT_S)


async def _events_are_on(redis: ArqRedis) -> bool:
    """Return whether this Redis tells of new jobs. Never changes it: the setting is the whole server's."""
    try:
        flags = set((await redis.config_get('notify-keyspace-events')).get('notify-keyspace-events', ''))
    except ResponseError as error:  # CONFIG is forbidden, or has another name
        log.info('Redis does not say whether it tells of new jobs, so they are asked for', error=str(error))
        return False
    if 'A' in flags:  # all kinds of events
        flags |= set('z')
    if flags >= WANTED_EVENTS:
        return True
    log.info('Redis does not tell of new jobs, so they are asked for; see notify-keyspace-events in deploy/redis.conf')
    return False
