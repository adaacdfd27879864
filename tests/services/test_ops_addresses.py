"""Addresses that pass for a setting's value, and that a driver cannot make sense of."""

import pytest

from ops.connect import Connections
from reporting.problems import ProblemError
from settings import Settings
from tests.services.ops_desk import run

BAD = {
    'DATABASE_URL': ('PostgreSQL', 'postgresql://u:geheim@a..b/mail'),
    'ARQ_REDIS_URL': ('Redis', 'redis://:geheim@127.0.0.1/1?max_connections=-1'),
    'MONGODB_URL': ('MongoDB', 'mongodb+srv://u:geheim@one.example.com:1'),
}


@pytest.mark.parametrize(
    ('variable', 'words'),
    [
        ('DATABASE_URL', ['status', '-t', '0.1']),
        ('DATABASE_URL', ['show', '1']),
        ('DATABASE_URL', ['import-celery', '--dry-run']),
        ('ARQ_REDIS_URL', ['queue', 'ls']),
        ('ARQ_REDIS_URL', ['import-celery', '--dry-run']),
        ('MONGODB_URL', ['inspect', 'report']),
    ],
)
async def test_address_that_makes_no_sense_is_told_by_its_variable_without_the_password(
    env, redis, variable, words
):
    service, url = BAD[variable]
    given = await run(env | {variable: url}, *words)
    assert given.exit_status == 1
    (problem,) = [problem for problem in given.problems if problem.service]
    assert (problem.service, problem.place) == (service, f'the address in {variable}')
    assert 'geheim' not in problem.line


@pytest.mark.parametrize(
    ('variable', 'check'), [('DATABASE_URL', 'postgresql'), ('ARQ_REDIS_URL', 'redis')]
)
async def test_doctor_tells_of_an_address_that_makes_no_sense(env, variable, check):
    service, url = BAD[variable]
    given = await run(env | {variable: url}, 'doctor', check)
    whats = [finding['what'] for finding in given.document['findings']]
    assert whats == [f'{service} at the address in {variable}: cannot be understood']


@pytest.mark.parametrize('host', ['a..b', 'a' * 70, '\u200b..', '[::1', '127.0.0.1:5', 'x?y'])
async def test_host_that_makes_no_sense_is_told_by_its_variable(host):
    connections = Connections(
        Settings(_env_file=None, database_url=None, db_host=host, db_password='geheim')
    )
    with pytest.raises(ProblemError) as told:
        await connections.ask_postgres(lambda pool: pool.fetchval('SELECT 1'))
    await connections.close()
    assert told.value.problem.line == (
        'PostgreSQL at the host in DB_HOST: is no name or address of a server; correct it'
    )
