import asyncio
import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ('decision', 'status', 'dead_reason'),
    [('sent', 'sent', None), ('failed', 'failed', 'given up')],
)
async def test_resolve_decides_about_uncertain_mail_only(
    env, pool, queue, row, decision, status, dead_reason
):
    uncertain, sent = await queue(), await queue()
    await pool.execute(
        "UPDATE outbound_emails SET status = 'uncertain', next_retry_at = NULL WHERE id = $1",
        uncertain,
    )
    await pool.execute(
        "UPDATE outbound_emails SET status = 'sent', sent_at = now() WHERE id = $1", sent
    )
    ended = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            '-m',
            'ops',
            'resolve',
            str(uncertain),
            str(sent),
            '--as',
            decision,
            '--yes',
            '--json',
        ],
        env=env,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr  # one could not be changed
    document = json.loads(ended.stdout)
    assert document['resolved'] == [uncertain]
    assert document['unchanged'] == [{'id': sent, 'reason': 'it is sent'}]
    stored = await row(uncertain)
    assert (stored['status'], stored['dead_reason'], stored['next_retry_at']) == (
        status,
        dead_reason,
        None,
    )
