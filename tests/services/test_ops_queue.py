import time

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix

from engine.queues import read_queues
from fleet.queued_jobs import purge_queue
from tests.services.ops_desk import Typed, rendered, run


@pytest.fixture
def env(redis):
    """Redis alone: nothing here needs PostgreSQL."""
    nowhere = {'DATABASE_URL': 'postgresql://127.0.0.1:1/x', 'MONGODB_URL': 'mongodb://127.0.0.1:1'}
    options = redis.connection_pool.connection_kwargs
    url = (
        f'redis://:{options["password"] or ""}@{options["host"]}:{options["port"]}/{options["db"]}'
    )
    return nowhere | {'ARQ_REDIS_URL': url, 'MONGODB_DATABASE': 'x'}


async def enqueue(redis, count, *, queue='arq:queue', defer_s=None, since_s=0, prefix='job'):
    for i in range(count):
        await redis.enqueue_job(
            'send_email', i, _job_id=f'{prefix}-{i}', _queue_name=queue, _defer_by=defer_s
        )
        if since_s:
            await redis.zincrby(queue, -since_s * 1000 - i, f'{prefix}-{i}')


async def lock(redis, *job_ids):
    for job_id in job_ids:
        await redis.psetex(in_progress_key_prefix + job_id, 60000, b'1')
        await redis.incr(retry_key_prefix + job_id)


async def states(redis):
    return {state.name: state for state in await read_queues(redis)}


async def test_queue_ls_subtracts_running_jobs_from_ready_and_deferred(env, redis):
    await enqueue(redis, 5, since_s=60)
    await enqueue(redis, 3, defer_s=3600, prefix='later')
    await lock(redis, 'job-4', 'job-0', 'later-1')
    await lock(redis, 'cron:ended')  # arq keeps a cron job's lock for a minute after its end
    given = await run(env, 'queue', 'ls')
    assert given.exit_status == 1  # nobody serves them
    queues = {queue['name']: queue for queue in given.document['queues']}
    state = queues['arq:queue']
    assert (state['ready'], state['deferred'], state['running'], state['served']) == (
        3,
        2,
        3,
        False,
    )
    assert 60 <= state['oldest_ready_s'] < 90
    assert (queues['high_priority']['ready'], queues['high_priority']['oldest_ready_s']) == (
        0,
        None,
    )
    assert 'arq:queue' in rendered('queue', given)


async def test_queue_ls_oldest_is_the_first_job_that_does_not_run(redis):
    await enqueue(redis, 1, since_s=600, prefix='running')
    await enqueue(redis, 1, since_s=30, prefix='waiting')
    await lock(redis, 'running-0')
    assert 30 <= (await states(redis))['arq:queue'].oldest_ready_s < 60


async def test_queue_ls_finds_queues_of_others_and_no_other_sorted_sets(redis):
    await enqueue(redis, 2, queue='reports')
    await redis.zadd('leaderboard', {'anna': 5, 'ben': 7})
    await redis.zadd('arq:abort', {'job-0': 1})
    await redis.zadd('mail:workers', {'mail-7@host:42': time.time()})
    assert list(await states(redis)) == ['high_priority', 'arq:queue', 'low_priority', 'reports']


async def test_queue_ls_of_empty_queues_is_fine(env):
    given = await run(env, 'queue', 'ls')
    assert given.exit_status == 0
    assert given.document == {
        'queues': [
            {
                'name': name, 'ready': 0, 'deferred': 0, 'running': 0, 'oldest_ready_s': None,
                'problem': None,
                'served': False,
            }
            for name in ('high_priority', 'arq:queue', 'low_priority')
        ]
    }  # fmt: skip


