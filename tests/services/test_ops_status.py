import json

from fleet.registry import RECORD_PREFIX, WORKERS_KEY
from tests.conftest import wait_until
from tests.services.ops_desk import as_document, closed_port, insert, ops, rendered, run

IN_AN_HOUR = "sql:now() + interval '1 hour'"
AN_HOUR_AGO = "sql:now() - interval '1 hour'"
RECORD = {
    'worker': 'mail-7@host:42',
    'queue': 'arq:queue',
    'started_at': '2026-01-01T00:00:00+00:00',
    'emails': [{'id': 7}, {'id': 8}],
    'outcomes': {'accepted': 3},
    'rss_bytes': 64 * 2**20,
}


async def register(redis, **changed):
    record = RECORD | changed
    await redis.set(RECORD_PREFIX + record['worker'], json.dumps(record), px=60_000)
    await redis.zadd(WORKERS_KEY, {record['worker']: 1})


async def test_status_counts_the_outbox_in_disjoint_states(env, pool):
    await insert(pool)  # without a time: due
    await insert(pool, next_retry_at=AN_HOUR_AGO)
    await insert(pool, status='failed', attempts=1, next_retry_at="sql:now() - interval '10 s'")
    await insert(pool, next_retry_at=IN_AN_HOUR)
    await insert(pool, status='failed', attempts=1, next_retry_at=IN_AN_HOUR)
    await insert(pool, status='failed', attempts=1)
    await insert(pool, status='failed', attempts=5, max_attempts=5, next_retry_at=AN_HOUR_AGO)
    await insert(pool, status='uncertain', attempts=1, next_retry_at=IN_AN_HOUR)
    await insert(pool, status='uncertain', attempts=1)
    await insert(pool, next_retry_at=AN_HOUR_AGO, expires_at=AN_HOUR_AGO)
    await insert(pool, status='sending')
    await insert(pool, status='sending', lease_expires_at=AN_HOUR_AGO)
    await insert(pool, status='sent', sent_at='sql:now()')
    await insert(pool, status='expired')
    await pool.execute(
        'INSERT INTO email_attempts (email_id, started_at, attempt, worker, outcome, phase) VALUES '
        "(1, now(), 1, 'w', 'accepted', 'replied'), (2, now() - interval '2 hours', 1, 'w', "
        "'accepted', 'replied')"
    )
    outbox = (await run(env, 'status')).document['outbox']
    assert 3599 < outbox.pop('oldest_due_s') < 3700
    assert outbox == {
        'due': 3,
        'scheduled': 1,
        'sending': 1,
        'stuck': 1,
        'retrying': 1,
        'dead': 2,
        'uncertain': 1,
        'held': 1,
        'held_unsent': 0,
        'past_expiry': 1,
        'sent_last_hour': 1,
        'sent_in_part_last_day': 0,
        'counted_s': 0.0,
        'is_at_least': False,
    }


async def test_status_without_a_worker_ends_with_69_and_one_document(env, pool):
    await insert(pool)
    finished = await ops(env, 'status', '--json')
    assert finished.status == 69
    assert finished.document['workers'] == []
    assert finished.document['outbox']['due'] == 1
    assert [queue['name'] for queue in finished.document['queues']] == [
        'high_priority',
        'arq:queue',
        'low_priority',
    ]
    assert finished.err.splitlines() == [
        'ops status: no worker replied; start one with `arq worker.WorkerSettings`, or read its log'
    ]


async def test_status_of_a_real_worker_is_fine_until_it_stops(env, redis, start_worker):
    worker = await start_worker(WORKER_NAME='mail-7').started()

    async def registered():
        return await redis.zcard(WORKERS_KEY)

    await wait_until(registered)
    finished = await ops(env, 'status', '--json')
    assert (finished.status, finished.err) == (0, '')
    (seen,) = finished.document['workers']
    assert seen['worker'].startswith('mail-7@')
    assert seen['worker'].endswith(f':{worker.process.pid}')
    assert (seen['queue'], seen['emails']) == ('arq:queue', [])
    assert 2**20 < seen['rss_bytes'] < 2**31
    assert {queue['name']: queue['served'] for queue in finished.document['queues']} == {
        'arq:queue': True,
        'high_priority': False,
        'low_priority': False,
    }
    worker.stop()
    assert await redis.zcard(WORKERS_KEY) == 0
    assert (await run(env, 'status')).exit_status == 69


async def test_status_accepts_the_health_key_of_an_unregistered_worker(env, redis):
    await redis.set('arq:queue:health-check', b'Jan-01 00:00:00 j_complete=0', px=60_000)
    given = await run(env, 'status')
    assert given.exit_status == 0
    assert [queue['name'] for queue in given.document['queues'] if queue['served']] == ['arq:queue']


async def test_status_ignores_records_that_something_else_wrote(env, redis):
    for name, value in (('a', b'\xff{'), ('b', b'[]'), ('c', b'{"worker": 5}')):
        await redis.set(RECORD_PREFIX + name, value, px=60_000)
        await redis.zadd(WORKERS_KEY, {name: 1})
    assert (await run(env, 'status')).document['workers'] == []


