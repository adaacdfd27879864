import json

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix

from fleet.registry import RECORD_PREFIX, WORKERS_KEY
from tests.services.ops_desk import closed_port, insert, ops, rendered, run

RECORD = {
    'worker': 'mail-7@host:42',
    'queue': 'arq:queue',
    'started_at': '2026-01-01T00:00:00+00:00',
    'emails': [{'id': 7, 'phase': 'data', 'relay': 'primary', 'started_at': 1.0}],
    'outcomes': {'accepted': 3, 'deferred': 1},
    'rss_bytes': 2**26,
}


async def register(redis):
    await redis.set(RECORD_PREFIX + RECORD['worker'], json.dumps(RECORD), px=60_000)
    await redis.zadd(WORKERS_KEY, {RECORD['worker']: 1})


async def test_inspect_active_shows_what_is_being_sent(env, pool, redis):
    await register(redis)
    await insert(pool, status='sent', sent_at='sql:now()')
    second = await insert(pool, status='sending', email_type='receipt', attempts=2, relay='backup')
    first = await insert(
        pool, status='sending', claimed_at="sql:now() - interval '90 s'", claimed_by='mail-8@host:1'
    )
    given = await run(env, 'inspect', 'active')
    assert given.exit_status == 0
    oldest, newest = given.document['emails']
    assert (oldest['id'], oldest['worker']) == (first, 'mail-8@host:1')
    assert 90 <= oldest['claimed_s'] < 120
    assert (newest['id'], newest['worker'], newest['email_type']) == (
        second,
        'mail-7@host:42',
        'receipt',
    )
    assert (newest['last_relay'], newest['attempt'], newest['max_attempts']) == ('backup', 2, 5)
    assert 0 < newest['lease_ends_in_s'] <= 20
    assert '2 of 5' in rendered('inspect', given)


async def test_inspect_active_without_postgresql_shows_what_the_workers_say(env, redis):
    await register(redis)
    given = await run(
        env | {'DATABASE_URL': f'postgresql://127.0.0.1:{closed_port()}/mail'}, 'inspect', 'active'
    )
    assert given.exit_status == 1
    assert [problem.service for problem in given.problems] == ['PostgreSQL']
    (email,) = given.document['emails']
    assert (email['id'], email['worker'], email['phase'], email['relay']) == (
        7,
        'mail-7@host:42',
        'data',
        'primary',
    )
    assert 'mail-7@host:42' in rendered('inspect', given)


async def test_inspect_scheduled_lists_rows_and_deferred_jobs_by_time(env, pool, redis):
    await register(redis)
    await insert(pool)
    await insert(pool, status='failed', attempts=5, next_retry_at="sql:now() + interval '1 minute'")
    late = await insert(pool, next_retry_at="sql:now() + interval '2 hours'")
    soon = await insert(
        pool, status='failed', attempts=2, next_retry_at="sql:now() + interval '1 hour'"
    )
    await redis.enqueue_job('send_email', late, _job_id='late', _defer_by=7200)
    await redis.enqueue_job(
        'send_email', soon, _job_id='soon', _defer_by=3600, _queue_name='high_priority'
    )
    await redis.enqueue_job('cleanup_old_sessions', _job_id='now')
    given = await run(env, 'inspect', 'scheduled')
    assert given.exit_status == 0
    assert [(e['id'], e['status'], e['attempts']) for e in given.document['emails']] == [
        (soon, 'failed', 2),
        (late, 'pending', 0),
    ]
    assert [
        (j['job_id'], j['queue'], j['function'], j['email_id']) for j in given.document['jobs']
    ] == [
        ('soon', 'high_priority', 'send_email', soon),
        ('late', 'arq:queue', 'send_email', late),
    ]
    assert 3590 < given.document['emails'][0]['due_in_s'] <= 3600
    limited = (await run(env, 'inspect', 'scheduled', '--limit', '1')).document
    assert (limited['total'], [e['id'] for e in limited['emails']]) == (2, [soon])


async def test_inspect_reserved_shows_locked_jobs_and_refuses_foreign_pickles(env, redis):
    await register(redis)
    await redis.enqueue_job('send_email', 42, _job_id='mail')
    await redis.enqueue_job('send_email', 43, _job_id='waits')
    await redis.zadd('arq:queue', {'evil': 1000, 'gone': 2000})
    await redis.set(job_key_prefix + 'evil', b"cos\nsystem\n(S'false'\ntR.")
    for job_id in ('mail', 'evil', 'gone', 'cron:ended'):
        await redis.psetex(in_progress_key_prefix + job_id, 30000, b'1')
    given = await run(env, 'inspect', 'reserved')
    evil, gone, mail = given.document['jobs']
    assert evil['function'] is None
    assert 'refused to load os.system' in evil['problem']
    assert gone['problem'] == 'its body is gone'
    assert (mail['job_id'], mail['function'], mail['email_id'], mail['queue']) == (
        'mail',
        'send_email',
        42,
        'arq:queue',
    )
    assert 5 < mail['lock_ends_in_s'] <= 30
    assert 'refused to load' in rendered('inspect', given)