async def test_purge_queue_removes_waiting_jobs_with_their_bodies_and_no_running_ones(env, redis):
    await enqueue(redis, 4)
    await enqueue(redis, 2, defer_s=3600, prefix='later')
    await enqueue(redis, 1, queue='high_priority', prefix='high')
    await enqueue(redis, 1, queue='reports', prefix='other')
    await redis.set('arq:result:job-9', b'kept')
    await redis.incr(retry_key_prefix + 'job-3')
    await lock(redis, 'job-1')
    given = await run(env, 'purge', 'queue', '--yes')
    assert (given.exit_status, given.document['removed']) == (0, 6)
    told = rendered('purge', given)
    assert 'Removed 6 jobs. The mail they were about stays due: the next sweep sends it.' in told
    assert await redis.zrange('arq:queue', 0, -1) == [b'job-1']
    assert await redis.zcard('high_priority') == 0
    assert sorted(await redis.keys('arq:*')) == [
        b'arq:in-progress:job-1',
        b'arq:job:job-1',
        b'arq:job:other-0',
        b'arq:queue',
        b'arq:result:job-9',
        b'arq:retry:job-1',
    ]


async def test_purge_queue_of_one_name_leaves_the_others(env, redis):
    await enqueue(redis, 2)
    await enqueue(redis, 3, queue='reports', prefix='other')
    given = await run(env, 'purge', 'queue', '--queue', 'reports', '--yes')
    assert (given.exit_status, given.document['removed']) == (0, 3)
    assert given.document['queues'] == [{'name': 'reports', 'removed': 3, 'running': 0}]
    assert await redis.zcard('arq:queue') == 2


@pytest.mark.parametrize('name', ['leaderboard', 'absent', 'text'])
async def test_purge_queue_refuses_what_is_no_queue(env, redis, name):
    await redis.zadd('leaderboard', {'anna': 5})
    await redis.set('text', 'hello')
    given = await run(env, 'purge', 'queue', '--queue', name, '--yes')
    assert (given.exit_status, given.document) == (2, {})
    assert given.problems[0].what == f'{name!r} is no queue'
    assert await redis.zcard('leaderboard') == 1


async def test_purge_queue_dry_run_counts_and_removes_nothing(env, redis):
    await enqueue(redis, 3)
    await lock(redis, 'job-2')
    given = await run(env, 'purge', 'queue', '--dry-run')
    assert given.exit_status == 0
    assert (given.document['dry_run'], given.document['would_remove']) == (True, 2)
    assert 'Would remove 2 jobs.' in rendered('purge', given)
    assert await redis.zcard('arq:queue') == 3


async def test_purge_queue_names_the_jobs_that_no_sweep_brings_back(
    env, redis, monkeypatch, capsys
):
    await enqueue(redis, 2)
    await redis.enqueue_job('cleanup_old_sessions', _job_id='sessions')
    dry = await run(env, 'purge', 'queue', '--dry-run')
    assert dry.document['other_functions'] == {'cleanup_old_sessions': 1}
    assert 'which nothing brings back: 1 cleanup_old_sessions.' in rendered('purge', dry)
    monkeypatch.setattr('ops.arguments.sys.stdin', Typed('n\n'))
    await run(env, 'purge', 'queue')
    assert 'which nothing brings back: 1 cleanup_old_sessions.' in capsys.readouterr().err


async def test_queue_ls_and_purge_survive_a_key_that_is_no_queue(env, redis):
    await redis.lpush('high_priority', 'what Celery left')
    await enqueue(redis, 1)
    given = await run(env, 'queue', 'ls', '--queue', 'high_priority')
    assert [problem.what for problem in given.problems] == [
        "the key 'high_priority' is a list, not a queue of arq"
    ]
    assert (await run(env, 'purge', 'queue', '--yes')).document['removed'] == 1
    refused = await run(env, 'purge', 'queue', '--queue', 'high_priority', '--yes')
    assert refused.problems[0].what == "the key 'high_priority' is a list, not a queue of arq"
    assert await redis.llen('high_priority') == 1


