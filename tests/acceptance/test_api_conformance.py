"""schemathesis against `python -m web` on real servers.

It asks what /openapi.json allows and what it does not, and holds every answer against it.
SCHEMATHESIS_EXAMPLES says how many times it asks each operation.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.services.ops_desk import insert, ops
from tests.services.test_web_process import WebProcess, place_of

EXAMPLES = os.environ.get('SCHEMATHESIS_EXAMPLES', '15')
STATES = [
    {},
    {'status': 'sending'},
    {'status': 'sent', 'sent_at': 'sql:now()'},
    {'status': 'failed', 'attempts': 5, 'dead_reason': 'rejected'},
    {'status': 'failed', 'attempts': 1, 'next_retry_at': "sql:now() + interval '1 hour'"},
    {'status': 'uncertain', 'attempts': 1},
    {'status': 'held'},
    {'status': 'expired'},
    {'status': 'cancelled'},
]


# It asks without a token again and again, and wants to hear 401 each time.
PATIENT = """
from web.api import access
access.MOST_REFUSALS = 10**9
from web.__main__ import main
raise SystemExit(main())
"""


# Of what is described and refused, conformance_hooks says why; and a permissive batch is answered
# 200 whatever is wrong in it.
CONFIG = """
[[operations]]
include-path-regex = "^/(emails|api/suppressions)"
[operations.checks.positive_data_acceptance]
enabled = false

[[operations]]
include-path = "/emails/batch"
[operations.checks.negative_data_rejection]
enabled = false
[operations.checks.positive_data_acceptance]
enabled = false
"""


@pytest.fixture
def web(env, tmp_path):
    web = WebProcess(env | {'WEB_PORT': '0'}, tmp_path, ('-c', PATIENT))
    yield web
    web.stop()


@pytest.mark.timeout(900)
async def test_every_answer_is_as_described_whatever_is_asked(env, pool, web, tmp_path):
    for _ in range(5):
        for columns in STATES:
            await insert(pool, **columns)
    token = await ops(env, 'token', 'create', 'fuzz', '--scope', 'send,read,operate', '--json')
    place = place_of(await web.hears('READY=1'))
    (tmp_path / 'schemathesis.toml').write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name('st'), 'run', f'{place}/openapi.json',
        '-H', f'Authorization: Bearer {token.document["token"]}',
        '--max-examples', EXAMPLES, '--seed', '7', '--max-response-time', '6',
        '--continue-on-failure', '--request-timeout', '20',
        cwd=tmp_path,
        env=env | {
            'NO_COLOR': '1', 'COLUMNS': '160',
            'PYTHONPATH': str(Path(__file__).parent), 'SCHEMATHESIS_HOOKS': 'conformance_hooks',
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()[-20_000:]
    assert 'Traceback' not in web.log_path.read_text()
