import pickle
import subprocess
import sys

import pytest
from arq.constants import result_key_prefix
from arq.jobs import serialize_result

from actions.call import JOBS, queue_for
from engine.results import JobState
from engine.wire import serialize
from reporting.jobs import job_problems
from tests.conftest import ROOT
from tests.services.ops_desk import as_document, insert, rendered, run, statuses


def result(*, success=True, value=None, serializer=pickle.dumps, **more):
    told = {'function': 'send_email', 'args': (7,), 'kwargs': {}, 'job_try': 1,
        'enqueue_time_ms': 1_800_000_000_000,
            'success': success, 'result': value, 'start_ms': 1_800_000_001_000,
            'finished_ms': 1_800_000_002_000,
            'ref': 'x', 'queue_name': 'arq:queue', 'job_id': 'j'}  # fmt: skip
    return serialize_result(**told | more, serializer=serializer)


async def test_call_enqueues_what_a_plain_arq_producer_would(env, redis):
    await redis.set('arq:queue:health-check', b'1', px=60000)
    given = await run(env, 'call', 'send_email', '123', '--yes')
    assert (given.exit_status, given.document['arguments']) == (0, [123])
    (job,) = await redis.queued_jobs()
    assert (job.function, job.args, job.kwargs) == ('send_email', (123,), {})
    assert given.document['job_id'] in rendered('call', given)


async def test_call_queue_defer_by_and_dry_run(env, redis):
    dry = await run(env, 'call', 'send_email', '123', '--dry-run')
    assert 'Would put send_email 123 into arq:queue' in rendered('call', dry)
    assert await redis.keys('*') == []
    given = await run(env, 'call', 'make_report', '2026', '{"full": true}', 'all', '--queue',
        'reports',
                      '--defer-by', '2h', '--yes')  # fmt: skip
    assert (given.exit_status, given.problems[0].what) == (69, 'nobody serves the queue reports')
    (job,) = await redis.queued_jobs(queue_name='reports')
    assert (job.function, job.args) == ('make_report', (2026, {'full': True}, 'all'))
    looked = await run(env, 'result', given.document['job_id'])
    assert (looked.exit_status, looked.document['state'], looked.document['queue']) == (
        0,
        'deferred',
        'reports',
    )


async def test_call_waits_for_the_result_of_a_real_worker(env, pool, inbox, start_worker):
    email_id = await insert(pool, recipient='call@example.com')
    await start_worker().started()
    given = await run(env, 'call', 'send_email', str(email_id), '--wait', '20s', '--yes')
    assert given.exit_status == 0, given.problems
    assert given.document['job']['state'] == 'complete'
    assert given.document['job']['result']['email_id'] == email_id
    assert await statuses(pool) == {email_id: 'sent'}
    again = await run(env, 'result', given.document['job_id'])
    assert (again.exit_status, again.document['result']) == (0, given.document['job']['result'])
    assert again.document['kept_for_s'] > 3000


async def test_call_and_result_end_with_1_when_there_is_no_such_email_or_it_was_not_sent(
    env, pool, start_worker
):
    await start_worker().started()
    cancelled = await insert(pool, status='cancelled')
    for email_id, what in (
        (404, 'nothing was sent: there is no such e-mail'),
        (cancelled, 'the e-mail was not sent: cancelled'),
    ):
        given = await run(env, 'call', 'send_email', str(email_id), '--wait', '20s', '--yes')
        assert given.document['job']['state'] == 'complete', given.problems
        looked = await run(env, 'result', given.document['job_id'])
        for answer in (given, looked):
            assert (answer.exit_status, [problem.what for problem in answer.problems]) == (
                1,
                [what],
            )


