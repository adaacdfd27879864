"""The arq Worker we run, poll by poll, with a Redis that comes and goes."""

import asyncio
import time
from signal import Signals
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix
from arq.jobs import JobStatus
from redis.exceptions import BusyLoadingError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from engine.dispatcher import IN_PROGRESS_S, REDIS_DOWN, Dispatcher
from tests.unit.fake_redis import FakeRedis, MakeWorker, echo, free_slots, poll, result_of


async def test_job_of_a_stock_producer_runs_and_a_stock_client_reads_its_result(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    job = await redis.enqueue_job('echo', {'email_id': 1, 'status': 'sent', 'attempts': 1})
    assert job is not None
    await poll(make_worker())
    assert await result_of(job) == {'email_id': 1, 'status': 'sent', 'attempts': 1}


async def test_cancelled_job_is_run_again_however_often(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    tries: list[int] = []

    async def interrupted(ctx: dict[str, Any]) -> str:
        tries.append(ctx['job_try'])
        if len(tries) < 10:
            raise asyncio.CancelledError
        return 'done'

    worker = make_worker(interrupted)
    job = await redis.enqueue_job('interrupted')
    assert job is not None
    for _ in range(10):
        await poll(worker)
    assert tries == list(range(1, 11))
    assert await result_of(job) == 'done'


# Room.


async def test_more_jobs_than_there_is_room_for_make_the_worker_look_for_urgent_mail(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    release = asyncio.Event()

    async def slow(_: Any) -> None:
        await release.wait()

    worker = make_worker(slow, max_jobs=3)
    wanted = worker.signals.urgent_wanted
    for jobs, is_wanted in (
        (2, False),
        (1, True),
        (1, True),
    ):  # the third may have others behind it; the fourth waits
        for _ in range(jobs):
            await redis.enqueue_job('slow')
        wanted.clear()
        await worker._poll_iteration()
        assert wanted.is_set() == is_wanted
    release.set()
    await poll(worker)


async def test_no_more_jobs_run_at_once_than_allowed_and_the_rest_follow(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    running, most = 0, 0
    release = asyncio.Event()

    async def slow(_: Any, number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        return number

    worker = make_worker(slow, max_jobs=3)
    jobs = [await redis.enqueue_job('slow', number) for number in range(8)]
    for _ in range(3):
        await worker._poll_iteration()
    assert len(worker.tasks) == 3
    release.set()
    for _ in range(3):
        await poll(worker)
    assert [await result_of(job) for job in jobs if job] == list(range(8))
    assert most == 3


async def test_job_is_found_behind_any_number_that_run_elsewhere(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    """arq leaves the ids of running jobs in the queue.

    Stock workers read only the first hundred or so.
    """
    for number in range(700):
        await redis.set(f'{in_progress_key_prefix}{number}', b'1')
    await redis.zadd(default_queue_name, {str(number): number + 1 for number in range(700)})
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await poll(make_worker())
    assert await result_of(job) == 7


async def test_job_that_is_not_due_waits(redis: ArqRedis, make_worker: MakeWorker) -> None:
    job = await redis.enqueue_job('echo', 7, _defer_by=60)
    assert job is not None
    await poll(make_worker())
    assert await job.status() is JobStatus.deferred


# Redis comes and goes.

ERRORS = [
    RedisConnectionError('gone'),
    RedisTimeoutError('frozen'),
    BusyLoadingError('loading'),
    OutOfMemoryError('full'),
    ConnectionResetError('reset'),
    OSError('no route'),
    TimeoutError(),
]


@pytest.mark.parametrize('error', ERRORS, ids=repr)
async def test_dispatcher_goes_on_where_a_stock_worker_ends(
    fake: FakeRedis, redis: ArqRedis, make_worker: MakeWorker, error: Exception
) -> None:
    stock = Dispatcher.__mro__[1]([echo], redis_pool=fake.client(), handle_signals=False)
    fake.fail(error, in_replies=1)
    with pytest.raises(REDIS_DOWN):
        await stock._poll_iteration()

    worker = make_worker()
    fake.fail(error, in_replies=1)
    await worker._poll_iteration()
    assert worker.signals.redis_unreachable.is_set()
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await poll(worker)
    assert not worker.signals.redis_unreachable.is_set()
    assert await result_of(job) == 7


@pytest.mark.parametrize('error', [RedisTimeoutError('frozen'), OSError('no route')], ids=repr)
@pytest.mark.parametrize('running_elsewhere', [False, True])
@pytest.mark.parametrize('in_replies', range(1, 12))
async def test_no_slot_is_lost_or_won_whenever_redis_fails_in_a_poll(
    fake: FakeRedis,
    redis: ArqRedis,
    make_worker: MakeWorker,
    in_replies: int,
    *,
    running_elsewhere: bool,
    error: Exception,
) -> None:
    worker = make_worker(max_jobs=2)
    await redis.enqueue_job('echo', 1, _job_id='first')
    if running_elsewhere:
        await redis.set(in_progress_key_prefix + 'first', b'1')
    fake.fail(error, in_replies)
    await poll(worker)
    fake.fails_in = None
    await poll(worker)
    assert free_slots(worker) == 2
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await poll(worker)
    assert await result_of(job) == 7


async def test_killed_workers_job_is_locked_for_a_minute_at_most_and_not_for_the_job_timeout(
    redis: ArqRedis, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()

    async def slow(_: Any) -> None:
        await release.wait()

    worker = make_worker(slow, job_timeout=2000)
    job = await redis.enqueue_job('slow')
    assert job is not None
    await worker._poll_iteration()
    lock = in_progress_key_prefix + job.job_id
    assert 0 < await redis.pttl(lock) <= IN_PROGRESS_S * 1000 <= 60_000

    await redis.pexpire(lock, 10_000)
    monkeypatch.setattr(worker, '_renewed_at', time.monotonic() - 3600)
    await worker._poll_iteration()
    assert await redis.pttl(lock) > IN_PROGRESS_S * 900

    release.set()
    await poll(worker)
    assert await redis.pttl(lock) == -2


# The end.


@pytest.mark.parametrize(
    ('signal', 'drain_s'), [('handle_sig', 0), ('handle_sig_wait_for_completion', 20)]
)
async def test_signal_tells_the_jobs_to_stop_and_until_when(
    make_worker: MakeWorker, signal: str, drain_s: float
) -> None:
    worker = make_worker(job_completion_wait=20)
    before = time.monotonic()
    getattr(worker, signal)(Signals.SIGTERM)
    assert worker.signals.stopping.is_set()
    assert before + drain_s <= worker.signals.stop_by <= time.monotonic() + drain_s
    first = worker.signals.stop_by
    worker.handle_sig(Signals.SIGTERM)
    assert worker.signals.stop_by == first


async def test_close_runs_the_shutdown_though_redis_is_away(
    fake: FakeRedis, make_worker: MakeWorker
) -> None:
    ended: list[str] = []

    async def on_shutdown(_: Any) -> None:
        ended.append('shutdown')

    worker = make_worker(on_shutdown=on_shutdown)
    fake.fail(RedisConnectionError('gone'), in_replies=1)
    await worker.close()
    assert ended == ['shutdown']


async def test_burst_ends_when_the_queue_is_empty(redis: ArqRedis, make_worker: MakeWorker) -> None:
    jobs = [await redis.enqueue_job('echo', number) for number in range(5)]
    worker = make_worker(burst=True, poll_delay=0.001)
    async with asyncio.timeout(30):
        await worker.main()
    assert [await result_of(job) for job in jobs if job] == list(range(5))
