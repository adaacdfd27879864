"""Resend's own SDKs for Python and Node, unmodified, send through `python -m web` and a worker."""

import asyncio
import json
import os
import re
import shutil
import sys
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from mail_outbox.field_checks import PRIORITIES
from tests.conftest import ROOT, wait_until
from tests.node import INSTALL, NODE
from tests.services.ops_desk import ops
from tests.services.test_web_process import place_of, start_web
from web.api.resend import refusals
from web.api.resend.model import ClientEmail
from web.api.resend.moments import scheduled_moment
from web.api.resend.routes import router

__all__ = ['start_web']  # a fixture

SDKS = Path(__file__).with_name('sdks')
NAMES = {  # what went wrong -> status and name in both SDKs
    'strict': (422, 'validation_error'),
    'conflict': (409, 'invalid_idempotent_request'),
    'late': (422, 'validation_error'),
    'invalid': (422, 'validation_error'),
    'missing': (422, 'missing_required_field'),
    'unknown': (404, 'not_found'),
    'elsewhere': (404, 'not_found'),
    'stranger': (403, 'invalid_api_key'),
    'fetched': (422, 'invalid_attachment'),
}
# The classes that SDK for Python has for some of them.
KINDS = {
    'invalid': 'ValidationError',
    'missing': 'MissingRequiredFieldsError',
    'stranger': 'InvalidApiKeyError',
}


async def output_of(*command, env, cwd):
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, (out.decode(), err.decode())
    return out.decode()


@pytest.fixture(scope='session')
def node_modules(tmp_path_factory):
    """A directory with the SDK for Node, from the registry that npm has."""
    return tmp_path_factory.mktemp('node')


async def install_node_sdk(directory: Path) -> Path:
    if not (directory / 'node_modules/resend').exists():
        for name in ('package.json', 'package-lock.json'):
            shutil.copy(SDKS / name, directory)
        await output_of(*INSTALL, env=dict(os.environ), cwd=directory)
    return directory


async def exercise(language, env, directory):
    if language == 'python':
        command = (sys.executable, str(SDKS / 'exercise.py'))
        return json.loads(await output_of(*command, env=env, cwd=directory))
    await install_node_sdk(directory)
    shutil.copy(SDKS / 'exercise.mjs', directory)
    return json.loads(await output_of(NODE, 'exercise.mjs', env=env, cwd=directory))


async def client_env(env, place):
    """The environment of an application: where the API is, and its token."""
    created = await ops(env, 'token', 'create', 'shop', '--scope', 'send', '--json')
    kept = {name: env[name] for name in ('PATH', 'HOME', 'LANG') if name in env}
    return kept | {
        'RESEND_API_KEY': created.document['token'],
        'RESEND_API_URL': place,
        'RESEND_BASE_URL': place,
    }


def test_lock_of_the_sdk_for_node_names_no_registry():
    lock = json.loads((SDKS / 'package-lock.json').read_text())
    packages = {name: package for name, package in lock['packages'].items() if name}
    assert not [name for name, package in packages.items() if 'resolved' in package]
    assert all(package['integrity'].startswith('sha512-') for package in packages.values())


