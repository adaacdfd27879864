"""A job that ended every worker that began it.

Nobody begins it any more, and its e-mail is sent all the same.
"""

from functools import partial

from arq.constants import default_queue_name, in_progress_key_prefix

from engine.claimed_jobs import STARTS_PREFIX, claim_jobs
from engine.results import read_job
from tests.conftest import wait_until


async def _claimed(redis):
    claims = await claim_jobs(redis, default_queue_name, 1, lock_s=30, aborts=False)
    return claims.jobs


async def test_job_that_ended_three_workers_is_set_aside_and_its_e_mail_is_sent(
    redis, queue, start_worker, inbox
):
    email_id = await queue('deadly@example.com')
    job = await redis.enqueue_job('send_email', email_id)
    for begun in range(1, 4):
        # The producer's clock may round its millisecond up.
        claimed = await wait_until(partial(_claimed, redis))
        assert [(claim.id, claim.starts) for claim in claimed] == [(job.job_id, begun)]
        await redis.delete(in_progress_key_prefix + job.job_id)  # its lock is over
    worker = await start_worker().started()

    async def ended():
        state = await read_job(redis, job.job_id, [default_queue_name])
        return state if state.state == 'failed' else None

    state = await wait_until(ended, what='the job was not set aside')
    assert 'set aside: 3 workers began it' in state.result['message']
    assert f'job {job.job_id} is set aside' in worker.log
    assert not await redis.exists(STARTS_PREFIX + job.job_id)
    await wait_until(lambda: inbox.accepted('deadly@example.com'))
    assert len(inbox.accepted('deadly@example.com')) == 1


async def test_job_that_ends_leaves_no_count_of_its_starts(redis, queue, start_worker, inbox):
    email_id = await queue('ends@example.com')
    await start_worker().started()
    job = await redis.enqueue_job('send_email', email_id)
    await wait_until(lambda: inbox.accepted('ends@example.com'))
    assert (await job.result(timeout=60))['email_id'] == email_id
    assert [key async for key in redis.scan_iter(f'{STARTS_PREFIX}*{job.job_id}*')] == []
