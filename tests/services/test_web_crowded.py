"""The web page on a Redis that others write to as well: no key hides the workers, and no crowd the queues."""

import contextlib

import pytest

from fleet.queues import read_queues
from fleet.registry import RECORD_PREFIX, WORKERS_KEY, read_workers
from tests.conftest import DEADLINE_S
from tests.services.ops_desk import closed_port
from tests.services.test_ops_status import register
from web.questions import MOST_QUEUES, OVERVIEW
from web.watch import Places, Source, Watch


@contextlib.asynccontextmanager
async def watching(**places):
    nobody = closed_port()
    away = {'postgres_dsn': f'postgresql://127.0.0.1:{nobody}/x', 'redis_url': f'redis://127.0.0.1:{nobody}/1'}
    watch = Watch(Places(**(away | places)), OVERVIEW, deadline_s=DEADLINE_S, shared_s=0)
    try:
        yield watch
    finally:
        await watch.close()


async def test_key_that_is_no_record_hides_no_worker(redis):
    await register(redis)
    await redis.zadd(WORKERS_KEY, {'stranger': 1})
    await redis.hset(RECORD_PREFIX + 'stranger', 'no', 'record')
    assert [worker.worker for worker in await read_workers(redis)] == ['mail-7@host:42']


async def test_crowd_of_queues_is_cut_and_hides_none_of_ours_nor_one_that_is_served(env, redis):
    async with redis.pipeline(transaction=False) as pipe:
        for n in range(MOST_QUEUES * 2):
            pipe.zadd(f'crowd-{n}', {f'job-{n}': 1})
            pipe.set(f'arq:job:job-{n}', b'')
            pipe.zadd(f'no-queue-{n}', {f'no-job-{n}': 1})
        await pipe.execute()
    await register(redis, queue='crowd-7')
    await redis.enqueue_job('send_email', 1)
    async with watching(redis_url=env['ARQ_REDIS_URL']) as watch:
        queues = {queue['name']: queue for queue in (await watch.look()).found['queues']}
    assert MOST_QUEUES <= len(queues) <= MOST_QUEUES + 4
    assert (queues['arq:queue']['ready'], queues['crowd-7']['served']) == (1, True)
    everything = {queue.name: queue.ready for queue in await read_queues(redis)}
    assert everything == dict.fromkeys(('high_priority', 'low_priority'), 0) | {'arq:queue': 1} | {
        f'crowd-{n}': 1 for n in range(MOST_QUEUES * 2)
    }


@pytest.mark.parametrize('dsn', ['postgresql://u:p@geheim/w?rd@127.0.0.1/x'])
async def test_address_that_cannot_be_read_is_told_and_logged_without_a_piece_of_the_password(dsn, capfd):
    async with watching(postgres_dsn=dsn) as watch:
        trouble = (await watch.look()).troubles[Source.POSTGRESQL]
    assert trouble.place == 'the address in DATABASE_URL'
    told = trouble.line + ''.join(capfd.readouterr())
    assert 'geheim' not in told
    assert 'Traceback' not in told