async def test_inspect_stats_counts_rates_over_hour_and_day_per_worker(env, pool, redis):
    await register(redis)
    attempts = [
        ('w1', 'accepted', 5), ('w1', 'accepted', 6), ('w1', 'accepted', 7),
        ('w1', 'deferred', 8), ('w1', 'released', 9),
        ('w2', 'rejected', 120), ('w2', 'accepted', 2000),
    ]  # fmt: skip
    for number, (worker, outcome, minutes_ago) in enumerate(attempts):
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) '
            "VALUES ($1, now() - $2 * interval '1 minute', 1, $3, $4, 'replied')",
            number, minutes_ago, worker, outcome,
        )  # fmt: skip
    given = await run(env, 'inspect', 'stats')
    hour, day = given.document['hour'], given.document['day']
    assert (hour['attempts'], hour['accepted'], hour['released'], hour['success_rate']) == (
        4,
        3,
        1,
        0.75,
    )
    assert (day['attempts'], day['rejected'], day['success_rate'], day['failure_rate']) == (
        5,
        1,
        0.6,
        0.4,
    )
    first, second = given.document['by_worker']
    assert (first['worker'], first['hour']['attempts'], first['day']['attempts']) == ('w1', 4, 4)
    assert (second['worker'], second['hour']['success_rate'], second['day']['failure_rate']) == (
        'w2',
        None,
        1.0,
    )
    assert given.document['workers'][0]['outcomes'] == {'accepted': 3, 'deferred': 1}
    assert '75.0%' in rendered('inspect', given)


async def test_inspect_active_queues_names_queues_nobody_serves(env, redis):
    await register(redis)
    await redis.enqueue_job('send_email', 1)
    await redis.enqueue_job('send_email', 2, _queue_name='high_priority')
    given = await run(env, 'inspect', 'active_queues')
    assert given.exit_status == 1
    assert [problem.what for problem in given.problems] == [
        'nobody serves the queue high_priority, which has 1 job'
    ]
    assert {queue['name']: queue['served'] for queue in given.document['queues']} == {
        'high_priority': False, 'arq:queue': True, 'low_priority': False
    }  # fmt: skip
    assert 'mail-7@host:42' in rendered('inspect', given)


async def test_inspect_without_a_worker_still_answers_and_ends_with_69(env, pool):
    email_id = await insert(pool, status='sending')
    finished = await ops(env, 'inspect', 'active', '--json')
    assert finished.status == 69
    assert [email['id'] for email in finished.document['emails']] == [email_id]
    assert finished.document['troubles'][0]['what'] == 'no worker replied'


async def test_inspect_with_redis_away_ends_with_1_and_says_so_once(env, pool):
    email_id = await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    port = closed_port()
    given = await run(
        env | {'ARQ_REDIS_URL': f'redis://127.0.0.1:{port}/1'}, 'inspect', 'scheduled'
    )
    assert given.exit_status == 1
    assert [email['id'] for email in given.document['emails']] == [email_id]
    assert 'Scheduled e-mails (1 of 1)' in rendered('inspect', given)
    (problem,) = given.problems
    assert problem.line.startswith(f'Redis at 127.0.0.1:{port}/1: does not answer: ')


@pytest.mark.parametrize('word', ['active', 'reserved', 'stats'])
async def test_inspect_of_one_worker_leaves_out_the_others(env, pool, redis, word):
    await register(redis)
    other = RECORD | {
        'worker': 'mail-8@host:1',
        'emails': [],
        'jobs': [{'job_id': 'theirs', 'started_at': 1.0}],
    }
    await redis.set(RECORD_PREFIX + other['worker'], json.dumps(other), px=60_000)
    await redis.zadd(WORKERS_KEY, {other['worker']: 1})
    for worker in (RECORD['worker'], other['worker']):
        email_id = await insert(pool, status='sending', claimed_by=worker)
        await pool.execute(
            'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) '
            "VALUES ($1, now(), 1, $2, 'accepted', 'replied')",
            email_id, worker,
        )  # fmt: skip
    await redis.enqueue_job('send_email', 42, _job_id='theirs')
    await redis.psetex(in_progress_key_prefix + 'theirs', 30000, b'1')
    part = {'active': 'emails', 'reserved': 'jobs', 'stats': 'by_worker'}[word]
    one = await run(env, 'inspect', word, '-d', 'mail-8@*', '-t', '0.1')
    assert [row['worker'] for row in one.document[part]] == ['mail-8@host:1']
    assert [worker['worker'] for worker in one.document['workers']] == ['mail-8@host:1']
    assert one.exit_status == 0
    if word == 'stats':
        assert one.document['hour']['attempts'] == 1
    for name in ('nobody', 'no*'):
        none = await run(env, 'inspect', word, '-d', name, '-t', '0.1')
        assert (none.exit_status, none.document[part]) == (69, [])
        assert [problem.what for problem in none.problems] == ['no worker of that name replied']
        assert 'mail-7@host:42' in none.problems[0].remedy


async def test_inspect_refuses_a_worker_where_it_means_nothing(env, redis):
    for words in (('scheduled',), ('query_task', 'a')):
        given = await run(env, 'inspect', *words, '-d', 'mail-7@*')
        assert (given.exit_status, given.problems[0].what) == (2, f'{words[0]} is of no worker')
