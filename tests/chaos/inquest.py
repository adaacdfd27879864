"""Why e-mails are not settled.

Their rows, and where every task of the workers waits, in a file beside the logs.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

import asyncpg

from tests.chaos.fleet import ROOT, Fleet

MAX_ROWS = 20
OPS_TIMEOUT_S = 30.0
# What an operator would look at, in this order.
COMMANDS = (('status',), ('inspect', 'active'), ('control', 'stacks'))
UNSETTLED = "(status IN ('pending', 'sending') OR (status <> 'sent' AND next_retry_at IS NOT NULL))"
ROWS_SQL = f"""
SELECT id, status, attempts, lost_attempts, last_error, claimed_by,
       extract(epoch FROM now() - created_at)::float8 AS age_s,
       extract(epoch FROM next_retry_at - now())::float8 AS due_in_s,
       extract(epoch FROM lease_expires_at - now())::float8 AS lease_left_s
FROM outbound_emails WHERE id = ANY($1::bigint[]) AND {UNSETTLED} ORDER BY id
"""


async def hold_inquest(pool: asyncpg.Pool, fleet: Fleet, ids: Sequence[int]) -> str:
    """Write down what is known.

    Returns a sentence with the numbers by state and the file's path.
    """
    rows = await pool.fetch(ROWS_SQL, ids)
    path = fleet.directory / 'unsettled.txt'
    parts = ['\n'.join(str(dict(row)) for row in rows[:MAX_ROWS])]
    parts += [await _ops(fleet, *command) for command in COMMANDS]
    await asyncio.to_thread(path.write_text, '\n\n'.join(parts))
    states = ', '.join(
        f'{count} {status}' for status, count in Counter(row['status'] for row in rows).items()
    )
    return f'{states or "none any more"}; see {path}'


async def _ops(fleet: Fleet, *words: str) -> str:
    """Return what `python -m ops` prints for these workers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, '-m', 'ops', *words),
        cwd=fleet.directory,
        env=fleet.environment | {'PYTHONPATH': str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(OPS_TIMEOUT_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        printed, _ = await process.communicate()
    return f'$ python -m ops {" ".join(words)}\n{printed.decode(errors="replace")}'
