"""Two applications, two PostgreSQL databases, one Redis database.

Told apart, told of, and not obeyed.
"""

import pytest

from db.identity import are_mixed, is_other, read_identity
from db.pools import create_postgres_pool
from delivery.activity import Neighbours
from fleet.neighbours import look_for_neighbours
from fleet.registry import read_workers
from jobs.send_email import send_email
from mail_outbox.outbox import queue_email
from tests.conftest import wait_until
from tests.services.ops_desk import closed_port, run
from tests.services.test_ops_status import register

FOREIGN = {'worker': 'shop@host:1', 'database': '00000000.11111111'}


@pytest.fixture
async def other_env(databases, env):
    name = await databases.take()
    yield env | {'DATABASE_URL': databases.dsn(name)}
    await databases.give_back(name)


@pytest.fixture
async def other_pool(other_env):
    pool = await create_postgres_pool(
        other_env['DATABASE_URL'],
        size=1,
        connect_timeout_s=20,
        command_timeout_s=20,
        application_name='tests',
    )
    yield pool
    pool.terminate()


async def registered(redis, number):
    workers = await read_workers(redis)
    return workers if len(workers) == number else None


async def test_database_has_one_identity_for_every_role_and_another_beside_another(
    pool, other_pool, database
):
    ours = await read_identity(pool)
    assert await read_identity(pool) == ours
    assert is_other(await read_identity(other_pool), ours)
    role = f'reader_{database.name}'
    await pool.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'geheim'")
    try:
        await pool.execute('REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC')
        as_reader = await create_postgres_pool(
            f'postgresql://{role}:geheim@{database.dsn.split("@")[1]}',
            size=1, connect_timeout_s=20, command_timeout_s=20, application_name='tests',
        )  # fmt: skip
        assert not is_other(await read_identity(as_reader), ours)
        as_reader.terminate()
    finally:
        await pool.execute('GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC')
        await pool.execute(f'DROP ROLE {role}')


async def test_schema_of_its_own_is_another_application(pool):
    ours = await read_identity(pool)
    async with pool.acquire() as conn:
        await conn.execute(
            'CREATE SCHEMA shop; CREATE TABLE shop.outbound_emails (id int); SET '
            'search_path TO shop'
        )
        try:
            assert is_other(await read_identity(conn), ours)
        finally:
            await conn.execute('DROP SCHEMA shop CASCADE; RESET search_path')


@pytest.mark.parametrize(
    ('one', 'another', 'expected'),
    [
        ('a.b', 'a.b', False),
        ('a.b', 'a.c', True),
        ('a.b', 'd.b', True),
        ('-.b', 'd.b', False),  # a role that may not ask for the cluster
        ('-.b', 'd.c', True),
        ('', 'a.b', None),  # a worker of an older version
        (None, 'a.b', None),
    ],
)
def test_identities_are_compared_as_far_as_they_are_known(one, another, expected):
    assert is_other(one, another) is expected
    assert are_mixed([one or '', another]) is bool(expected)


async def test_shutdown_reaches_only_the_workers_of_its_own_database(
    env, other_env, redis, start_worker
):
    ours = await start_worker(WORKER_NAME='ours').started()
    theirs = await start_worker(
        WORKER_NAME='theirs', DATABASE_URL=other_env['DATABASE_URL']
    ).started()
    await wait_until(lambda: registered(redis, 2))
    await wait_until(lambda: 'redis.shared' in theirs.log)
    given = await run(env, 'control', 'shutdown', '--yes')
    assert [done['worker'].partition('@')[0] for done in given.document['done']] == ['ours']
    assert await ours.ended() == 0
    assert theirs.process.poll() is None
    (left,) = await wait_until(lambda: registered(redis, 1))
    for words in (['-d', left.worker], ['-d', 'theirs*'], []):
        refused = await run(env, 'control', 'pause', '--yes', *words)
        assert (refused.exit_status, refused.document['done']) == (69, []), words
        assert 'of another PostgreSQL database' in refused.problems[0].what
    assert (await read_workers(redis))[0].state == 'running'
    done = await run(other_env, 'control', 'shutdown', '--yes')
    assert [reply['worker'] for reply in done.document['done']] == [left.worker]
    assert await theirs.ended() == 0


async def test_doctor_status_and_inspect_call_a_foreign_worker_an_error_and_name_it(
    env, redis, pool
):
    await register(redis, database=await read_identity(pool))
    await register(redis, **FOREIGN)
    for words in (['status'], ['inspect', 'registered'], ['top', '--once']):
        given = await run(env, *words, '-t', '0.1')
        (problem,) = [problem for problem in given.problems if problem.kind == 'foreign_worker']
        assert problem.what.startswith('1 worker (shop@host:1) of another PostgreSQL database')
        assert 'Redis database of its own' in problem.remedy
        assert given.exit_status == 1
        assert {w['worker']: w['foreign'] for w in given.document['workers']} == {
            'mail-7@host:42': False, 'shop@host:1': True
        }  # fmt: skip
    checked = await run(env, 'doctor', 'workers')
    assert [(row['severity'], row['what'][:22]) for row in checked.document['findings']] == [
        ('error', '1 worker (shop@host:1)')
    ]


async def test_only_foreign_workers_are_no_worker_of_ours(env, redis, pool):
    await register(redis, **FOREIGN)
    given = await run(env, 'status', '-t', '0.1')
    assert [problem.kind for problem in given.problems] == ['no_worker', 'foreign_worker']


async def test_workers_of_two_databases_are_told_even_while_postgresql_is_away(env, redis):
    away = env | {'DATABASE_URL': f'postgresql://mail@127.0.0.1:{closed_port()}/mail'}
    await register(redis, database='00000000.22222222')
    await register(redis, **FOREIGN)
    kinds = {problem.kind for problem in (await run(away, 'status', '-t', '0.1')).problems}
    assert 'foreign_worker' in kinds
    refused = await run(away, 'control', 'shutdown', '--yes')
    assert refused.problems[0].what.startswith('workers of several PostgreSQL databases are here')


async def test_workers_of_one_database_obey_while_postgresql_is_away(env, redis, start_worker):
    worker = await start_worker().started()
    await wait_until(lambda: registered(redis, 1))
    away = env | {'DATABASE_URL': f'postgresql://mail@127.0.0.1:{closed_port()}/mail'}
    assert len((await run(away, 'control', 'shutdown', '--yes')).document['done']) == 1
    assert await worker.ended() == 0


async def test_job_of_the_other_application_is_told_and_its_email_is_sent_by_its_own_sweep(
    ctx, runtime, redis, other_pool, other_env, start_worker, inbox, capfd
):
    await register(redis, **FOREIGN)
    runtime.activity.neighbours = Neighbours(await read_identity(runtime.stores.pool))
    await look_for_neighbours(redis, runtime.activity.neighbours)
    async with other_pool.acquire() as conn, conn.transaction():
        email_id = await queue_email(
            conn, recipient='theirs@example.com', subject='Hello', body_text='Hello.'
        )
    told = await send_email(ctx, email_id)
    assert (told['status'], told['state']) == ('not-claimable', None)
    assert 'another application' in told['reason']
    start_worker(DATABASE_URL=other_env['DATABASE_URL'])
    await wait_until(lambda: inbox.accepted('theirs@example.com'))
