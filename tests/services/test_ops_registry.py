import asyncio
import contextlib

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from engine.queues import WORKERS_KEY
from fleet import registrar
from fleet.registrar import Registrar, keep_registered
from fleet.registry import RECORD_PREFIX, read_workers
from tests.conftest import wait_until


@contextlib.asynccontextmanager
async def registered(redis, worker='mail-7@host:42', **told):
    told = {'queue': 'arq:queue', 'emails': [], 'outcomes': {}} | told
    task = asyncio.create_task(keep_registered(redis, Registrar(worker, lambda: told)))
    try:
        yield told
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def names(redis):
    return [record.worker for record in await read_workers(redis)]


async def both(redis):
    return len(await names(redis)) == 2


async def test_registered_worker_is_read_back_as_it_described_itself(redis):
    async with registered(redis, emails=[{'id': 3}, {'id': 4}], outcomes={'accepted': 2}):
        await wait_until(lambda: names(redis))
        (record,) = await read_workers(redis)
    assert (record.worker, record.queue, record.emails) == (
        'mail-7@host:42',
        'arq:queue',
        [{'id': 3}, {'id': 4}],
    )
    assert record.outcomes == {'accepted': 2}
    assert record.rss_bytes > 2**20
    assert 0 <= record.seen_ago_s < 5


async def test_record_lapses_after_15_s_and_is_gone_at_once_when_the_worker_stops(redis):
    async with registered(redis, 'a@host:1'), registered(redis, 'b@host:2'):
        await wait_until(lambda: both(redis))
        assert sorted(await names(redis)) == ['a@host:1', 'b@host:2']
        assert 10_000 < await redis.pttl(RECORD_PREFIX + 'b@host:2') <= 15_000
        await redis.delete(RECORD_PREFIX + 'a@host:1')  # as if it had lapsed after a kill -9
        assert await names(redis) == ['b@host:2']
    assert await redis.keys('*') == []


async def test_record_comes_back_after_redis_was_emptied(redis, monkeypatch):
    monkeypatch.setattr(registrar, 'REGISTER_EVERY_S', 0.02)
    async with registered(redis) as told:
        await wait_until(lambda: names(redis))
        started_at = (await read_workers(redis))[0].started_at
        told['emails'] = [{'id': 9}]
        await redis.flushdb()
        await wait_until(lambda: names(redis))
        (record,) = await read_workers(redis)
        assert (record.emails, record.started_at) == ([{'id': 9}], started_at)


async def test_registration_survives_an_outage_of_redis(redis, monkeypatch):
    monkeypatch.setattr(registrar, 'REGISTER_EVERY_S', 0.01)
    failures = []
    write = registrar._write

    async def failing(*args):
        if len(failures) < 3:
            failures.append(args)
            raise RedisConnectionError('refused')
        await write(*args)

    monkeypatch.setattr(registrar, '_write', failing)
    async with registered(redis):
        await wait_until(lambda: names(redis))
    assert len(failures) == 3


async def test_names_of_workers_killed_long_ago_are_forgotten(redis):
    await redis.zadd(WORKERS_KEY, {'old@host:1': 1})
    async with registered(redis):
        await wait_until(lambda: names(redis))
        assert await redis.zrange(WORKERS_KEY, 0, -1) == [b'mail-7@host:42']