async def test_status_names_each_problem_and_its_remedy(env, pool, redis):
    await register(redis)
    await redis.enqueue_job('send_email', 1, _queue_name='low_priority')
    await insert(pool, next_retry_at=AN_HOUR_AGO)
    await insert(pool, status='sending', lease_expires_at=AN_HOUR_AGO)
    await pool.execute(
        'INSERT INTO service_health (service_name, status, response_time_ms, error_message, '
        'checked_at) VALUES '
        "('mongodb', 'up', 1, NULL, now() - interval '2 minutes'), ('mongodb', 'down', 9, "
        "'refused', now())"
    )
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome, '
        'detail) VALUES '
        "('cleanup', now() - interval '2 hours', 'w', now(), now(), 'done', NULL), "
        "('cleanup', now() - interval '1 hour', 'w', now(), now(), 'error', "
        '\'{"error": "no table for anna@example.com"}\')'
    )
    given = await run(env, 'status')
    assert given.exit_status == 1
    assert [problem.what for problem in given.problems] == [
        'nobody serves the queue low_priority, which has 1 job',
        '1 e-mail is due, the first for 60 min',
        '1 e-mail is held by workers that are gone, and nobody takes them over',
        'cleanup failed: no table for ***@example.com',
        'mongodb is down: refused',
    ]
    assert given.problems[0].remedy == 'start `arq worker.LowPriority`'
    tables = rendered('status', given)
    assert 'mail-7@host:42' in tables
    assert '64 MiB' in tables
    assert 'low_priority' in tables


async def test_status_tells_details_as_json_and_times_as_iso_8601(env, pool, redis):
    working = {'id': 7, 'phase': 'data', 'relay': 'primary', 'started_at': 1.5}
    await register(
        redis,
        emails=[working],
        jobs=[{'job_id': 'a', 'started_at': 0}, {'job_id': 'b', 'started_at': 1e99}],
    )
    await pool.execute(
        'INSERT INTO cron_runs (duty, slot, worker, lease_expires_at, finished_at, outcome, '
        'detail) VALUES '
        "('cleanup', now(), 'w', now(), now(), 'done', '{\"affected\": 3}'), "
        "('sweep', now(), 'w', now(), now(), 'done', '{\"cut short')"
    )
    document = as_document(await run(env, 'status', '-t', '0.1'))
    assert [duty['detail'] for duty in document['duties']] == [{'affected': 3}, '{"cut short']
    (worker,) = document['workers']
    assert [email['started_at'] for email in worker['emails']] == [
        '1970-01-01T00:00:01.500000+00:00'
    ]
    assert [job['started_at'] for job in worker['jobs']] == ['1970-01-01T00:00:00+00:00', 1e99]


async def test_status_says_that_checks_have_stopped(env, pool, redis):
    await register(redis)
    await pool.execute(
        'INSERT INTO service_health (service_name, status, response_time_ms, checked_at) VALUES '
        "('mongodb', 'down', 1, now() - interval '10 minutes')"
    )
    given = await run(env, 'status')
    assert [problem.what for problem in given.problems] == ['services were last checked 10 min ago']


async def test_status_with_postgresql_away_still_shows_workers_and_queues(env, redis):
    await register(redis)
    port = closed_port()
    env |= {'DATABASE_URL': f'postgresql://mail:geheim@127.0.0.1:{port}/mail'}
    finished = await ops(env, 'status', '--json')
    assert finished.status == 1
    assert finished.document['workers'][0]['emails'] == [{'id': 7}, {'id': 8}]
    assert finished.document['outbox'] is None
    (problem,) = finished.document['troubles']
    assert (problem['service'], problem['place']) == ('PostgreSQL', f'127.0.0.1:{port}/mail')
    (line,) = finished.err.splitlines()
    assert line.startswith(f'ops status: PostgreSQL at 127.0.0.1:{port}/mail: does not answer: ')
    assert line.endswith('start it, or correct DB_HOST and DB_PORT, or DATABASE_URL')
    assert 'geheim' not in finished.out + finished.err
    assert 'mail-7@host:42' in rendered('status', await run(env, 'status'))


async def test_status_with_redis_away_shows_the_outbox_and_whom_postgresql_saw(env, pool):
    await insert(pool, status='sending')
    port = closed_port()
    env |= {'ARQ_REDIS_URL': f'redis://:geheim@127.0.0.1:{port}/1'}
    finished = await ops(env, 'status')
    assert finished.status == 1
    assert 'mail-7@host:42' in finished.out
    (line,) = finished.err.splitlines()
    assert line.startswith(f'ops status: Redis at 127.0.0.1:{port}/1: does not answer: ')
    assert 'geheim' not in finished.out + finished.err
    document = (await run(env, 'status')).document
    assert document['workers'] is None
    assert document['outbox']['sending'] == 1
    (seen,) = document['seen_workers']
    assert (seen['worker'], seen['sending'], seen['alive']) == ('mail-7@host:42', 1, True)


async def test_status_of_a_database_without_our_schema_names_the_remedy(env, empty_database, redis):
    await register(redis)
    given = await run(env | {'DATABASE_URL': empty_database.dsn}, 'status')
    assert given.exit_status == 1
    assert given.problems[0].remedy == 'run `python -m db.migrate`'
    assert given.document['workers'][0]['worker'] == 'mail-7@host:42'


async def test_remedies_name_the_page_of_the_desk_where_its_address_is_known(env, pool):
    email_id = await insert(pool, status='failed', attempts=1, dead_reason='rejected')
    known = env | {'WEB_PUBLIC_URL': 'https://ops.example.com/desk'}
    page = 'https://ops.example.com/desk/mail?status=dead'
    told = await ops(known, 'status', '-t', '0.2')
    assert f'or {page}' in ' '.join(told.err.split())
    checked = await ops(known, 'doctor', 'outbox', '--json')
    assert any(row['remedy'].endswith(page) for row in checked.document['findings'])
    explained = await ops(known, 'explain', str(email_id))
    assert f'At the desk: https://ops.example.com/desk/mail/{email_id}' in explained.out
    assert 'https://' not in (await ops(env, 'status', '-t', '0.2')).err
