"""docs/application.md: its start is carried out as it stands, its tables have all there is."""

import ast
import asyncio
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from delivery.not_claimable import REASONS
from mail_outbox.django import WAKES, OutboxSettings
from mail_outbox.states import Status
from mail_outbox.validation import NAMES
from mail_outbox.wake import CHANNEL
from tests.conftest import ROOT, wait_until

DOCUMENT = (ROOT / 'docs/application.md').read_text()
SHELL, PYTHON = (
    re.findall(rf'```{name}\n(.*?)```', DOCUMENT, re.DOTALL) for name in ('sh', 'python')
)


def section(title: str) -> str:
    found = re.search(
        rf'^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)', DOCUMENT, re.DOTALL | re.MULTILINE
    )
    assert found, title
    return found[1]


async def test_start_prints_sent(
    env: dict[str, str], tmp_path: Path, start_worker: Any, inbox: Any
) -> None:
    servers, worker, application, *_ = SHELL
    assert servers == 'make up\n'
    assert worker.splitlines()[1] == '.venv/bin/arq worker.WorkerSettings'
    # What `make up` installs has that program.
    assert 'up: $(VENV)/.stack ' in (ROOT / 'Makefile').read_text()
    assert '\narq==' in (ROOT / 'requirements-stack.txt').read_text()
    await start_worker().started()
    directory = tmp_path / 'app'
    directory.mkdir()
    (directory / 'first.py').write_text(PYTHON[0])
    variables = tmp_path / '.env'
    variables.write_text(
        ''.join(f'{name}={shlex.quote(value)}\n' for name, value in env.items() if name != 'PATH')
    )
    script = application.replace('/tmp/app', str(directory)).replace('./.env', str(variables))
    process = await asyncio.create_subprocess_exec(
        'bash', '-e', '-c', script,
        cwd=ROOT, env={'PATH': env['PATH'], 'HOME': env['HOME']},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode().splitlines()[-1].startswith('sent '), out.decode() + err.decode()
    await wait_until(lambda: inbox.accepted('anna@example.com'))


@pytest.mark.parametrize('block', PYTHON)
def test_every_block_is_python(block: str) -> None:
    compile(block, 'application.md', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_name_that_is_imported_is_there() -> None:
    for block in PYTHON:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith('mail_outbox'):
                names = ', '.join(alias.name for alias in node.names)
                exec(f'from {node.module} import {names}')


def first_column(text: str) -> set[str]:
    rows = re.findall(r'^\| (.*?) \|', text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r'`(\w+)`', row)}


def test_table_of_arguments_has_them_all() -> None:
    assert first_column(section('What queue_email takes')) == NAMES


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    named = re.findall(r'\[([\w,]+)\]\'', DOCUMENT)
    assert named
    rows = re.findall(r'^\| .*? \| (.*?) \|', section('Your connection'), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r'`(\w+)`', row)}
    assert told | {name for text in named for name in text.split(',')} <= set(
        project['optional-dependencies']
    )


def test_channel_and_settings_are_named() -> None:
    assert f'`{CHANNEL}`' in section('Waking the workers')
    django = section('Django')
    assert first_column(django) == {name.upper() for name in OutboxSettings.__slots__}
    assert set(WAKES) <= set(re.findall(r'`(\w+)`', django))


def test_every_answer_of_a_job_is_told() -> None:
    told = section('What became of it')
    for status in (*Status, 'lease-lost', 'not-claimable'):
        assert re.search(rf"'{status}'|`{status}`", told), status
    assert REASONS.keys() <= set(re.findall(r'`(\w+)`', told))
