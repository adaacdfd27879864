"""Ctrl-C in the middle of a long change: what is under way is finished, and told."""

import asyncio
import os
import signal
import sys

import pytest

from tests.conftest import ROOT, wait_until
from tests.services.ops_desk import insert, run

WAITS_FOR_A_ROW = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ops' AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def failed(pool):
    """1,600 failed e-mails: the second batch of 500 holds the one that somebody has locked."""
    first = await insert(pool, status='failed', attempts=1)
    await pool.execute(
        'INSERT INTO outbound_emails (recipient, subject, body_text, status, attempts) '
        "SELECT 'anna@example.com', 'Hello', 'Hello.', 'failed', 1 FROM generate_series(1, 1599)"
    )
    return first


@pytest.mark.parametrize(
    ('number', 'times'), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)]
)
async def test_interrupted_retry_ends_after_its_batch_and_says_what_was_done(
    env, pool, failed, number, times
):
    pipe = asyncio.subprocess.PIPE
    async with pool.acquire() as other:
        lock = other.transaction()
        await lock.start()
        await other.execute('SELECT 1 FROM outbound_emails WHERE id = $1 FOR UPDATE', failed + 700)
        command = await asyncio.create_subprocess_exec(
            sys.executable, '-m', 'ops', 'retry', '--status', 'failed', '--limit', '10000', '--yes',
            cwd=ROOT, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        await wait_until(lambda: pool.fetchval(WAITS_FOR_A_ROW))
        for _ in range(times):
            os.kill(command.pid, number)
            await asyncio.sleep(0.2)  # two signals at once are one
        await lock.rollback()
    out, err = (text.decode() for text in await command.communicate())
    assert (command.returncode, 'Traceback' in err) == (130, False), err
    due = await pool.fetchval("SELECT count(*) FROM outbound_emails WHERE status = 'pending'")
    if times == 1:
        assert (due, out.splitlines()[0][:20]) == (1000, '1000 e-mails due now')
        assert '600 more e-mails fit: run it again' in out
        assert 'ops retry: interrupted; run it again to go on\n' in err
        audited = await pool.fetchrow('SELECT action, problem FROM mail_audit')
        assert tuple(audited) == ('ops retry', 'interrupted')
    else:
        assert due in (500, 1000)


async def test_interrupted_purge_of_a_queue_says_how_many_jobs_are_gone(env, redis, monkeypatch):
    await redis.zadd('arq:queue', {f'job-{n}': n for n in range(2500)})
    monkeypatch.setattr('ops.progress.ProgressLine.__call__', lambda _, done, __: done < 1000)
    given = await run(env, 'purge', 'queue', '--queue', 'arq:queue', '--yes')
    assert (given.document['removed'], given.exit_status) == (1000, 130)
    assert await redis.zcard('arq:queue') == 1500
