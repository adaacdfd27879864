"""Our worker among stock ones.

Producers, clients and workers of plain arq, on one queue of a real server.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, SerializationError
from arq.worker import Worker, func

from engine.dispatcher import Dispatcher
from engine.wire import deserialize, serialize
from tests.conftest import DEADLINE_S, wait_until

STOCK_WORKER = Dispatcher.__mro__[1]  # worker.py may have put ours in its place
CODECS = {'job_serializer': serialize, 'job_deserializer': deserialize}


@pytest.fixture
async def stock(redis: ArqRedis) -> AsyncIterator[ArqRedis]:
    """A client as plain arq makes it, with pickles."""
    client = ArqRedis(connection_pool=redis.connection_pool)
    yield client
    await client.aclose(close_connection_pool=False)


@pytest.fixture(params=['Kz', ''], ids=['told of jobs', 'asking for jobs'])
async def events(redis: ArqRedis, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A server that tells of new jobs, and one that does not."""
    before = (await redis.config_get('notify-keyspace-events'))['notify-keyspace-events']
    await redis.config_set('notify-keyspace-events', request.param)
    yield
    await redis.config_set('notify-keyspace-events', before)


@pytest.fixture
async def start(redis: ArqRedis) -> AsyncIterator[Callable[..., Worker]]:
    """Start a worker of a class in this process; all are closed at the end."""
    workers = []

    def start(
        worker_class: type[Worker], *functions: Any, plain: bool = True, **options: Any
    ) -> Worker:
        codecs = CODECS if worker_class is Dispatcher and plain else {}
        worker = worker_class(
            [func(function, name=function.__name__) for function in functions],
            redis_pool=ArqRedis(**redis.connection_pool.connection_kwargs, **codecs),
            handle_signals=False,
            poll_delay=0.01,
            **codecs,
            **options,
        )
        workers.append((worker, asyncio.ensure_future(worker.async_run())))
        return worker

    yield start
    for worker, running in workers:
        with suppress(asyncio.CancelledError):
            await worker.close()  # cancels it, and its jobs
        await asyncio.wait([running])


async def status_is(job: Job, wanted: JobStatus) -> None:
    async def is_so() -> bool:
        return await job.status() == wanted

    await wait_until(is_so)


async def test_stock_worker_and_ours_share_a_queue_and_run_each_job_once(
    stock: ArqRedis, events: None, start: Any
) -> None:
    runs: Counter[int] = Counter()
    at_work: set[str] = set()
    both_at_work = asyncio.Event()

    def make(worker_name: str) -> Any:
        async def share(ctx: Any, number: int) -> str:
            runs[number] += 1
            at_work.add(worker_name)
            if len(at_work) == 2:
                both_at_work.set()
            await both_at_work.wait()
            return worker_name

        return share

    jobs = [await stock.enqueue_job('share', number) for number in range(100)]
    start(STOCK_WORKER, make('stock'), max_jobs=10)
    start(Dispatcher, make('ours'), max_jobs=10)
    results = [await job.result(timeout=DEADLINE_S, poll_delay=0.01) for job in jobs if job]
    assert set(results) == {'stock', 'ours'}
    assert runs == dict.fromkeys(range(100), 1)
    assert await stock.zcard('arq:queue') == 0


async def test_stock_client_follows_a_job_from_queue_to_result(stock: ArqRedis, start: Any) -> None:
    release = asyncio.Event()

    async def double(ctx: Any, number: int) -> int:
        await release.wait()
        return 2 * number

    job = await stock.enqueue_job('double', 21, _job_id='followed')
    later = await stock.enqueue_job('double', 1, _defer_by=3600)
    assert job is not None
    assert later is not None
    assert await job.status() == JobStatus.queued
    start(Dispatcher, double)
    await status_is(job, JobStatus.in_progress)
    release.set()
    assert await job.result(timeout=DEADLINE_S, poll_delay=0.01) == 42
    info = await job.result_info()
    assert info is not None
    assert (info.function, info.args, info.job_try, info.success) == ('double', (21,), 1, True)
    assert await job.status() == JobStatus.complete
    assert await later.status() == JobStatus.deferred
    assert (
        await stock.enqueue_job('double', 21, _job_id='followed') is None
    )  # while its result is kept


@pytest.mark.parametrize(('is_running', 'plain'), [(True, False), (False, False), (False, True)])
async def test_job_is_aborted_where_the_worker_allows_it(
    stock: ArqRedis, start: Any, is_running: bool, plain: bool
) -> None:
    ended: list[str] = []

    async def endless(ctx: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(ctx['job_id'])

    job = await stock.enqueue_job('endless', _job_id='unwanted')
    assert job is not None
    if is_running:
        start(Dispatcher, endless, plain=plain, allow_abort_jobs=True)
        await status_is(job, JobStatus.in_progress)
    aborting = asyncio.ensure_future(job.abort(timeout=DEADLINE_S, poll_delay=0.01))
    if not is_running:
        await wait_until(lambda: stock.zcard('arq:abort'))
        start(Dispatcher, endless, plain=plain, allow_abort_jobs=True)
    if plain:  # our results hold no exceptions, which only a pickle that runs code can bring back
        with pytest.raises(SerializationError, match='CancelledError'):
            await aborting
    else:
        assert await aborting is True
    assert ended == (['unwanted'] if is_running else [])
    assert await job.status() == JobStatus.complete
    assert await stock.zcard('arq:abort') == 0


async def test_job_goes_on_where_the_worker_allows_no_abort(stock: ArqRedis, start: Any) -> None:
    release = asyncio.Event()

    async def steadfast(ctx: Any) -> str:
        await release.wait()
        return 'done'

    job = await stock.enqueue_job('steadfast')
    assert job is not None
    start(Dispatcher, steadfast)  # as worker.py has it
    await status_is(job, JobStatus.in_progress)
    with pytest.raises(TimeoutError):
        await job.abort(timeout=0.1, poll_delay=0.01)
    release.set()
    assert await job.result(timeout=DEADLINE_S, poll_delay=0.01) == 'done'
