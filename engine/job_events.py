"""Hearing of new jobs from Redis itself (keyspace events), instead of polling for them."""

import asyncio
import time
from collections.abc import Callable

import structlog
from arq.connections import ArqRedis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

log = structlog.get_logger()

NEW_JOB_EVENTS = frozenset({b'zadd', b'zincr'})
SILENCE_S = 4.0  # below the client's own time-out for a reply
RECONNECT_S = 1.0

# Whether Redis publishes events is found out by an event of this key, not by CONFIG: a
# least-privileged user may not ask, and hosted servers refuse everybody.
PROBE_KEY = 'mail:probe'
PROBE_LIFETIME_S = 60
PROBE_ANSWER_S = 2.0
PROBE_AGAIN_S = 60.0  # somebody may turn it on


async def listen_for_jobs(
    redis: ArqRedis, queue_name: str, on_job: Callable[[], None], on_hearing: Callable[[bool], None]
) -> None:
    """Call on_job whenever a job is put into the queue, by whatever producer, until cancelled.

    Args:
        on_hearing: Called with True when Redis publishes new jobs, and with False when it does not:
            then the queue has to be polled.
    """
    keyspace = f'__keyspace@{redis.connection_pool.connection_kwargs["db"]}__:'
    said = False
    while True:
        wait_s = RECONNECT_S
        try:
            async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(keyspace + queue_name, keyspace + PROBE_KEY)
                if await _publishes(redis, pubsub, (keyspace + PROBE_KEY).encode()):
                    await pubsub.unsubscribe(keyspace + PROBE_KEY)
                    on_hearing(True)
                    on_job()  # those enqueued while nobody listened
                    while True:
                        message = await pubsub.get_message(timeout=SILENCE_S)
                        if message is not None and message['data'] in NEW_JOB_EVENTS:
                            on_job()
            wait_s = PROBE_AGAIN_S
            if not said:
                log.info(
                    'redis.keyspace_events_off',
                    detail='the worker asks for new jobs instead',
                    remedy='set notify-keyspace-events in redis.conf',
                )
            said = True
        except (RedisError, OSError) as error:
            log.debug('redis.keyspace_events_lost', error=str(error))
        finally:
            on_hearing(False)
        await asyncio.sleep(wait_s)


async def _publishes(redis: ArqRedis, pubsub: PubSub, channel: bytes) -> bool:
    """Return whether this Redis publishes changes of sorted sets.

    Its settings are never changed: they are the server's, and others use it.
    """
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zadd(PROBE_KEY, {'probe': time.time()})
        pipe.expire(PROBE_KEY, PROBE_LIFETIME_S)
        await pipe.execute()
    until = time.monotonic() + PROBE_ANSWER_S
    while (left_s := until - time.monotonic()) > 0:
        message = await pubsub.get_message(timeout=left_s)
        if message is not None and message['channel'] == channel:
            return True
    return False
