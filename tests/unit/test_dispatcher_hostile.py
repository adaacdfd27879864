"""Jobs and queue entries that nobody in their right mind would write: recorded as failed, and the worker goes on."""

import pickle
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.constants import default_queue_name, job_key_prefix
from arq.jobs import Job, JobStatus, SerializationError

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


@pytest.mark.parametrize(
    ('member', 'score'), [(b'\xff\xfe', 1), ('infinitely old', float('-inf')), (b'', 1), ('x' * 100_000, 1)]
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
