"""A task that is cancelled ends, whatever it was asking Redis at that moment."""

import asyncio
import os
import sys
from collections import Counter

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from engine.connection import keep_cancellations, open_redis
from engine.redis_url import redis_settings
from tests.conftest import DEADLINE_S

CANCELLATIONS = 2000
ROUNDS = 40  # of commands before a task ends by itself: it lost its cancellation


async def ask_on(redis):
    for _ in range(ROUNDS):
        await redis.ping()


async def pipeline_on(redis):
    for _ in range(ROUNDS):
        async with redis.pipeline(transaction=True) as pipe:
            pipe.set('a', 1)
            pipe.get('a')
            await pipe.execute()


async def subscribe_on(redis):
    async with redis.pubsub() as pubsub:
        for n in range(ROUNDS):
            await pubsub.subscribe(f'channel-{n}')
            await pubsub.get_message(timeout=0.001)


async def count_lost(redis, work, cancellations=CANCELLATIONS):
    """Cancel tasks after none, one, two ... turns of the loop. Returns how they ended."""
    ends = Counter()
    for n in range(cancellations):
        task = asyncio.create_task(work(redis))
        for _ in range(n % 23):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        ends['cancelled' if task.cancelled() else task.exception() or 'went on'] += 1
    return ends


@pytest.fixture
def url(stack):
    return os.environ.get('TEST_ARQ_REDIS_URL') or stack.env['ARQ_REDIS_URL']


@pytest.mark.parametrize('work', [ask_on, pipeline_on, subscribe_on])
async def test_our_client_loses_none_of_two_thousand_cancellations(url, work):
    redis = open_redis(redis_settings(url), 'arq:queue')
    try:
        assert await count_lost(redis, work) == {'cancelled': CANCELLATIONS}
        assert await redis.ping()  # and is as good as before
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_client_of_the_health_check_loses_none_either(url):
    async with keep_cancellations(Redis.from_url(url, socket_timeout=DEADLINE_S)) as redis:
        assert await count_lost(redis, ask_on) == {'cancelled': CANCELLATIONS}


@pytest.mark.skipif(sys.version_info >= (3, 12), reason='asyncio.wait_for was mended')
async def test_stock_client_loses_some_so_that_ours_is_needed(url):
    async with Redis.from_url(url, socket_timeout=DEADLINE_S) as redis:
        assert (await count_lost(redis, ask_on, 500))['went on'] > 0


@pytest.mark.parametrize(
    ('url', 'kind'),
    [
        ('rediss://redis.example.com/1', SSLConnection),
        ('unix:///run/redis.sock?db=1', UnixDomainSocketConnection),
    ],
)
def test_every_kind_of_connection_is_ours(url, kind):
    connection = open_redis(redis_settings(url), 'arq:queue').connection_pool.make_connection()
    assert isinstance(connection, kind)
    assert type(connection).send_packed_command.__module__ == 'engine.connection'
