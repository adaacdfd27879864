"""docs/api.md: its start is carried out against a real server, its tables are those of the API."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from actions import known_tokens
from dev.openapi import describe
from tests.conftest import ROOT
from tests.services.ops_desk import as_document, insert, run, statuses
from tests.services.test_web_process import place_of, start_web
from web.api import access, emails, fields, many
from web.api.application import LARGEST_BODY_BYTES
from web.api.problem import BY_STATUS
from web.api.servers import DEADLINE_S

__all__ = ['start_web']  # a fixture

DOCUMENT = (ROOT / 'docs/api.md').read_text()
(START,) = re.findall(r'^## Start\n\n```sh\n(.*?)^```', DOCUMENT, re.MULTILINE | re.DOTALL)
RUNBOOK = (ROOT / 'docs/runbook.md').read_text()
(CURL,) = re.findall(r'^(curl -X POST \S+/admin/emails/123/retry .*?)\s+#', RUNBOOK, re.MULTILINE)
PAGE = 'http://127.0.0.1:8625'


async def in_a_shell(env, lines):
    """Carry lines out as who copies them; each one's output."""
    script = '\n'.join(f'{line}\necho; echo "--- $?"' for line in lines)
    process = await asyncio.create_subprocess_exec(
        'bash', '-c', script, cwd=ROOT,
        env=env | {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    parts = re.split(r'--- (\d+)\n', out.decode())
    assert set(parts[1::2]) == {'0'}, (out.decode(), err.decode())
    return [part.strip() for part in parts[:-1:2]], err.decode()


async def test_start_can_be_copied(env, pool, start_web):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    email_id = await insert(pool, status='failed', attempts=5, dead_reason='rejected')
    text = START.replace(PAGE, place).replace('/202', f'/{email_id}')
    told, _ = await in_a_shell(env, text.splitlines())
    token, place_said, listed, one, retried, many_said, active = told
    assert (token, place_said) == ('', '')
    assert [email['id'] for email in json.loads(listed)['emails']] == [email_id]
    assert json.loads(one)['explanation']['because']
    assert json.loads(retried)['status'] == 'pending'
    assert json.loads(many_said)['dry_run'] is True
    assert json.loads(active)['inspect'] == 'active'
    assert await statuses(pool) == {email_id: 'pending'}


async def test_curl_of_the_runbook_retries_an_email(env, pool, start_web):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    email_id = await insert(pool, status='failed', attempts=5)
    created = await run(env, 'token', 'create', 'me', '--scope', 'operate')
    line = CURL.replace(PAGE, place).replace('/123/', f'/{email_id}/')
    (told,), _ = await in_a_shell(env | {'TOKEN': as_document(created)['token']}, [line])
    assert json.loads(told)['status'] == 'pending'


def of_operating(path):
    return path.startswith(('/api/', '/admin/'))


def test_table_has_every_path_of_the_api():
    told = set(re.findall(r'^\| `(\w+) (/\S+)` \| \w+ \|', DOCUMENT, re.MULTILINE))
    assert told == {
        (method.upper(), path)
        for path, operations in describe()['paths'].items()
        for method in operations
        if of_operating(path)
    }


def test_every_condition_is_in_the_document():
    for name in emails.EmailQuery.model_fields:
        assert f'`{name}`' in DOCUMENT, name
    for name in many.RetryMany.model_fields:
        assert f'`{name}`' in DOCUMENT, name


def test_table_of_errors_has_every_kind():
    told = {
        (int(status), kind)
        for status, kinds in re.findall(r'^\| (\d{3}) \| (.*?) \|', DOCUMENT, re.MULTILINE)
        for kind in re.findall(r'`([\w-]+)`', kinds)
    }
    sources = '\n'.join(path.read_text() for path in (ROOT / 'web/api').glob('*.py'))
    kinds = set(re.findall(r"HTTPStatus\.\w+,\s+'([\w-]+)'", sources))
    kinds |= {kind for kind, *_ in BY_STATUS.values()} | set(
        re.findall(r"'(not-\w+able)'", sources)
    )
    assert {kind for _, kind in told} == kinds


@pytest.mark.parametrize(
    'told',
    [
        f'| body | {LARGEST_BODY_BYTES // 1024} KiB |',
        f'{access.MOST_REFUSALS} a minute',
        f'{access.MOST_REFUSALS} requests without a good token within a minute',
        f'| answer of PostgreSQL or Redis | {DEADLINE_S:g} s, then 503 |',
        f'within {known_tokens.FRESH_S:g} s everywhere',
        f'at most {many.MOST:,}',
        f'`limit` up to {fields.LARGEST_PAGE}',
    ],
)
def test_numbers_are_those_of_the_program(told):
    assert told in DOCUMENT
