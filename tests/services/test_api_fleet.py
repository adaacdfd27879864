"""Workers, queues and celery's inspect over HTTP, with a worker that runs."""

import time

import pytest

from actions.tokens import ApiScope, new_token
from tests.conftest import wait_until
from tests.services.api_desk import open_desk
from tests.services.gate import Gate, Way
from tests.services.ops_desk import as_document, closed_port, insert, run
from tests.services.test_ops_status import register

WORDS = ('active', 'scheduled', 'reserved', 'stats')


@pytest.fixture
async def desk(env):
    async with open_desk(env) as desk:
        yield desk


@pytest.fixture
async def reader(desk):
    return await desk.client(await desk.token('reader', [ApiScope.READ]))


async def test_workers_and_queues_are_there_with_a_worker(reader, start_worker, redis):
    await start_worker(WORKER_NAME='mail-1').started()

    async def workers():
        return (await reader.get('/api/workers')).json()['workers']

    (worker,) = await wait_until(workers)
    assert worker['worker'].startswith('mail-1')
    assert worker['foreign'] is False
    await redis.enqueue_job('send_email', 1, _queue_name='high_priority')
    answer = (await reader.get('/api/queues')).json()
    assert {q['name']: (q['ready'], q['served']) for q in answer['queues']} == {
        'arq:queue': (0, True),
        'high_priority': (1, False),
        'low_priority': (0, False),
    }
    assert ['nobody serves' in problem['what'] for problem in answer['problems']] == [True]


async def test_without_a_worker_that_is_said(reader):
    answer = (await reader.get('/api/workers')).json()
    assert answer['workers'] == []
    assert [problem['kind'] for problem in answer['problems']] == ['no_worker']


def timeless(part):
    """What was asked a moment later is a moment nearer."""
    if isinstance(part, list):
        return [{name: v for name, v in row.items() if name != 'due_in_s'} for row in part]
    return part


@pytest.mark.parametrize('word', WORDS)
async def test_inspect_is_the_answer_of_the_command(reader, env, pool, redis, word):
    await register(redis)
    await insert(pool, next_retry_at="sql:now() + interval '1 hour'")
    await redis.enqueue_job('send_email', 1, _defer_by=3600)
    answer = await reader.get(f'/api/inspect/{word}')
    assert answer.status_code == 200, answer.text
    command = as_document(await run(env, 'inspect', word, '-t', '1'))
    told = answer.json()
    assert told.keys() == command.keys() | {'problems'}
    for part in ('emails', 'jobs', 'hour', 'total'):
        if part in command:
            assert timeless(told[part]) == timeless(command[part])


async def test_inspect_names_some_workers_only(reader, redis):
    await register(redis)
    answer = await reader.get('/api/inspect/active', params={'worker': 'nobody@*'})
    assert any('known: mail-7' in problem['remedy'] for problem in answer.json()['problems'])


@pytest.mark.parametrize(
    'path', ['/api/inspect/revoked', '/api/inspect/active?limit=x', '/api/inspect/stats?d=mail']
)
async def test_inspect_refuses_other_words(reader, path):
    answer = await reader.get(path)
    assert (answer.status_code, answer.headers['content-type']) == (
        422,
        'application/problem+json',
    )


async def test_token_of_an_organisation_sees_no_workers(desk):
    client = await desk.client(await desk.token('seven', [ApiScope.READ], organization_id='7'))
    for path in ('/api/workers', '/api/queues', '/api/inspect/active'):
        answer = await client.get(path)
        assert answer.status_code == 403
        assert answer.json()['type'].endswith(':bound-to-organization')


async def test_hostile_record_of_a_worker_is_no_fault_of_ours(reader, redis):
    await register(redis, emails=[{'id': float('nan'), 'phase': '\ud800\x00\x1b[2J'}])
    for path in ('/api/workers', '/api/queues', *(f'/api/inspect/{word}' for word in WORDS)):
        answer = await reader.get(path)
        assert answer.status_code == 200, path
        answer.json()


PATHS = [
    ('GET', '/api/workers', {'redis'}),
    ('GET', '/api/queues', {'redis'}),
    ('GET', '/api/inspect/reserved', {'redis'}),
    ('GET', '/api/inspect/stats', set()),
    ('GET', '/api/emails', {'postgresql'}),
    ('GET', '/api/emails/1', {'postgresql'}),
    ('POST', '/api/emails/1/retry', {'postgresql'}),
    ('POST', '/admin/emails/1/retry', {'postgresql'}),
    ('POST', '/api/emails/1/cancel', {'postgresql'}),
]


@pytest.mark.parametrize('way', [Way.AWAY, Way.SILENT])
@pytest.mark.parametrize('gone', ['postgresql', 'redis'])
async def test_server_that_is_away_or_frozen_is_named_within_the_deadline(env, pool, gone, way):
    async with (
        Gate(env['DATABASE_URL']) as postgres,
        Gate(env['ARQ_REDIS_URL']) as redis,
        open_desk(env, deadline_s=1, postgres_dsn=postgres.url, redis_url=redis.url) as desk,
    ):
        client = await desk.client(await desk.token())
        await insert(pool, status='failed', attempts=1)
        assert (await client.get('/api/workers')).status_code == 200
        {'postgresql': postgres, 'redis': redis}[gone].turn(way)
        for method, path, needs in PATHS:
            began = time.monotonic()
            answer = await client.request(method, path)
            took = time.monotonic() - began
            if gone in needs:
                assert answer.status_code == 503, (path, answer.text)
                problem = answer.json()
                assert answer.headers['content-type'] == 'application/problem+json'
                assert {'postgresql': 'PostgreSQL', 'redis': 'Redis'}[gone] in problem['detail']
                assert 'loopback' not in answer.text  # the password
            else:
                assert answer.status_code in {200, 202, 409}, (path, answer.text)
            assert took < 10, (path, took)
        {'postgresql': postgres, 'redis': redis}[gone].turn(Way.OPEN)

        async def is_back():
            found = [
                (await client.get(path)).status_code for path in ('/api/workers', '/api/emails')
            ]
            return found == [200, 200]

        await wait_until(is_back)


async def test_nobody_home_is_503_before_a_token_is_looked_at(env):
    nobody = closed_port()
    async with open_desk(env, postgres_dsn=f'postgresql://x:geheim@127.0.0.1:{nobody}/x') as desk:
        client = await desk.client(new_token())
        answer = await client.get('/api/emails')
        assert (answer.status_code, 'geheim' in answer.text) == (503, False)
        assert answer.headers['retry-after']