async def test_queue_peek_lists_jobs_in_order_with_state_and_e_mail(env, redis):
    await enqueue(redis, 2, since_s=60)
    await enqueue(redis, 1, defer_s=3600, prefix='later')
    await lock(redis, 'job-0')
    given = await run(env, 'queue', 'peek')
    jobs = given.document['jobs']
    assert {j['job_id']: (j['state'], j['email_id'], j['tries']) for j in jobs} == {
        'job-0': ('running', 0, 1),
        'job-1': ('ready', 1, 0),
        'later-0': ('deferred', 0, 0),
    }
    assert jobs[-1]['job_id'] == 'later-0'
    (running,) = [job for job in jobs if job['state'] == 'running']
    assert 50 < running['lock_ends_in_s'] <= 60
    assert jobs[0]['body_bytes'] > 20
    told = rendered('queue', given)
    assert 'Jobs (3 of 3)' in told
    assert 'send_email' in told
    assert len((await run(env, 'queue', 'peek', '--limit', '1')).document['jobs']) == 1
    for what in ('ls', 'peek'):
        refused = await run(env, 'queue', what, '--queue', 'nope')
        assert (refused.exit_status, refused.problems[0].what) == (2, "'nope' is no queue")


async def test_queue_peek_survives_any_junk_under_any_key(env, redis):
    await redis.zadd('arq:queue', {
        'pickle': 1000, 'list': 2000, b'\xff\xfe': 3000, 'never': float('inf'),
        'always': float('-inf'), 'far': 1e300,
        'gone': 4000, 'tried': 5000, 'evil\x1b[2J': 6000,
    })  # fmt: skip
    await redis.set(job_key_prefix + 'pickle', b"cos\nsystem\n(S'false'\ntR.")
    await redis.lpush(job_key_prefix + 'list', 'x')
    await redis.set(job_key_prefix + 'tried', b'\x80')
    await redis.set(retry_key_prefix + 'tried', b'many')
    await redis.hset(in_progress_key_prefix + 'tried', 'a', 'b')
    given = await run(env, 'queue', 'peek', '--queue', 'arq:queue')
    jobs = {job['job_id']: job for job in given.document['jobs']}
    assert len(jobs) == 9
    assert 'refused to load os.system' in jobs['pickle']['problem']
    assert jobs['list']['problem'].startswith('its body cannot be read: WRONGTYPE')
    assert jobs['gone']['problem'] == 'its body is gone'
    assert (jobs['tried']['tries'], jobs['tried']['state'], jobs['tried']['lock_ends_in_s']) == (
        0,
        'running',
        None,
    )
    assert jobs['never']['wanted_at'].year == jobs['far']['wanted_at'].year == 9999
    assert jobs['always']['wanted_at'].year == 1970
    assert '\\xff\\xfe' in jobs
    assert '\x1b' not in rendered('queue', given)
    assert (await run(env, 'queue', 'ls')).document['queues'][1]['ready'] == 6


async def test_purge_queue_goes_on_over_batches_and_past_running_jobs(redis):
    async with redis.pipeline() as pipe:
        for i in range(2500):
            pipe.zadd('arq:queue', {f'{i:05}': 1000 + i})
            pipe.set(f'{job_key_prefix}{i:05}', b'x')
        await pipe.execute()
    await lock(redis, '00000', '01500', '02499')
    purged = await purge_queue(redis, 'arq:queue')
    assert (purged.removed, purged.running) == (2497, 3)
    assert await redis.zrange('arq:queue', 0, -1) == [b'00000', b'01500', b'02499']
    assert len(await redis.keys(job_key_prefix + '*')) == 3


@pytest.mark.parametrize(
    ('typed', 'left'), [('y\n', 0), ('YES\n', 0), ('\n', 1), ('nope\n', 1), ('', 1)]
)
async def test_purge_asks_at_a_terminal_and_only_yes_is_yes(
    env, redis, monkeypatch, capsys, typed, left
):
    monkeypatch.setattr('ops.arguments.sys.stdin', Typed(typed))
    await enqueue(redis, 1)
    given = await run(env, 'purge', 'queue')
    assert await redis.zcard('arq:queue') == left
    assert given.exit_status == (1 if left else 0)
    asked = capsys.readouterr()
    assert (
        asked.err
        == 'Remove 1 job from high_priority, arq:queue, low_priority? The mail stays due. [y/N] '
    )
    assert asked.out == ''


async def test_purge_queue_with_redis_away_says_where_it_looked(env):
    given = await run(env | {'ARQ_REDIS_URL': 'redis://127.0.0.1:1/1'}, 'purge', 'queue', '--yes')
    assert given.exit_status == 1
    assert given.problems[0].line.startswith('Redis at 127.0.0.1:1/1: does not answer: ')
