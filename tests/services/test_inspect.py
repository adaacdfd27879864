"""reporting/inspect.py with a worker that runs: what celery's inspect gave, from Python."""

import pytest

from reporting.inspect import Inspect
from tests.conftest import DEADLINE_S, wait_until
from tests.services.ops_desk import closed_port, insert


@pytest.fixture
async def inspect(env):
    async with Inspect(env['DATABASE_URL'], env['ARQ_REDIS_URL'], timeout_s=DEADLINE_S) as inspect:
        yield inspect


async def test_every_word_of_celerys_inspect_is_answered(inspect, start_worker, pool, redis):
    await start_worker(WORKER_NAME='mail-1').started()

    async def pong():
        return (await inspect.ping()).document['replies']

    (reply,) = await wait_until(pong)
    assert reply['worker'].startswith('mail-1')
    email_id = await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    job = await redis.enqueue_job('send_email', email_id, _defer_by=3600)
    scheduled = (await inspect.scheduled()).document
    assert [email['id'] for email in scheduled['emails']] == [email_id]
    assert [j['job_id'] for j in scheduled['jobs']] == [job.job_id]
    for asking, part in (
        (inspect.active(), 'emails'), (inspect.reserved(), 'jobs'), (inspect.stats(), 'hour'),
        (inspect.registered(), 'workers'), (inspect.active_queues(), 'queues'),
    ):  # fmt: skip
        answer = await asking
        assert (answer.document[part] is not None, answer.problems) == (True, [])
    (found,) = (await inspect.query_task(job.job_id)).document['jobs']
    assert found['state'] == 'deferred'


async def test_destination_means_some_workers(env, start_worker):
    await start_worker(WORKER_NAME='mail-1').started()
    async with Inspect(
        env['DATABASE_URL'], env['ARQ_REDIS_URL'], destination=['nobody@*'], timeout_s=0.5
    ) as inspect:
        assert (await inspect.active()).document['workers'] == []


async def test_server_that_is_away_is_among_the_problems(env):
    nobody = f'redis://127.0.0.1:{closed_port()}/1'
    async with Inspect(env['DATABASE_URL'], nobody) as inspect:
        answer = await inspect.scheduled()
    assert answer.document['emails'] == []
    assert answer.document['jobs'] is None
    assert [problem.service for problem in answer.problems] == ['Redis']


async def test_other_words_are_refused(inspect):
    with pytest.raises(ValueError, match='none of ping, active'):
        await inspect.ask('revoked')