@pytest.mark.parametrize(
    ('told', 'problems'),
    [
        ({'status': 'sent', 'attempts': 1}, []),
        ({'status': 'sent', 'attempts': 1, 'reason': 'already sent'}, []),
        ({'status': 'not-claimable', 'state': 'sending', 'reason': 'held by w'}, []),
        ({'status': 'not-claimable', 'state': 'pending', 'reason': 'not due for 5.0 s'}, []),
        ({'status': 'lease-lost', 'attempts': 1}, []),
        ({'status': 'failed', 'attempts': 1}, ['the e-mail is failed']),
        ({'status': 'uncertain', 'attempts': 1}, ['the e-mail is uncertain']),
        (
            {'status': 'not-claimable', 'state': 'failed', 'reason': 'dead'},
            ['the e-mail was not sent: dead'],
        ),
    ],
)
def test_result_of_an_email_is_problem_only_when_it_ended_unsent(told, problems):
    told = {'email_id': 7} | told
    assert [
        t.what for t in job_problems(JobState('j', 'complete', function='send_email', result=told))
    ] == problems
    assert job_problems(JobState('j', 'complete', function='make_report', result=told)) == []


async def test_call_without_a_worker_says_so_and_that_no_result_came(env):
    given = await run(env, 'call', 'cleanup_old_sessions', '--wait', '0s', '--yes')
    assert given.exit_status == 69
    assert [t.what for t in given.problems] == [
        'nobody serves the queue arq:queue',
        'no result within 0 s',
    ]


async def test_call_refuses_what_no_worker_could_run(env, redis):
    for arguments, what in (
        (('send_mail', '1'), "'send_mail' is no job of our workers"),
        (('send_email',), 'send_email takes 1 argument, not 0'),
        (('send_email', 'x'), "'x' is no id of an e-mail: a positive whole number"),
        (('make_report', 'x' * 600_000, '--queue', 'reports'), 'the arguments are too long'),
    ):
        given = await run(env, 'call', *arguments, '--yes')
        assert (given.exit_status, given.problems[0].what) == (2, what)
    assert await redis.keys('*') == []


def test_call_knows_exactly_the_jobs_our_workers_run(env):
    listing = 'import worker; print(*sorted(f.name for f in worker.WorkerSettings.functions))'
    told = subprocess.run(
        [sys.executable, '-c', listing],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == sorted(JOBS)


class Loaded:
    """Executes when somebody loads it."""

    def __reduce__(self):
        return print, ('loaded',)


async def test_result_reads_stock_results_and_loads_no_object(env, redis, capsys):
    stored = {
        'good': result(value={'sent': 1, 'k': (2, [b'b'])}),
        'bad': result(success=False, value=ValueError('no')),
        'evil': result(value=Loaded()),
        'ours': result(success=False, value=ValueError('no such relay'), serializer=serialize),
        'junk': b'\x80\x04junk',
        'no dict': pickle.dumps([1]),
    }
    for job_id, data in stored.items():
        await redis.psetex(result_key_prefix + job_id, 60_000, data)
    await redis.lpush(result_key_prefix + 'list', 'x')
    given = {job_id: await run(env, 'result', job_id) for job_id in (*stored, 'list', 'absent')}
    states = {
        job_id: (answer.exit_status, answer.document['state']) for job_id, answer in given.items()
    }
    assert states == {
        'good': (0, 'complete'), 'bad': (1, 'ended'), 'evil': (1, 'ended'), 'ours': (1, 'failed'),
        'junk': (1, 'ended'),
        'no dict': (1, 'ended'), 'list': (1, 'unknown'), 'absent': (1, 'unknown'),
    }  # fmt: skip
    assert as_document(given['good'])['result'] == {'sent': 1, 'k': [2, ["b'b'"]]}
    assert 'refused to load builtins.ValueError' in given['bad'].problems[0].what
    assert given['ours'].problems[0].what == 'the job failed: ValueError: no such relay'
    assert given['absent'].problems[0].what == 'there is no job absent'
    assert 'loaded' not in capsys.readouterr().out
    assert 'started at' in rendered('result', given['good'])


@pytest.mark.parametrize('job_id', ['\x1b[2J', 'x' * 10_000, 'ä', '*'])
async def test_result_takes_any_id(env, redis, job_id):
    assert (await run(env, 'result', job_id)).document['state'] == 'unknown'


@pytest.mark.parametrize(
    ('function', 'routed', 'queue'),
    [
        ('send_email', False, 'arq:queue'),
        ('send_email', True, 'high_priority'),
        ('retry_failed_email', True, 'high_priority'),
        ('cleanup_old_sessions', True, 'low_priority'),
    ],
)
def test_call_puts_a_job_where_the_workers_look_for_it(function, routed, queue):
    assert queue_for(function, routed=routed) == queue
