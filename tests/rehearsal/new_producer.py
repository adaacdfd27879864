"""The application's producers as they are afterwards.

queue_email and a job, so many a second until stdin ends.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from pathlib import Path

import asyncpg
from arq import create_pool

from engine.redis_url import redis_settings
from mail_outbox.outbox import queue_email
from mail_outbox.wake import wake_workers

PER_S = 5.0
LEDGER = Path(os.environ['LEDGER'])


def note(**entry: object) -> None:
    """Append a line to the ledger, in one write."""
    with LEDGER.open('ab', buffering=0) as ledger:
        ledger.write(json.dumps({'at': time.time(), **entry}).encode() + b'\n')


async def main() -> None:
    """Queue until the end of standard input.

    What fails is an error that the application's users see.
    """
    pool = await asyncpg.create_pool(os.environ['DATABASE_URL'], min_size=1, max_size=2)
    redis = await create_pool(redis_settings(os.environ['ARQ_REDIS_URL']))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for number in itertools.count():
        if ended.done():
            break
        recipient = f'{os.environ["NAME"]}-new{os.getpid()}-{number}@example.com'
        try:
            async with pool.acquire() as conn, conn.transaction():
                email_id = await queue_email(
                    conn, recipient=recipient, subject='Mail of kind new', body_text='Hello.'
                )
            note(event='inserted', id=email_id, recipient=recipient, kind='new', not_before=None)
            await wake_workers(redis, pool, email_id)
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            note(
                event='application error',
                where='queue_email',
                error=f'{type(error).__name__}: {error}'[:400],
            )
        print(number, flush=True)  # noqa: T201 - a line a round
        await asyncio.sleep(1 / PER_S)
    await pool.close()
    await redis.aclose()


if __name__ == '__main__':
    asyncio.run(main())
