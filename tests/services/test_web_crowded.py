"""The web page on a Redis that others write to as well.

No key hides the workers, and no crowd the queues.
"""

import contextlib
import json
import time

import pytest

from engine.queues import read_queues
from fleet.registry import (
    LARGEST_RECORD_BYTES,
    MAX_LISTED,
    MOST_NAMES,
    MOST_TEXT,
    MOST_WORKERS,
    RECORD_PREFIX,
    WORKERS_KEY,
    read_workers,
)
from reporting.servers import ServerAddresses
from tests.conftest import DEADLINE_S
from tests.services.ops_desk import closed_port
from tests.services.test_ops_status import RECORD, register
from web.questions import MOST_QUEUES, OVERVIEW
from web.watch import Source, Watch


@contextlib.asynccontextmanager
async def watching(**places):
    nobody = closed_port()
    away = {
        'postgres_dsn': f'postgresql://127.0.0.1:{nobody}/x',
        'redis_url': f'redis://127.0.0.1:{nobody}/1',
    }
    watch = Watch(ServerAddresses(**(away | places)), OVERVIEW, deadline_s=DEADLINE_S, shared_s=0)
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
async def test_address_that_cannot_be_read_is_told_and_logged_without_a_piece_of_the_password(
    dsn, capfd
):
    async with watching(postgres_dsn=dsn) as watch:
        problem = (await watch.look()).problems[Source.POSTGRESQL]
    assert problem.place == 'the address in DATABASE_URL'
    told = problem.line + ''.join(capfd.readouterr())
    assert 'geheim' not in told
    assert 'Traceback' not in told


async def test_hundreds_of_thousands_of_forged_names_hide_no_worker_and_are_not_read(redis, env):
    now = time.time()
    for first in range(0, 300_000, 20_000):
        # By the names' order before ours and behind them, of every age, and of none.
        ages = (0.0, 1.0, now - 7200, now + 1e6, float('inf'), float('-inf'))
        await redis.zadd(
            WORKERS_KEY,
            {f'{"az"[n % 2]}{n}@forged:1': ages[n % 6] for n in range(first, first + 20_000)},
        )
    await register(redis)
    await redis.zadd(WORKERS_KEY, {'mail-7@host:42': now})
    commands = await redis.info('commandstats')
    assert [worker.worker for worker in await read_workers(redis)] == ['mail-7@host:42']
    asked = await redis.info('commandstats')
    assert (
        asked['cmdstat_strlen']['calls'] - commands.get('cmdstat_strlen', {'calls': 0})['calls']
        <= MOST_NAMES
    )
    async with watching(redis_url=env['ARQ_REDIS_URL']) as watch:
        reading = await watch.look()
    assert [worker['worker'] for worker in reading.found['workers']] == ['mail-7@host:42']
    assert Source.REDIS not in reading.problems


async def test_record_that_is_too_large_is_not_fetched_and_a_crowd_is_cut(redis):
    await redis.set(RECORD_PREFIX + 'huge', 'x' * (LARGEST_RECORD_BYTES + 1))
    await redis.zadd(WORKERS_KEY, {'huge': time.time(), 'long' * 1000: time.time()})
    async with redis.pipeline(transaction=False) as pipe:
        for n in range(MOST_WORKERS + 100):
            name = f'w{n:04}@host:1'
            pipe.set(
                RECORD_PREFIX + name,
                json.dumps(RECORD | {'worker': name, 'emails': [{'id': 1}] * 500}),
            )
            pipe.zadd(WORKERS_KEY, {name: time.time()})
        await pipe.execute()
    workers = await read_workers(redis)
    assert len(workers) == MOST_WORKERS
    assert {len(worker.emails) for worker in workers} == {MAX_LISTED}


@pytest.mark.parametrize('part', ['paused', 'functions', 'outcomes', 'version'])
async def test_each_part_of_a_record_is_bounded(redis, part):
    many = {'outcomes': {f'o{n}': n for n in range(5_000)}, 'version': 'v' * 100_000}
    await register(redis, **{part: many.get(part, ['f' * 10] * 10_000)})
    (worker,) = await read_workers(redis)
    assert len(getattr(worker, part)) <= MOST_TEXT
