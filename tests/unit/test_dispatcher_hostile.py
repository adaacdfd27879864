"""Jobs and queue entries that nobody in their right mind would write.

Recorded as failed, and the worker goes on.
"""

import pickle
from typing import Any

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix
from arq.jobs import Job, JobStatus, SerializationError

from delivery.email_jobs import subject_of
from engine.claimed_jobs import STARTS_PREFIX, claim_jobs
from tests.unit.fake_redis import MakeWorker, free_slots, poll, result_of


class Calls:
    def __reduce__(self) -> Any:
        return pytest.fail, ('the pickle was run',)


def a_job(**parts: Any) -> dict[str, Any]:
    return {'t': None, 'f': 'echo', 'a': (1,), 'k': {}, 'et': 1_700_000_000_000, **parts}


MALFORMED = {
    'no pickle': b'no pickle',
    'a call': pickle.dumps(a_job(a=(Calls(),))),
    'nothing': pickle.dumps({}),
    'no dict': pickle.dumps([]),
    'unknown function': pickle.dumps(a_job(f='unknown')),
    'no function': pickle.dumps(a_job(f=None)),
    'a long name of a function': pickle.dumps(a_job(f='x' * 500_000)),
    'function is a list': pickle.dumps(a_job(f=[])),
    'try is text': pickle.dumps(a_job(t='x')),
    'no time': pickle.dumps(a_job(et=None)),
    'time is text': pickle.dumps(a_job(et='x')),
    'time beyond the calendar': pickle.dumps(a_job(et=10**30)),
    'arguments are a number': pickle.dumps(a_job(a=5)),
    'too many arguments': pickle.dumps(a_job(a=(1, 2, 3))),
    'keywords are a list': pickle.dumps(a_job(k=[])),
    'keyword is a number': pickle.dumps(a_job(k={1: 2})),
    'unknown keyword': pickle.dumps(a_job(k={'unknown': 2})),
}


@pytest.mark.parametrize('data', MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_job_is_recorded_as_failed_and_the_worker_goes_on(
    redis: ArqRedis, make_worker: MakeWorker, data: bytes
) -> None:
    worker = make_worker()
    await redis.set(job_key_prefix + 'hostile', data)
    await redis.zadd(default_queue_name, {'hostile': 1})
    await poll(worker)
    assert await Job('hostile', redis).status() is JobStatus.complete
    with pytest.raises(SerializationError):
        await result_of(Job('hostile', redis))
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await poll(worker)
    assert await result_of(job) == 7
    assert free_slots(worker) == 3


REFUSED = {
    'JSON': (
        b'{"t": null, "f": "send_email", "a": [123], "k": {}, "et": 1}',
        'unreadable',
        'send_email',
        123,
    ),
    'JSON with an id as text': (
        b'{"f": "send_email", "a": ["123"], "k": {}}',
        'unreadable',
        'send_email',
        123,
    ),
    'JSON with a keyword': (
        b'{"f": "send_email", "k": {"email_id": 5}}',
        'unreadable',
        'send_email',
        5,
    ),
    'JSON that never ends': (b'{"a":' * 100_000, 'unreadable', None, None),
    'a list in JSON': (b'[1, 2]', 'unreadable', None, None),
    'msgpack': (b'\x85\xa1t\xc0\xa1f\xaasend_email', 'unreadable', None, None),
    'a call': (pickle.dumps(a_job(a=(Calls(),))), 'unreadable', None, None),
    'a set': (pickle.dumps(a_job(a=({1},))), 'unreadable', None, None),
    'unknown function': (
        pickle.dumps(a_job(f='send_mail', a=(7,))),
        'unknown-function',
        'send_mail',
        7,
    ),
    'too many arguments': (pickle.dumps(a_job(a=(7, 2, 3))), 'arguments', 'echo', 7),
    'unknown keyword': (pickle.dumps(a_job(k={'unknown': 2})), 'arguments', 'echo', 1),
}


@pytest.mark.parametrize(
    ('data', 'reason', 'function', 'email_id'), REFUSED.values(), ids=REFUSED.keys()
)
async def test_refused_job_is_counted_and_told_with_its_e_mail(
    redis: ArqRedis,
    make_worker: MakeWorker,
    data: bytes,
    reason: str,
    function: str | None,
    email_id: int | None,
) -> None:
    worker = make_worker()
    worker.subject_of = subject_of
    await redis.set(job_key_prefix + 'hostile', data)
    await redis.zadd(default_queue_name, {'hostile': 1})
    await poll(worker)
    assert worker.refused.counts == {reason: 1}
    (job,) = worker.refused.latest()
    assert (job['reason'], job['job_id'], job['function'], job['email_id']) == (
        reason,
        'hostile',
        function,
        email_id,
    )


async def test_job_whose_function_fails_is_not_a_refused_one(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    async def fails(_: Any, value: Any) -> None:
        raise TypeError(value)

    worker = make_worker(fails)
    await redis.enqueue_job('fails', 1)
    await poll(worker)
    assert worker.jobs_failed == 1
    assert worker.refused.counts == {}


async def test_job_that_ended_its_workers_is_set_aside(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    """As an e-mail is that lost three workers: the fourth does not begin it."""
    ran: list[int] = []

    async def deadly(_: Any) -> None:
        ran.append(1)

    job = await redis.enqueue_job('deadly')
    assert job is not None
    for begun in range(1, 4):  # claimed by a worker that is killed before it ends
        claims = await claim_jobs(redis, default_queue_name, 1, lock_s=30, aborts=False)
        assert [claim.starts for claim in claims.jobs] == [begun]
        await redis.delete(in_progress_key_prefix + job.job_id)
    worker = make_worker(deadly)
    await poll(worker)
    assert ran == []
    with pytest.raises(SerializationError, match='set aside'):
        await result_of(job)
    assert worker.refused.counts == {'set-aside': 1}
    assert not await redis.exists(STARTS_PREFIX + job.job_id)


async def test_job_that_ends_in_order_however_often_is_never_set_aside(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    tries: list[int] = []

    async def again(ctx: dict[str, Any]) -> str:
        tries.append(ctx['job_try'])
        if len(tries) < 10:
            raise Retry
        return 'done'

    worker = make_worker(again)
    job = await redis.enqueue_job('again')
    for _ in range(10):
        await poll(worker)
    assert await result_of(job) == 'done'
    assert not await redis.exists(STARTS_PREFIX + (job.job_id if job else ''))


async def test_forged_count_of_starts_does_not_end_the_worker(
    redis: ArqRedis, make_worker: MakeWorker
) -> None:
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await redis.set(STARTS_PREFIX + job.job_id, 'x')
    await poll(make_worker())
    assert await result_of(job) == 7


@pytest.mark.parametrize(
    ('member', 'score'),
    [(b'\xff\xfe', 1), ('infinitely old', float('-inf')), (b'', 1), ('x' * 100_000, 1)],
)
async def test_queue_entry_that_is_no_job_does_not_end_the_worker(
    redis: ArqRedis, make_worker: MakeWorker, member: Any, score: float
) -> None:
    worker = make_worker()
    await redis.zadd(default_queue_name, {member: score})
    job = await redis.enqueue_job('echo', 7)
    assert job is not None
    await poll(worker)
    assert await result_of(job) == 7
    assert free_slots(worker) == 3
