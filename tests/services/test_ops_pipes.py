"""Commands whose reader has gone, or never was: they end quietly."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import insert

SIGPIPE_STATUS = 141  # what a shell says of a program that a closed pipe has ended


def run_with(env, *words, stdout, stderr=subprocess.PIPE, closed=()):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    return subprocess.run(
        [sys.executable, '-m', 'ops', *words], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr, preexec_fn=close, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def nobody_reads():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    'words',
    [
        ['failed'], ['failed', '--json'], ['status'], ['doctor', '--json'], ['show', '1'],
        ['queue', 'ls'],
        ['inspect', 'scheduled'], ['top', '--once'], ['explain', '1'], ['--help'],
    ],
)  # fmt: skip
async def test_command_whose_reader_has_gone_ends_quietly(env, pool, nobody_reads, words):
    await insert(pool, status='failed')
    ended = await asyncio.to_thread(run_with, env, *words, stdout=nobody_reads)
    assert (ended.returncode, ended.stderr.decode()) == (SIGPIPE_STATUS, '')


async def test_events_whose_reader_has_gone_end_quietly_and_are_no_problem_with_redis(
    env, start_worker, nobody_reads, pool, redis
):
    await start_worker().started()
    listening = asyncio.create_task(
        asyncio.to_thread(run_with, env, 'events', '--json', stdout=nobody_reads)
    )

    async def has_ended_after_an_email():
        await redis.enqueue_job('send_email', await insert(pool))
        return listening.done()

    await wait_until(has_ended_after_an_email)
    ended = await listening
    assert (ended.returncode, ended.stderr.decode()) == (SIGPIPE_STATUS, '')


async def test_reader_of_both_outputs_that_has_gone_ends_the_command_quietly(env, nobody_reads):
    wrong = env | {'DATABASE_URL': 'postgresql://u@127.0.0.1:1/none', 'DB_CONNECT_TIMEOUT_S': '1'}
    ended = await asyncio.to_thread(
        run_with, wrong, 'failed', stdout=nobody_reads, stderr=nobody_reads
    )
    assert ended.returncode == SIGPIPE_STATUS


@pytest.mark.parametrize('closed', [(1,), (1, 2)])
async def test_command_without_an_output_ends_with_its_own_status(env, pool, closed):
    ended = await asyncio.to_thread(run_with, env, 'failed', stdout=None, closed=closed)
    assert (ended.returncode, ended.stderr.decode()) == (0, '')


async def test_change_whose_reader_has_gone_tells_on_stderr_what_it_did(env, pool, nobody_reads):
    email_id = await insert(pool, status='failed')
    ended = await asyncio.to_thread(
        run_with, env, 'retry', str(email_id), '--yes', stdout=nobody_reads
    )
    assert ended.returncode == SIGPIPE_STATUS
    assert '1 e-mail due now' in ended.stderr.decode()
    assert await pool.fetchval('SELECT action FROM mail_audit') == 'ops retry'
