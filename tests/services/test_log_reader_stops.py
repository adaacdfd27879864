"""A worker whose log nobody reads any more sends on, keeps its leases, tells what it dropped, and
stops when asked.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from fleet.registry import read_workers
from tests.conftest import DEADLINE_S, ROOT, wait_until


async def test_worker_with_a_full_log_pipe_sends_everything_once_and_stops_in_order(
    env, pool, redis, queue, inbox
):
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    os.write(writing, b'x' * size)  # full before its first line
    os.set_blocking(writing, True)
    program = Path(sys.executable).with_name('arq')
    process = await asyncio.create_subprocess_exec(
        program, 'worker.WorkerSettings', cwd=ROOT, env=env, stdout=writing, stderr=writing
    )
    os.close(writing)
    try:
        ids = [await queue(f'user{n}@example.com') for n in range(40)]
        for email_id in ids:
            await redis.enqueue_job('send_email', email_id)

        async def all_sent():
            return await pool.fetchval(
                "SELECT count(*) FROM outbound_emails WHERE status = 'sent'"
            ) == len(ids)

        await wait_until(all_sent)
        counted = Counter(entry['rcpt_to'][0] for entry in inbox.accepted())
        assert counted == {f'user{n}@example.com': 1 for n in range(40)}
        assert await pool.fetchval('SELECT max(attempts) FROM outbound_emails') == 1
        await wait_until(lambda: read_workers(redis))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(reading)