@pytest.mark.timeout(300)
@pytest.mark.parametrize('language', ['python', 'node'])
async def test_sdk_sends_looks_back_and_changes_its_mind(
    language, env, inbox, pool, node_modules, start_web, start_worker
):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    told = await exercise(language, await client_env(env, place), node_modules)
    assert {name: answer['error'] for name, answer in told.items() if name not in NAMES
            and isinstance(answer, dict) and answer.get('error')} == {}  # fmt: skip

    wrong = {name: told[name]['error'] for name in NAMES}
    assert {n: (int(e['statusCode']), e['name']) for n, e in wrong.items()} == NAMES
    if language == 'python':
        assert {name: wrong[name]['kind'] for name in KINDS} == KINDS
    data = {n: answer['data'] for n, answer in told.items() if n not in NAMES and n != 'later'}
    assert data['first'] == data['again']
    assert len({email['id'] for email in data['batch']['data']}) == 2
    assert [len(data['permissive'][part]) for part in ('data', 'errors')] == [1, 1]
    assert data['permissive']['errors'][0]['index'] == 1
    assert (
        data['updated'] == data['cancelled'] == {'object': 'email', 'id': data['scheduled']['id']}
    )
    assert (data['shown']['last_event'], data['shown']['scheduled_at'][:19]) == (
        'scheduled', told['later'][:19],
    )  # fmt: skip
    assert [len(data[page]['data']) for page in ('listed', 'next')] == [2, 2]
    assert data['listed']['has_more'] is True
    own = await pool.fetchrow(
        'SELECT priority, email_type FROM outbound_emails WHERE id = $1', int(data['own']['id'])
    )
    assert tuple(own) == (PRIORITIES['high'], 'receipt')
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 7

    await start_worker().started()
    await wait_until(lambda: len(inbox.accepted()) == 6)
    (entry,) = inbox.accepted('dora@example.com')
    assert sorted(entry['rcpt_to']) == [
        f'{name}@example.com' for name in ('anna', 'ben', 'carl', 'dora')
    ]
    message = message_from_bytes(inbox.message(entry), policy=policy.default)
    assert (message['From'], message['To'], message['Cc'], message['Bcc'], message['X-Order']) == (
        'Shop <noreply@example.com>', 'anna@example.com, Ben <ben@example.com>',
        'carl@example.com', None, '12',
    )  # fmt: skip
    parts = {part.get_filename(): part for part in message.walk() if part.get_filename()}
    assert parts['a.txt'].get_content() == f'from {language}'
    assert parts['logo.png']['Content-ID'] == '<logo>'
    assert parts['logo.png'].get_content() == b'\x89PNG'
    state = 'SELECT status FROM outbound_emails WHERE id = $1'
    sent_id = int(data['sent']['id'])

    async def is_sent():  # recorded a moment after the relay has it
        return await pool.fetchval(state, sent_id) == 'sent'

    await wait_until(is_sent)


# docs/api-sending.md begins with what people copy.

DOCUMENT = (ROOT / 'docs/api-sending.md').read_text()
START = dict(re.findall(r'^```(sh|python|js)\n(.*?)^```', DOCUMENT, re.MULTILINE | re.DOTALL)[:3])
PAGE = 'http://127.0.0.1:8625'


@pytest.mark.timeout(300)
async def test_start_of_the_document_can_be_copied(env, pool, node_modules, start_web, tmp_path):
    web = start_web(WEB_PORT='0')
    place = place_of(await web.hears('READY=1'))
    directory = await install_node_sdk(node_modules)
    (directory / 'start.mjs').write_text(START['js'])
    (tmp_path / 'start.py').write_text(START['python'])
    script = '\n'.join([
        'set -e', START['sh'].replace(PAGE, place), 'echo',
        f'python {tmp_path}/start.py', f'cd {directory}', 'node start.mjs',
    ])  # fmt: skip
    path = f'{Path(sys.executable).parent}:{Path(NODE).parent}:{os.environ["PATH"]}'
    told = await output_of('bash', '-c', script, env=env | {'PATH': path}, cwd=ROOT)
    assert told.splitlines() == ['{"id":"1"}', 'queued', 'queued']
    assert await pool.fetchval('SELECT count(*) FROM outbound_emails') == 3


def rows_of(heading):
    """Return the rows of a table of the document."""
    section = DOCUMENT.partition(f'## {heading}\n')[2].partition('\n## ')[0]
    lines = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


def test_tables_of_the_document_are_those_of_the_program():
    told = {name for row in rows_of('Errors') for name in re.findall(r'`(\w+)`', row[1])}
    names = {
        value for name, value in vars(refusals).items() if name.isupper() and isinstance(value, str)
    }
    assert told == names | {name for _, name in refusals.KNOWN.values()}
    paths = {
        f'{method} {route.path}'.replace('{email_id}', '{id}')
        for route in router.routes
        for method in route.methods
    }
    assert {re.match(r'`(.*?)`', row[0])[1] for row in rows_of('Paths')} == paths
    fields = DOCUMENT.partition('## Fields\n')[2].partition('\n| `scheduled_at`')[0]
    assert {name.rstrip('_') for name in ClientEmail.model_fields} <= set(
        re.findall(r'`(\w+)`', fields)
    )


@pytest.mark.parametrize(
    'text', [text for row in rows_of('Fields') for text in re.findall(r'`([^`]+)`', row[0])]
)
def test_moments_of_the_document_are_understood(text):
    if text not in {'at', 'scheduled_at', 'expires_at'}:
        assert scheduled_moment(text, datetime(2026, 12, 1, 12, tzinfo=UTC)).tzinfo
